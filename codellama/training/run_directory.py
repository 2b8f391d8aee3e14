"""A directory that a training run fills, and can be resumed from.

RUN/recipe.json       what was asked for
RUN/tokenizer.model
RUN/state.pt          the newest state: weights, optimiser, place in the data
RUN/state-000123      the same after so many steps, where several processes hold it
RUN/log.jsonl         a line a step
RUN/model             the checkpoint in Meta's format, made at the end
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from codellama.errors import DataError
from codellama.text.tokenizer import TOKENIZER
from codellama.training.recipe import Recipe, difference, read_recipe
from codellama.training.trainer import Trainer

RECIPE = "recipe.json"
STATE = "state.pt"
LOG = "log.jsonl"
MODEL = "model"
LOGGED = {"stage", "step", "tokens", "loss"}


def check_free(run: Path) -> None:
    """Raises DataError if a directory holds more than a run that failed before its first step."""
    if run.exists() and {path.name for path in run.iterdir()} - {RECIPE, TOKENIZER}:
        raise DataError(f"{run} exists; choose a new directory, or resume the run in it")


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` in one go once all is written."""
    beside = path.with_name(path.name + ".part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def check_recipe(run: Path, asked: Recipe) -> None:
    """Raises DataError if a directory holds no run, or one of another recipe."""
    if not (run / RECIPE).is_file():
        raise DataError(f"{run} holds no run to resume; start one")
    saved = read_recipe(str(run / RECIPE))
    if changes := difference(replace(saved, about=asked.about), asked):
        raise DataError(
            f"{run} was started with another recipe: {changes}; give the same one to resume it"
        )


@dataclass(frozen=True)
class State:
    """What a run resumes from.

    Args:
        run: its directory.
        steps: done in all stages together.
        content: of one process; None if several wrote a directory, or none anything yet.
    """

    run: Path
    steps: int = 0
    content: dict[str, Any] | None = None

    def restore(self, trainer: Trainer) -> None:
        """Lets a trainer of the same stage go on from here.

        Raises:
            DataError: the state is damaged; or one process wrote it, and several are to go on.
        """
        try:
            if self.content is None:
                from codellama.training import distributed

                distributed.load(self.run / _shared(self.steps), trainer)
            elif trainer.machine.is_shared:
                raise DataError(f"the state in {self.run} is of one process; resume it with one")
            else:
                trainer.load_state_dict(self.content)
        except (DataError, torch.OutOfMemoryError):
            raise
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            raise _damaged(self.run) from None


def save_state(run: Path, steps: int, trainer: Trainer) -> None:
    """Replaces what the run resumes from.

    Raises:
        DataError: the disk is full.
    """
    if trainer.machine.is_shared:
        from codellama.training import distributed

        distributed.save(run / _shared(steps), trainer)
    else:
        try:
            with written_beside(run / STATE) as beside:
                torch.save({"steps": steps, **trainer.state_dict()}, beside)
        except RuntimeError:  # what torch makes of a full disk
            raise DataError(
                f"{run / STATE} cannot be written; make room on the disk and resume the run"
            ) from None
    trainer.machine.once(lambda: _remove_before(run, steps))


def newest_state(run: Path) -> State:
    """The newest complete state.

    Raises:
        DataError: the file is damaged.
    """
    shared = [path for path in run.glob("state-*") if (path / ".metadata").is_file()]
    found = [State(run, int(path.name[6:])) for path in shared if path.name[6:].isdecimal()]
    if (run / STATE).exists():
        try:
            content = torch.load(run / STATE, map_location="cpu", weights_only=True)
            found.append(State(run, int(content["steps"]), content))
        except Exception:  # whatever the bytes make of the reader
            raise _damaged(run) from None
    return max(found, key=lambda state: state.steps, default=State(run))


def _shared(steps: int) -> str:
    return f"state-{steps:06d}"


def _remove_before(run: Path, steps: int) -> None:
    for path in run.glob("state-*"):
        if path.name != _shared(steps):
            shutil.rmtree(path)


def _damaged(run: Path) -> DataError:
    return DataError(f"the state in {run} is damaged; start a new run")


def append_log(run: Path, record: dict[str, Any]) -> None:
    """Adds the record of a step, which holds all of `LOGGED`."""
    with (run / LOG).open("a") as log:
        log.write(json.dumps(record) + "\n")


def read_log(run: Path) -> list[dict[str, Any]]:
    """One record a step: stage, step in it, tokens so far, loss, learning rate, seconds.

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
    except (AttributeError, ValueError, RecursionError):
        pass
    raise DataError(f"{path} is damaged; expected a step of the run in every line")


def cut_log(run: Path, steps: int) -> None:
    """Drops what a run has logged after the step that it resumes from."""
    if (run / LOG).exists():
        lines = "".join(json.dumps(record) + "\n" for record in read_log(run)[:steps])
        with written_beside(run / LOG) as beside:
            beside.write_text(lines)
