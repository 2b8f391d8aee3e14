"""Options on the command line: dataclasses, filled with exactly what was typed.

A command is a function whose parameters are dataclasses. Their fields are the options; names,
types, defaults and help come from the dataclass, where Python callers find them too.
"""

from __future__ import annotations

import difflib
import inspect
import math
import re
import textwrap
import typing
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from codellama.errors import RequestError

HELP = ("--help", "-h")
_TRUTH = {"true": True, "false": False}
_EXPECTED = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
_METAVAR = {int: " N", float: " X", str: " TEXT", bool: ""}

Command = Callable[..., None]


@dataclass(frozen=True)
class _Option:
    """A field of a command's dataclasses."""

    name: str
    kind: Any  # the type of a value: `int` of `int | None`, `str` of `tuple[str, ...]`
    default: Any
    help: str

    def convert(self, text: str) -> Any:
        """The value that `text` stands for."""
        try:
            value = _TRUTH[text.lower()] if self.kind is bool else self.kind(text)
            if self.kind is not float or math.isfinite(value):
                return value
        except (ValueError, KeyError):
            pass
        raise RequestError(f"--{self.name} is {text!r}; expected {_EXPECTED[self.kind]}")


def parse(arguments: Sequence[str], command: Command) -> dict[str, Any] | None:
    """Instances of the dataclasses that `command` takes, by parameter; None for `--help` or `-h`.

    `--name value` and `--name=value` take the value as it is, even one that looks like an option;
    flags need none; one whose default is a tuple may be repeated; `-n` is the one beginning so.

    Raises:
        RequestError: an option is unknown, repeated, without a value, of another type or missing.
        CodeLlamaError: a dataclass refuses a value.
    """
    options = _options(command)
    values: dict[str, Any] = {}
    rest = deque(arguments)
    while rest:
        argument, equals, text = rest.popleft().partition("=")
        if argument in HELP:
            return None
        option = _find(argument, options)
        if option.kind is bool and not equals:
            text = rest.popleft() if rest and rest[0].lower() in _TRUTH else "true"
        elif not equals and not rest:
            raise RequestError(f"--{option.name} needs a value")
        elif not equals:
            text = rest.popleft()
        value = option.convert(text)
        if isinstance(option.default, tuple):
            value = (*values.get(option.name, ()), value)
        elif option.name in values:
            raise RequestError(f"--{option.name} is given twice; expected it once")
        values[option.name] = value
    for option in options.values():
        if option.default is MISSING and option.name not in values:
            raise RequestError(f"--{option.name} is missing; --help lists the options")
    return {
        parameter: group(**{f.name: values[f.name] for f in fields(group) if f.name in values})
        for parameter, group in _groups(command).items()
    }


def help_text(command: Command) -> str:
    """What a command does, and a paragraph for each of its options."""
    paragraphs = [inspect.getdoc(command) or "", "Options:"]
    for option in _options(command).values():
        hidden = option.default in (MISSING, None, ()) or option.default is False
        shown = "" if hidden else f" ({option.default})"
        text = textwrap.fill(option.help + shown, 96, break_on_hyphens=False)
        head = f"  --{option.name}{_METAVAR[option.kind]}"
        paragraphs.append(f"{head}\n{textwrap.indent(text, ' ' * 6)}")
    return "\n\n".join(paragraphs)


def _groups(command: Command) -> dict[str, Any]:
    hints = typing.get_type_hints(command)
    return {name: kind for name, kind in hints.items() if name != "return"}


def _options(command: Command) -> dict[str, _Option]:
    options = {}
    for group in _groups(command).values():
        hints, helps = typing.get_type_hints(group), _helps(group)
        for field in fields(group):
            hint, help = hints[field.name], helps.get(field.name, "")
            kind, *_ = typing.get_args(hint) or (hint,)
            options[field.name] = _Option(field.name, kind, field.default, help)
    return options


def _helps(group: type) -> dict[str, str]:
    """The paragraphs of a docstring's section `Args:`, by the names that they begin with."""
    _, _, section = (inspect.getdoc(group) or "").partition("Args:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    entries = re.split(r"^    (?=\w[\w, ]*:)", section, flags=re.MULTILINE)[1:]
    helps = {}
    for entry in entries:
        names, _, text = entry.partition(":")
        helps.update(dict.fromkeys(names.split(", "), " ".join(text.split())))
    return helps


def _find(argument: str, options: dict[str, _Option]) -> _Option:
    if not argument.startswith("-"):
        raise RequestError(f"unexpected {argument!r}; every value follows an option, as in --help")
    name = argument.removeprefix("--").replace("-", "_")
    if argument.startswith("--") and name in options:
        return options[name]
    if len(argument) == 2:
        matches = [option for option in options.values() if option.name.startswith(argument[1])]
        if len(matches) == 1:
            return matches[0]
    close = difflib.get_close_matches(name.lstrip("_"), options, n=1)
    advice = f"did you mean --{close[0]}?" if close else "--help lists the options"
    raise RequestError(f"unknown option {argument}; {advice}")
