"""A directory that a training run fills, and can be resumed from.

RUN/recipe.json       what was asked for
RUN/tokenizer.model
RUN/state.pt          the newest state: weights, optimiser, place in the data
RUN/log.jsonl         a line a step
RUN/stage1, stage2    checkpoints in Meta's format, each made when its stage is done
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from codellama.errors import DataError
from codellama.text.tokenizer import TOKENIZER

RECIPE = "recipe.json"
STATE = "state.pt"
LOG = "log.jsonl"
LOGGED = {"stage", "step", "tokens", "loss"}


def check_free(run: Path) -> None:
    """Raises DataError if a directory holds more than a run that failed before its first step."""
    if run.exists() and {path.name for path in run.iterdir()} - {RECIPE, TOKENIZER}:
        raise DataError(f"{run} exists; choose a new directory, or resume the run in it")


def write_beside(path: Path, content: bytes) -> None:
    """Replaces a file in one go: a reader finds the old one or the new one, whole."""
    with _beside(path) as beside:
        beside.write_bytes(content)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` once all is written."""
    beside = path.with_name(path.name + ".part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def save_state(run: Path, state: dict[str, Any]) -> None:
    """Replaces the state that the run resumes from.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        with _beside(run / STATE) as beside:
            torch.save(state, beside)
    except RuntimeError:  # what torch makes of a full disk
        raise DataError(
            f"{run / STATE} cannot be written; make room on the disk and resume the run"
        ) from None


def load_state(run: Path) -> dict[str, Any] | None:
    """The newest state; None before the first.

    Raises:
        DataError: the file is damaged.
    """
    path = run / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the bytes make of the reader
        state = None
    if not isinstance(state, dict):
        raise damaged_state(run)
    return state


def damaged_state(run: Path) -> DataError:
    """What to raise where a state holds something other than a run's."""
    return DataError(f"{run / STATE} is damaged; start a new run")


def append_log(run: Path, record: dict[str, Any]) -> None:
    """Adds the record of a step, which holds all of `LOGGED`."""
    with (run / LOG).open("a") as log:
        print(json.dumps(record), file=log)


def read_log(run: Path) -> list[dict[str, Any]]:
    """One record a step: stage, step, tokens, loss, learning rate, seconds.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = run / LOG
    if not path.is_file():
        raise DataError(f"{path} is missing; expected the directory of a training run")
    *lines, _ = path.read_bytes().split(b"\n")  # a stopped process may have left half a line
    try:
        records = [json.loads(line) for line in lines]
        if all(record.keys() >= LOGGED for record in records):
            return records
    except (AttributeError, ValueError):
        pass
    raise DataError(f"{path} is damaged; expected a step of the run in every line")


def cut_log(run: Path, stage: str, step: int) -> None:
    """Drops what a run has logged of a stage after the step that it resumes from."""
    if not (run / LOG).exists():
        return
    records = [
        record for record in read_log(run) if record["stage"] != stage or record["step"] <= step
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_beside(run / LOG, lines.encode())
