"""What a training run is to do, and the file that remembers it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from codellama.errors import DataError
from codellama.model.config import ModelConfig
from codellama.training import infilling
from codellama.training.contexts import SHORTEST_RUN
from codellama.training.documents import Documents, find_documents
from codellama.training.trainer import Stage

_RANGES = (
    (("sequence", "batch_tokens", "shortest_run"), 1, math.inf, "1 or more"),
    (("tokens", "warmup_steps", "context"), 0, math.inf, "0 or more"),
    (("new_blocks", "gap_weight", "longest_run"), 0, math.inf, "0 or more"),
    (("infilling_rate", "line_rate", "suffix_first_rate"), 0, 1, "0 to 1"),
    (("skip_rate", "mix_share"), 0, 1, "0 to 1"),
    (("learning_rate",), sys.float_info.min, 1, "more than 0 and at most 1"),
    (("rope_theta",), sys.float_info.min, math.inf, "more than 0"),
    (("seed",), -(2**63), 2**64 - 1, "a whole number of 64 bits"),
)
"""Names of numbers, the least and the most that they may be, and that in words."""


@dataclass(frozen=True)
class Recipe:
    """What decides on a run's result.

    Args:
        model: fields of `ModelConfig` for a new model, the size of its vocabulary among them; none
            with `ckpt`, which has its own.
        stages: by name, in order; those of 0 tokens are left out.
        data: directory of documents; None: the running interpreter's standard library.
        pattern: what the documents are called.
        ckpt: checkpoint directory to start from, instead of a new model and vocabulary.
        new_blocks: how many to insert into its model (see `insert_blocks`).
        mix_ckpt, mix_share: another checkpoint, and how far to move towards its weights before
            training (see `mix`).
        infilling_rate: share of documents cut for infilling.
        line_rate: share of those whose gap is a line.
        suffix_first_rate: share of those with the suffix first.
        gap_weight: what a token that fills a gap counts in the loss, prefix first.
        seed: decides on everything random.
        shortest_run, longest_run: as for `ContextStream`.

    Raises:
        DataError, ConfigError: a number is one that no training can follow.
    """

    model: dict[str, int]
    stages: dict[str, Stage]
    data: str | None = None
    pattern: str = "*.py"
    ckpt: str | None = None
    new_blocks: int = 0
    mix_ckpt: str | None = None
    mix_share: float = 0.5
    infilling_rate: float = infilling.RATE
    line_rate: float = infilling.LINE_RATE
    suffix_first_rate: float = infilling.SUFFIX_FIRST_RATE
    gap_weight: float = 1.0
    seed: int = 0
    shortest_run: int = SHORTEST_RUN
    longest_run: int = 0

    def __post_init__(self) -> None:
        _check_ranges(vars(self))
        if self.ckpt is None:
            ModelConfig(**self.model)
            for name in ("new_blocks", "mix_ckpt"):
                if getattr(self, name):
                    raise DataError(f"{name} changes a checkpoint; give ckpt as well")
        if not any(stage.tokens for stage in self.stages.values()):
            raise DataError("every stage has 0 tokens; expected some to train on in one at least")
        for name, stage in self.stages.items():
            _check_ranges(vars(stage), f"{name}: ")
            if stage.skip_rate and stage.context <= stage.sequence:
                raise DataError(
                    f"the context is {max(stage.context, stage.sequence)}, a sequence "
                    f"{stage.sequence} tokens; positions skip in a context longer than a sequence"
                )

    def documents(self) -> Documents:
        """The files to train on, and those held out."""
        return find_documents(Path(self.data).expanduser() if self.data else None, self.pattern)

    def to_json(self) -> bytes:
        """The contents of a run's recipe file."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"

    def check(self, path: Path) -> None:
        """Raises DataError if the file at `path` is missing, or holds another recipe than this."""
        if not path.is_file():
            raise DataError(f"{path.parent} holds no run to resume; start one")
        asked = json.loads(self.to_json())
        try:
            saved = json.loads(path.read_bytes())
        except ValueError:
            saved = None
        if not isinstance(saved, dict):
            raise DataError(f"{path} is damaged; start a new run")
        if saved != asked:
            raise DataError(
                f"{path.parent} was started with other options: {_difference(saved, asked)}; "
                "give the same ones to resume it"
            )


def _check_ranges(numbers: Mapping[str, Any], where: str = "") -> None:
    for names, least, most, expected in _RANGES:
        for name in names:
            if name in numbers and not least <= numbers[name] <= most:
                raise DataError(f"{where}{name} is {numbers[name]}; expected {expected}")


def _difference(saved: dict[str, Any], asked: dict[str, Any]) -> str:
    """What two recipes disagree in, in words."""
    phrases = []
    for key in asked | saved:
        was, is_ = saved.get(key), asked.get(key)
        if isinstance(was, dict) and isinstance(is_, dict):
            if inner := _difference(was, is_):
                phrases.append(f"{key} {inner}")
        elif was != is_:
            phrases.append(f"{key} was {was}, is {is_}")
    return ", ".join(phrases)
