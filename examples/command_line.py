"""Calls an example as the package calls its commands, with one value in front of the options."""

from __future__ import annotations

import sys
import typing
from collections.abc import Callable
from dataclasses import fields
from typing import NoReturn

from codellama.cli import run


def run_example(example: Callable[..., None]) -> NoReturn:
    """As `codellama.cli.run`; a first word that is no option is the value of the first one."""
    if sys.argv[1:] and not sys.argv[1].startswith("-"):
        options = next(iter(typing.get_type_hints(example).values()))
        sys.argv.insert(1, f"--{fields(options)[0].name}")
    run(example)
