"""Options on the command line, taken exactly as typed and converted to their annotated types."""

from __future__ import annotations

import difflib
import inspect
import math
import types
import typing
from collections import deque
from collections.abc import Callable
from typing import Any

HELP = ("--help", "-h")


class UsageError(ValueError):
    """Options that a command cannot follow."""


def parse(arguments: list[str], command: Callable[..., None]) -> dict[str, Any] | None:
    """Values for the keyword arguments of `command`; None if there is `--help` or `-h` in an
    option's place.

    `--name value` and `--name=value` take the value as it is, even if it looks like an option; a
    flag needs none; what is annotated `tuple[str, ...]` collects repetitions; `-n` stands for the
    one option that begins so.

    Raises:
        UsageError: an option is unknown, without a value, of another type, or missing.
    """
    kinds = {name: _plain(kind) for name, kind in typing.get_type_hints(command).items()}
    kinds.pop("return", None)
    values: dict[str, Any] = {}
    rest = deque(arguments)
    while rest:
        argument, equals, text = rest.popleft().partition("=")
        if argument in HELP:
            return None
        name = _option(argument, list(kinds))
        kind = kinds[name]
        if kind is bool and not equals:
            text = rest.popleft() if rest and rest[0].lower() in _TRUTH else "true"
        elif not equals:
            if not rest:
                raise UsageError(f"--{name} needs a value")
            text = rest.popleft()
        if typing.get_origin(kind) is tuple:
            values[name] = (*values.get(name, ()), text)
        else:
            values[name] = _convert(name, text, kind)
    for parameter in inspect.signature(command).parameters.values():
        if parameter.default is parameter.empty and parameter.name not in values:
            raise UsageError(f"--{parameter.name} is missing; --help lists the options")
    return values


_TRUTH = {"true": True, "false": False}


def _plain(kind: Any) -> Any:
    """The type that an option has when it is given: `int` for `int | None`."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(member for member in typing.get_args(kind) if member is not type(None))
    return kind


def _option(argument: str, names: list[str]) -> str:
    if len(argument) == 2 and argument[0] == "-" and argument[1] != "-":
        matches = [name for name in names if name.startswith(argument[1])]
        if len(matches) == 1:
            return matches[0]
    name = argument.removeprefix("--").replace("-", "_")
    if not argument.startswith("-"):
        raise UsageError(f"unexpected {argument!r}; every value follows an option, as in --help")
    if argument.startswith("--") and name in names:
        return name
    close = difflib.get_close_matches(name.lstrip("_"), names, n=1)
    advice = f"did you mean --{close[0]}?" if close else "--help lists the options"
    raise UsageError(f"unknown option {argument}; {advice}")


def _convert(name: str, text: str, kind: Any) -> Any:
    expected = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
    try:
        value = _TRUTH[text.lower()] if kind is bool else kind(text)
        if kind is not float or math.isfinite(value):
            return value
    except (ValueError, KeyError):
        pass
    raise UsageError(f"--{name} is {text!r}; expected {expected[kind]}")
