"""A directory that a training run fills, and can be resumed from.

RUN/recipe.json       what was asked for
RUN/tokenizer.model
RUN/state.pt          the newest state: weights, optimiser, place in the data
RUN/state-000123      the same after so many steps, in slices, where several processes train
RUN/log.jsonl         a line a step
RUN/model             the checkpoint in Meta's format, made at the end
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from codellama.errors import DataError
from codellama.text.tokenizer import TOKENIZER
from codellama.training.packing import Position
from codellama.training.recipe import Recipe, difference, read_recipe
from codellama.training.trainer import Trainer
from codellama.weights.downloads import OUT_OF_MEMORY

RECIPE = "recipe.json"
STATE = "state.pt"
LOG = "log.jsonl"
MODEL = "model"
LOGGED = {"stage", "step", "tokens", "loss"}


def check_free(run: Path) -> None:
    """Raises DataError if a directory holds more than a run that failed before its first step."""
    if run.exists() and {path.name for path in run.iterdir()} - {RECIPE, TOKENIZER}:
        raise DataError(f"{run} exists; choose a new directory, or resume the run in it")


def check_resumable(run: Path, asked: Recipe) -> None:
    """Raises DataError if a directory holds no run, or one of another recipe."""
    if not (run / RECIPE).is_file():
        raise DataError(f"{run} holds no run to resume; start one")
    saved = read_recipe(str(run / RECIPE), about=asked.about)
    if changes := difference(json.loads(saved.to_json()), json.loads(asked.to_json())):
        raise DataError(
            f"{run} was started with another recipe: {changes}; give the same one to resume it"
        )


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file in one go: a reader finds the old one or the new one, whole."""
    temporary = path.with_name(path.name + ".part")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns any error from reading a damaged file into a DataError."""
    try:
        yield
    except (DataError, PermissionError, MemoryError):
        raise
    except Exception as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise
        raise DataError(f"{path} is damaged; start a new run") from None


def _slice_directories(run: Path) -> list[Path]:
    return [path for path in run.glob("state-*") if path.is_dir() and path.name[6:].isdecimal()]


def newest_state(run: Path) -> tuple[int, Path]:
    """The steps of all stages together after which the newest complete state was saved, and where
    it is: the file of one process, or the slices of several. Without any, 0 and the run."""
    complete = (path for path in _slice_directories(run) if (path / ".metadata").exists())
    found = [(int(path.name.removeprefix("state-")), path) for path in complete]
    if (run / STATE).exists():
        with _reading(run / STATE):
            state = torch.load(run / STATE, map_location="cpu", mmap=True, weights_only=True)
            found.append((int(state["steps"]), run / STATE))
    return max(found, default=(0, run))


def restore_state(path: Path, trainer: Trainer) -> None:
    """Lets a trainer go on from a state of the same stage."""
    if path.is_file() and trainer.machine.mesh:
        raise DataError(f"{path} is the state of one process; resume it with one")
    with _reading(path):
        if path.is_file():
            trainer.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        else:
            _load_slices(path, trainer)


def save_state(run: Path, steps: int, trainer: Trainer) -> None:
    """Replaces what the run resumes from.

    Raises:
        DataError: the disk is full.
    """
    newest = run / f"state-{steps:06d}"
    if trainer.machine.mesh:
        _save_slices(newest, trainer)
    else:
        state = {"steps": steps, **trainer.state_dict()}
        try:
            replace_file(run / STATE, lambda path: torch.save(state, path))
        except RuntimeError as error:  # what torch makes of a full disk
            raise _unwritable(run / STATE, error) from None

    def tidy() -> None:
        for older in {*_slice_directories(run)} - {newest}:
            shutil.rmtree(older)

    trainer.machine.once(tidy)


def _unwritable(path: Path, error: Exception) -> DataError:
    reason = str(error).split("\n")[0]
    return DataError(
        f"{path} cannot be written; free some of the disk and resume the run ({reason:.200})"
    )


def _cause(error: Any) -> Exception:
    """What has failed in one of the processes; Ctrl-C is raised."""
    [(cause, _), *_] = error.failures.values()
    if not isinstance(cause, Exception):
        raise cause
    return cause


def _slices(trainer: Trainer) -> dict[str, Any]:
    """What this process holds of the state of a training that several do."""
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, optimizers = get_state_dict(trainer.model, trainer.optimizers)
    place = torch.tensor([trainer.step, *trainer.stream.position])
    return {"model": model, "optimizers": optimizers, "place": place}


def _save_slices(directory: Path, trainer: Trainer) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    state = _slices(trainer)
    try:
        save(state, checkpoint_id=directory)
    except CheckpointException as error:  # which is no Exception
        raise _unwritable(directory, _cause(error)) from None


def _load_slices(directory: Path, trainer: Trainer) -> None:
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict import set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    state = _slices(trainer)
    try:
        load(state, checkpoint_id=directory)
    except CheckpointException as error:  # which is no Exception
        raise _cause(error) from None
    model, optimizers = state["model"], state["optimizers"]
    set_state_dict(
        trainer.model, trainer.optimizers, model_state_dict=model, optim_state_dict=optimizers
    )
    trainer.step, *position = state["place"].tolist()
    trainer.stream.position = Position(*position)


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
    with _reading(path):
        records = [json.loads(line) for line in lines]
        if not all(record.keys() >= LOGGED for record in records):
            raise ValueError
    return records


def cut_log(run: Path, steps: int) -> None:
    """Drops what a run has logged after the step that it resumes from."""
    if (run / LOG).exists():
        lines = "".join(json.dumps(record) + "\n" for record in read_log(run)[:steps])
        replace_file(run / LOG, lambda temporary: temporary.write_text(lines))
