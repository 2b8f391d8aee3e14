"""Calls an example as the package calls its commands, with one value in front of the options."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import NoReturn

from codellama.cli import run


def run_example(example: Callable[..., None]) -> NoReturn:
    """As `codellama.cli.run`; a first word that is no option is the value of the first one."""
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        sys.argv.insert(1, f"--{next(iter(inspect.signature(example).parameters))}")
    run(example)
