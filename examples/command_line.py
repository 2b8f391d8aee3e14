"""Calls an example as the package calls its commands, with one value in front of the options."""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Any, NoReturn

from codellama.cli import run
from codellama.errors import RequestError


def run_example(example: Callable[..., None]) -> NoReturn:
    """As `codellama.cli.run`; a first word that is no option is the value of the first one. Numbers
    have to be above 0, unless their default is not."""
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        options = next(iter(typing.get_type_hints(example).values()))
        sys.argv.insert(1, f"--{fields(options)[0].name}")

    @wraps(example)
    def checked(**groups: Any) -> None:
        for group in groups.values():
            for field in fields(group):
                value = getattr(group, field.name)
                is_number = isinstance(field.default, int | float) and field.default > 0
                if is_number and value <= 0:
                    raise RequestError(f"--{field.name} is {value}; expected more than 0")
        example(**groups)

    run(checked)
