"""Every exception that a user can cause, and the check that raises them for values out of range.

Each text says what was found, what was expected, and what to do. Commands print it as one sentence
and end with exit code 2. Whatever else is raised is a defect of this package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, field, fields
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

MAX_LENGTH = 900
"""Characters of a text."""
_TYPES: dict[Any, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "a text"),
}


class CodeLlamaError(ValueError):
    """The base of all the others.

    What is quoted from files and prompts may be of any kind and length: the text shows control
    characters escaped, and leaves out the middle of what is longer than `MAX_LENGTH`.
    """

    def __init__(self, text: str) -> None:
        text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)
        if len(text) > MAX_LENGTH:
            text = f"{text[: MAX_LENGTH // 2]} … {text[3 - MAX_LENGTH // 2 :]}"
        super().__init__(text)


class ConfigError(CodeLlamaError):
    """Hyper-parameters that do not describe a model."""


class CheckpointError(CodeLlamaError):
    """Files that are not a checkpoint, or not one whole checkpoint; or no place to write one."""


class TokenizerError(CodeLlamaError):
    """A vocabulary that cannot be read, or text and ids that it does not cover."""


class PromptError(CodeLlamaError):
    """A prompt that the model's formats cannot express, or that would break out of them."""


class RequestError(CodeLlamaError):
    """An option out of its range, or a request that this model or machine cannot serve."""


class DataError(CodeLlamaError):
    """Documents, problems or a run's files that cannot be used."""


def number(
    default: Any = MISSING,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """A dataclass field whose numbers lie in a range, for `check_fields`."""
    return field(default=default, metadata={"least": least, "above": above, "most": most})


def choice(default: Any = MISSING, *, among: Sequence[str]) -> Any:
    """A dataclass field that has one of several texts, for `check_fields`."""
    return field(default=default, metadata={"among": among})


def check_fields(values: Any, error: type[CodeLlamaError] = RequestError, where: str = "") -> None:
    """Compares each field of a dataclass with its type and its range; a default always passes.

    Checked are whole numbers, numbers, truth values and texts, and tuples of them.

    Args:
        error: the exception to raise.
        where: begins its text.
    """
    hints = get_type_hints(type(values))
    for one in fields(values):
        value, limits, kinds = getattr(values, one.name), one.metadata, types_in(hints[one.name])
        is_checked = kinds <= {*_TYPES, tuple, type(None)}
        if value == one.default or not is_checked or (value is None and type(None) in kinds):
            continue
        kind, expected = next(_TYPES[kind] for kind in kinds if kind in _TYPES)
        if "among" in limits:
            expected = f"one of {', '.join(limits['among'])}"
        bounds = [
            f"{words} {limits[key]:g}"
            for key, words in (("least", "from"), ("above", "above"), ("most", "up to"))
            if limits.get(key) is not None
        ]
        parts = value if tuple in kinds and isinstance(value, (tuple, list)) else [value]
        is_list = parts is value
        if is_list != (tuple in kinds) or not all(_fits(part, kind, limits) for part in parts):
            sentence = f"{one.name} is {value!r:.60}; expected {expected} {' '.join(bounds)}"
            raise error(f"{where}{sentence}".rstrip())


def types_in(hint: Any) -> set[Any]:
    """The types in an annotation: int, tuple and NoneType in `tuple[int, ...] | None`."""
    inner = [kind for kind in get_args(hint) if kind is not ...]
    kinds = set[Any]().union(*map(types_in, inner)) if inner else {hint}
    return kinds | {tuple} if get_origin(hint) in (tuple, Sequence) else kinds


def _fits(value: Any, kind: Any, limits: Any) -> bool:
    """Whether one value is of a kind and within limits; True is no number."""
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        return False
    if kind in (bool, str):
        return value in limits.get("among", (value,))
    least, above, most = (limits.get(key) for key in ("least", "above", "most"))
    return (
        (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and math.isfinite(value)  # last: it fails for whole numbers of hundreds of digits
    )
