"""Recipes: what a training run is to do, in a file that is checked before the first step."""

from __future__ import annotations

import difflib
import inspect
import json
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

from codellama.errors import DataError
from codellama.model.config import ModelConfig

PACKAGED = Path(__file__).parent / "recipes"
T = TypeVar("T")
_KINDS: dict[Any, tuple[Any, str]] = {
    "str": (str, "a text"),
    "int": (int, "a whole number"),
    "float": ((int, float), "a number"),
    "bool": (bool, "true or false"),
    "tuple[str, ...]": (tuple, "a list of texts"),
}
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("tokens", "warmup_steps"), (0, 10**15)),
    **dict.fromkeys(("sequence", "batch_tokens", "shortest_run", "save_steps"), (1, 10**9)),
    **dict.fromkeys(("final_ratio", "infilling"), (0, 1)),
    "learning_rate": (1e-30, 1),
    "beta2": (0, 0.99999),
    "rope_theta": (1e-6, 1e12),
    "seed": (-(2**63), 2**63 - 1),
}


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

    Raises:
        DataError: a field is one that no training can follow.
    """

    name: str
    tokens: int
    sequence: int
    batch_tokens: int
    learning_rate: float
    warmup_steps: int = 100
    final_ratio: float = 1 / 30
    optimizer: str = "adamw"
    beta2: float = 0.95
    rope_theta: float | None = None
    infilling: float = 0.9
    shortest_run: int = 32
    activation_checkpointing: bool = False
    save_steps: int = 250

    def __post_init__(self) -> None:
        where = f"stage {self.name!r:.60}"
        _check(self, where)
        if self.optimizer not in ("adamw", "muon"):
            raise DataError(f"{where}: optimizer is {self.optimizer!r}; expected adamw or muon")

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
        pattern: which files count as documents.
        seed: decides on everything random.
    """

    stages: tuple[Stage, ...]
    about: str = ""
    model: ModelConfig | None = None
    ckpt: str | None = None
    data: tuple[str, ...] = ("stdlib",)
    pattern: str = "*.py"
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.data, list):
            object.__setattr__(self, "data", tuple(self.data))
        _check(self, "the recipe")
        if not self.data or not all(isinstance(source, str) for source in self.data):
            raise DataError(f"the recipe: data is {self.data!r:.60}; expected a list of texts")
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

    def to_json(self) -> bytes:
        """The contents of a recipe file."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


def read_recipe(name: str, **changes: Any) -> Recipe:
    """Reads a packaged recipe (paper, tiny, finetune) or a file; `changes` replace its fields.

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
    values["stages"] = tuple(_build(Stage, stage, "a stage") for stage in stages)
    if values.get("model") is not None:
        values["model"] = _build(ModelConfig, values["model"], "model")
    return _build(Recipe, values, "the recipe")


def difference(saved: Any, asked: Any, name: str = "") -> str:
    """The differences between two recipes in JSON, or values in them; empty if equal."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        inner = [difference(saved.get(key), asked.get(key), key) for key in saved | asked]
    elif isinstance(saved, list) and isinstance(asked, list) and len(saved) == len(asked):
        inner = [difference(*pair, name) for pair in zip(saved, asked, strict=True)]
    else:
        inner = [f"{name} was {saved!r:.60}, is {asked!r:.60}"] if saved != asked else []
    return ", ".join(filter(None, inner))


def _build(kind: type[T], values: Any, where: str) -> T:
    """A dataclass from the values of a file."""
    if not isinstance(values, dict):
        raise DataError(f"{where} is {values!r:.60}; expected an object of named fields")
    where = f"stage {values['name']!r:.60}" if "name" in values else where
    fields = inspect.signature(kind).parameters
    for name in values.keys() - fields:
        close = difflib.get_close_matches(name, fields, n=1)
        advice = f"did you mean {close[0]}?" if close else f"expected {', '.join(fields)}"
        raise DataError(f"{where} has an unknown field {name!r:.60}; {advice}")
    for name, field in fields.items():
        if field.default is field.empty and name not in values:
            raise DataError(f"{where} has no {name}; add it")
    return kind(**values)


def _check(values: Stage | Recipe, where: str) -> None:
    """Compares each field with its type and range."""
    for field in fields(values):
        value = getattr(values, field.name)
        name, _, optional = str(field.type).partition(" | ")
        if name not in _KINDS or (optional and value is None):
            continue
        kind, expected = _KINDS[name]
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if fits and field.name in _RANGES:
            least, most = _RANGES[field.name]
            fits, expected = least <= value <= most, f"{least:g} to {most:g}"
        if not fits:
            raise DataError(f"{where}: {field.name} is {value!r:.60}; expected {expected}")
