"""Commands that are interrupted or killed once they have begun: first at work, then at any moment,
the same in each run.

The environment variable CODELLAMA_MOMENTS says how many moments to try of each row (1).
"""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import commands
import pytest
from random_checkpoint import Shape, random_checkpoint

from codellama import load_model

MOMENTS = range(int(os.environ.get("CODELLAMA_MOMENTS", 1)))
MODEL = {"dim": 32, "n_layers": 1, "n_heads": 2, "multiple_of": 32, "vocab_size": 400}
STAGE = {
    "name": "all",
    "tokens": 4_000,
    "sequence": 32,
    "batch_tokens": 64,
    "learning_rate": 1e-3,
    "save_steps": 20,
}
LONG = ("--max_new_tokens", 100_000)
COMMANDS = {
    "generate": ("generate", "--ckpt", "CHECKPOINT", "--prompt", "def f(x):", *LONG),
    "plain": ("generate", "--plain", "--ckpt", "CHECKPOINT", "--prompt", "def f(x):", *LONG),
    "batch": ("generate", "--json", "--num_samples", 4, "--prompt", "def", *LONG),
    "convert": ("convert", "--src", "CHECKPOINT", "--dst", "new", "--to", "hf"),
    "round": ("convert", "--src", "CHECKPOINT", "--dst", "new", "--to", "int4"),
    "train": ("train", "--recipe", "recipe.json", "--out", "new", "--device", "cpu"),
    "evaluate": ("evaluate", "perplexity", "--ckpt", "CHECKPOINT", "--data", "data"),
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A checkpoint of some 300 MB, whose conversion takes a while."""
    directory = tmp_path_factory.mktemp("large")
    random_checkpoint(Shape(str(directory), dim=1024, n_layers=6, n_heads=8, n_kv_heads=8))
    return directory


@pytest.fixture
def start(large, tmp_path):
    """Starts a row of `COMMANDS` in a directory of its own."""
    (tmp_path / "recipe.json").write_text(
        json.dumps({"model": MODEL, "data": ["data"], "stages": [STAGE]})
    )
    (tmp_path / "data").mkdir()
    source = commands.ROOT / "codellama"
    for path in [*source.glob("inference/*.py"), *source.glob("weights/*.py")]:
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())

    def begin(row: str, *more: object) -> subprocess.Popen:
        name, *options = COMMANDS[row]
        options = [large if option == "CHECKPOINT" else option for option in options]
        return commands.start(name, *options, *more, cwd=tmp_path)

    return begin


def wait(process: subprocess.Popen, row: str, moment: int, directory: Path | None = None) -> None:
    """Waits until a command is at work in a directory; or, if none is given, and at all moments but
    the first, until it has begun, and for a random time."""
    while not catches(process, signal.SIGTERM):  # which is the first that a command does
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    if moment or directory is None or row == "evaluate":
        time.sleep(random.Random(f"{row} {moment}").uniform(0.0, 4.0))
    elif row in ("generate", "plain", "batch"):
        while b"parameters in" not in (line := process.stderr.readline()):
            assert line, "it was done before"
    else:
        pattern = "new/log.jsonl" if row == "train" else "*.part"
        while not list(directory.glob(pattern)):
            assert process.poll() is None, "it was done before"
            time.sleep(0.01)
        time.sleep(0.05)


def catches(process: subprocess.Popen, number: int) -> bool:
    """Whether a process has a handler for a signal (Linux)."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except FileNotFoundError:
        return False
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


QUICK = [("generate", signal.SIGINT), ("convert", signal.SIGTERM), ("train", signal.SIGINT)]
SIGNALS = [(row, number) for row in COMMANDS for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize(
    ("row", "number"),
    [pytest.param(*one, marks=[pytest.mark.slow] * (one not in QUICK)) for one in SIGNALS],
)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_ends_a_command_quietly_and_leaves_nothing_half_written(
    start, tmp_path, row, number, moment
):
    process = start(row)
    wait(process, row, moment, tmp_path)
    process.send_signal(number)
    errors = process.communicate(timeout=120)[1].decode()
    assert process.returncode in (0, 128 + number), errors
    assert "Traceback" not in errors and "rror" not in errors
    check_what_is_left(row, tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def check_what_is_left(row: str, directory) -> None:
    new = directory / "new"
    if row in ("convert", "round") and new.exists():
        load_model(new, "cpu")
    if row == "train" and (new / "model").exists():
        load_model(new / "model", "cpu")


@pytest.mark.parametrize("row", [pytest.param("convert", marks=pytest.mark.slow), "round"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_conversion_leaves_a_whole_directory_or_none(start, tmp_path, row, moment):
    process = start(row)
    wait(process, row, moment, tmp_path)
    process.kill()
    process.communicate()
    check_what_is_left(row, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_training_killed_again_and_again_ends_with_the_losses_of_one_run(start, tmp_path, moment):
    whole = start("train")
    assert whole.wait(timeout=300) == 0
    expected = (tmp_path / "new" / "log.jsonl").read_text().splitlines()
    (tmp_path / "new").rename(tmp_path / "whole")
    for attempt in range(2):
        process = start("train", *["--resume"] * (tmp_path / "new").exists())
        wait(process, f"train {attempt}", moment)
        process.kill()
        process.communicate()
    process = start("train", *["--resume"] * (tmp_path / "new").exists())
    errors = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, errors
    log = (tmp_path / "new" / "log.jsonl").read_text().splitlines()
    assert losses(log) == losses(expected)
    weights = [tmp_path / run / "model" / "consolidated.00.pth" for run in ("whole", "new")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def losses(log: list[str]) -> list[tuple]:
    records = map(json.loads, log)
    return [(record["step"], record["loss"], record.get("validation_loss")) for record in records]
