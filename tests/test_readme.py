"""Every command of the README runs as typed, with small models where it names large ones."""

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import commands
import pytest

from codellama.training import recipe

README = (commands.ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
COMMANDS = [line for line in LINES if line and not line.startswith("pip install")]
PROBLEM = {
    "task_id": "HumanEval/0",
    "prompt": "def one():\n",
    "canonical_solution": "    return 1\n",
    "test": "def check(candidate):\n    assert candidate() == 1\n",
    "entry_point": "one",
}


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="module")
def directory(checkpoint, tmp_path_factory) -> Path:
    """A directory with all that the README's commands name."""
    directory = tmp_path_factory.mktemp("readme")
    names = set(re.findall(r"CodeLlama-\w+(?:-Instruct)?", " ".join(COMMANDS)))
    for name in names - {"CodeLlama-7b-hf", "CodeLlama-7b-int4"}:  # which its commands make
        shutil.copytree(checkpoint, directory / name)
    edit(directory / "CodeLlama-34b" / "params.json", max_seq_len=32)  # torchrun stops there
    shutil.copytree(recipe.PACKAGED, directory / "recipes")
    model = {"dim": 32, "n_layers": 1, "n_heads": 2, "multiple_of": 32, "vocab_size": 400}
    edit(directory / "recipes" / "paper.json", model=model)
    (directory / "module.py").write_text("import os\n<FILL_ME>\n")
    shutil.copytree(commands.ROOT / "codellama" / "model", directory / "my_code")
    with gzip.open(directory / "HumanEval.jsonl.gz", "wt") as file:
        print(json.dumps(PROBLEM), file=file)
    return directory


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_runs(directory, monkeypatch, line):
    monkeypatch.setattr("codellama.training.run.VOCABULARY_BYTES", 200_000)
    monkeypatch.setattr("codellama.training.run.HELD_OUT_TOKENS", 1_024)
    monkeypatch.setattr("codellama.training.packing.PART_BYTES", 200_000)
    monkeypatch.setattr(recipe, "PACKAGED", directory / "recipes")
    monkeypatch.chdir(directory)
    words = shlex.split(line.replace("$'", "'").partition(" > ")[0], comments=True)
    if words[:2] == ["python", "-m"]:
        done = commands.run(words[2].removeprefix("codellama."), *words[3:])
    else:
        assert words[0] == "torchrun"
        launcher = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        done = subprocess.run(launcher, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_readmes_python_runs(directory, monkeypatch):
    monkeypatch.chdir(directory)
    [block] = [block for kind, block in BLOCKS if kind == "python"]
    names = {}
    exec(block, names)
    assert names["logits"].shape[:2] == (1, 3)


def test_the_first_command_prints_what_the_readme_shows():
    [shown] = re.findall(r"```\n\$ (.*?)```", README, re.DOTALL)
    command, *lines = shown.splitlines()
    words = shlex.split(command)
    done = commands.run("generate", *words[3:])
    assert "\n".join(lines) in done.stdout
