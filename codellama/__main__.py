"""Lists the commands: `python -m codellama`."""

import sys

from codellama.benchmark import benchmark
from codellama.cli import run
from codellama.convert import convert
from codellama.describe import describe
from codellama.evaluate import evaluate
from codellama.generate import generate
from codellama.train import train

COMMANDS = (generate, describe, convert, benchmark, train)

if __name__ == "__main__":
    sys.argv = ["codellama", *(sys.argv[1:] or ["--help"])]
    run({command.__name__: command for command in COMMANDS} | {"evaluate": evaluate})
