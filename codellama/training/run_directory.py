"""A directory that a training run fills, and can be resumed from.

RUN/recipe.json       what was asked for
RUN/tokenizer.model
RUN/state.pt          the newest state: weights, optimiser, place in the data
RUN/log.jsonl         a line a step
RUN/stage1, stage2    checkpoints in Meta's format, each made when its stage is done
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from codellama.training.documents import DataError

STATE = "state.pt"
LOG = "log.jsonl"


def write_beside(path: Path, content: bytes) -> None:
    """Replaces a file in one go: a reader finds the old one or the new one, whole."""
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(content)
    beside.replace(path)


def save_state(run: Path, state: dict[str, Any]) -> None:
    """Replaces the state that the run resumes from."""
    beside = run / (STATE + ".part")
    torch.save(state, beside)
    beside.replace(run / STATE)


def load_state(run: Path) -> dict[str, Any] | None:
    """The newest state; None before the first.

    Raises:
        DataError: the file is damaged.
    """
    path = run / STATE
    if not path.exists():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever the bytes make of the reader
        raise DataError(f"{path} is damaged; start a new run") from None


def read_log(run: Path) -> list[dict[str, Any]]:
    """One record a step: stage, step, tokens, loss, learning rate, seconds."""
    path = run / LOG
    if not path.is_file():
        raise DataError(f"{path} is missing; expected the directory of a training run")
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:  # a process that was stopped while it wrote has left half a line
            break
    return records


def cut_log(run: Path, stage: str, step: int) -> None:
    """Drops what a run has logged of a stage after the step that it resumes from."""
    if not (run / LOG).exists():
        return
    records = [
        record for record in read_log(run) if record["stage"] != stage or record["step"] <= step
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_beside(run / LOG, lines.encode())
