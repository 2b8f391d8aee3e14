"""Recipes: what a training run is to do, in a file that is checked before the first step."""

from __future__ import annotations

import difflib
import json
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

from codellama.errors import DataError, check_fields, choice, number
from codellama.model.config import ModelConfig

PACKAGED = Path(__file__).parent / "recipes"
T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Args:
        name: what the log calls it.
        tokens: how many to train on; 0 leaves the stage out.
        sequence: tokens in a sequence.
        batch_tokens: tokens in a step of the optimiser, in whole sequences; `tokens` at most.
        learning_rate: its peak.
        warmup_steps: steps until the peak, a tenth of the stage at most.
        final_ratio: the learning rate at the stage's end, as a share of its peak.
        optimizer: adamw; or muon, which takes the blocks' matrices and leaves AdamW the rest.
        beta2: how slowly AdamW forgets squared gradients.
        rope_theta: base of the rotary embedding; null: the model's own.
        infilling: share of documents that are cut for infilling.
        shortest_run: tokens of a document at least, about; a longer file is taken as several.
        activation_checkpointing: keep only each block's input, and compute the block again for its
            gradients.
        save_steps: steps between saves of the state and measurements of the validation loss.
        data: where its documents are, as in the recipe; null: the recipe's.

    Raises:
        DataError: a field is one that no training can follow.
    """

    name: str
    tokens: int = number(least=0, most=10**15)
    sequence: int = number(least=1, most=10**9)
    batch_tokens: int = number(least=1, most=10**9)
    learning_rate: float = number(least=1e-30, most=1)
    warmup_steps: int = number(100, least=0, most=10**15)
    final_ratio: float = number(1 / 30, least=0, most=1)
    optimizer: str = choice("adamw", among=("adamw", "muon"))
    beta2: float = number(0.95, least=0, most=0.99999)
    rope_theta: float | None = number(None, least=1e-6, most=1e12)
    infilling: float = number(0.9, least=0, most=1)
    shortest_run: int = number(32, least=1, most=10**9)
    activation_checkpointing: bool = False
    save_steps: int = number(250, least=1, most=10**9)
    data: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _check(self, f"stage {self.name!r:.60}: ")

    @property
    def batch_size(self) -> int:
        """Sequences in a step of the optimiser."""
        return max(1, round(min(self.batch_tokens, self.tokens) / self.sequence))

    @property
    def step_tokens(self) -> int:
        """Tokens in a step of the optimiser."""
        return self.batch_size * self.sequence

    @property
    def steps(self) -> int:
        """Steps of the optimiser, so many that no token is left out."""
        return -(-self.tokens // self.step_tokens)


@dataclass(frozen=True)
class Recipe:
    """All that decides on a run's result.

    Args:
        stages: what to do, one after the other.
        about: for whoever reads the file.
        model: fields of `ModelConfig` for a new model, the size of its vocabulary among them. Its
            context becomes that of the longest sequence.
        ckpt: checkpoint directory to start from, instead of a new model and vocabulary.
        data: where the documents are, each as for `documents.find_all`.
        pattern: which files of a directory count as documents.
        seed: decides on everything random.

    Raises:
        DataError: a field is one that no training can follow.
    """

    stages: tuple[Stage, ...]
    about: str = ""
    model: ModelConfig | None = None
    ckpt: str | None = None
    data: tuple[str, ...] = ("stdlib",)
    pattern: str = "*.py"
    seed: int = number(0, least=-(2**63), most=2**63 - 1)

    def __post_init__(self) -> None:
        _check(self, "the recipe: ")
        if (self.model is None) == (self.ckpt is None):
            found = "neither model nor ckpt" if self.model is None else "both model and ckpt"
            raise DataError(f"the recipe has {found}; expected one of them to start from")
        if not self.tokens:
            raise DataError("the recipe's stages have 0 tokens; expected some to train on")
        names = [stage.name for stage in self.stages]
        if len({*names}) < len(names):
            raise DataError(f"two of the stages {', '.join(names)} have one name; rename one")

    @property
    def tokens(self) -> int:
        """Tokens of all stages."""
        return sum(stage.tokens for stage in self.stages)

    def scaled(
        self, tokens: int | None, sequence: int | None, learning_rate: float | None
    ) -> Recipe:
        """Scales the stages' tokens to the sum `tokens` and their learning rates to the highest
        `learning_rate`, and cuts sequences to `sequence`; None changes nothing."""
        total = self.tokens if tokens is None else tokens
        ends = accumulate((stage.tokens for stage in self.stages), initial=0)
        spans = pairwise(total * end // self.tokens for end in ends)
        peak = max(stage.learning_rate for stage in self.stages)
        ratio = 1 if learning_rate is None else learning_rate / peak
        stages = tuple(
            replace(
                stage,
                tokens=end - start,
                sequence=stage.sequence if sequence is None else min(stage.sequence, sequence),
                learning_rate=stage.learning_rate * ratio,
            )
            for stage, (start, end) in zip(self.stages, spans, strict=True)
        )
        return replace(self, stages=stages)

    def to_json(self) -> str:
        """The contents of a recipe file."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_recipe(name: str, **changes: Any) -> Recipe:
    """Reads a packaged recipe (paper, tiny, finetune, instruct) or a file; `changes` replace its
    fields. Where they have `data`, no stage has data of its own.

    Raises:
        DataError, ConfigError: there is no such file, or it is no recipe that can be followed.
    """
    packaged = {path.stem: path for path in sorted(PACKAGED.glob("*.json"))}
    path = packaged.get(name, Path(name))
    if not path.is_file():
        raise DataError(f"there is no recipe {name}; expected {', '.join(packaged)} or a file")
    try:
        values = {**json.loads(path.read_bytes()), **changes}
        stages = list(values.get("stages", ()))
    except (TypeError, ValueError, RecursionError):
        raise DataError(f"{path} is damaged, or no recipe; expected one in JSON") from None
    values["stages"] = tuple(_from_json(Stage, stage, "a stage") for stage in stages)
    if "data" in changes:
        values["stages"] = tuple(replace(stage, data=None) for stage in values["stages"])
    if values.get("model") is not None:
        values["model"] = _from_json(ModelConfig, values["model"], "the model")
    return _from_json(Recipe, values, "the recipe")


def difference(saved: Recipe, asked: Recipe) -> str:
    """The lines of two recipes' files that differ, those of the first with a minus; else empty."""
    old, new = (replace(one, about="").to_json().splitlines() for one in (saved, asked))
    lines = [*difflib.unified_diff(old, new, lineterm="", n=0)][2:]
    return " ".join(f"{line[0]} {line[1:].strip()}" for line in lines if line[0] != "@")


def _from_json(kind: type[T], values: Any, where: str) -> T:
    """A dataclass from the values of a file."""
    try:
        return kind(**values)
    except TypeError as error:  # Python says which field is unknown, or which is missing
        names = ", ".join(field.name for field in fields(kind))  # type: ignore[arg-type]
        reason = str(error).partition(" ")[2]
        raise DataError(f"{where} {values!r:.60} {reason}; its fields are {names}") from None


def _check(values: Stage | Recipe, where: str) -> None:
    """Makes a tuple of the data, one text or a list in files, and checks each field."""
    if isinstance(values.data, (str, list)):
        data = [values.data] if isinstance(values.data, str) else values.data
        object.__setattr__(values, "data", tuple(data))
    check_fields(values, DataError, where)
    if values.data == ():
        raise DataError(f"{where}data is empty; expected directories or other sources")
