"""The documents to train on, and those that are never trained on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import DataError

HELD_OUT_SHARE = 1 / 16
FOREIGN = {"site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Documents:
    """Files, split by a hash of their paths below the directory: a file is on the same side on
    every machine, but not where another directory above or below it is given.

    Attributes:
        train: files to learn from.
        held_out: a sixteenth of all, to measure with.
    """

    train: list[Path]
    held_out: list[Path]


def standard_library() -> Path:
    """The directory of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def find_documents(directory: Path | None = None, pattern: str = "*.py") -> Documents:
    """Finds and splits the files below a directory, but for packages installed there.

    Args:
        directory: None for the running interpreter's standard library.
        pattern: what the files are called.

    Raises:
        DataError: there is no such directory, or too few files for both sides; or the pattern is
            none, or leads out of the directory.
    """
    directory = directory or standard_library()
    if not directory.is_dir():
        raise DataError(f"{directory} is no directory; expected one with documents to train on")
    found = Documents([], [])
    for path in _find(directory, pattern):
        relative = path.relative_to(directory)
        if path.is_file() and not FOREIGN.intersection(relative.parts):
            side = found.held_out if _is_held_out(relative) else found.train
            side.append(path)
    if not found.train or not found.held_out:
        raise DataError(
            f"{directory} has {len(found.train) + len(found.held_out)} files {pattern}; too few "
            "to train on some and hold out others"
        )
    return found


def _find(directory: Path, pattern: str) -> list[Path]:
    if ".." not in Path(pattern).parts:
        with contextlib.suppress(IndexError, NotImplementedError, ValueError):
            return sorted(directory.rglob(pattern))
    raise DataError(
        f"the pattern is {pattern!r}; expected one of files below the directory, such as *.py"
    )


def _is_held_out(relative: Path) -> bool:
    digest = hashlib.sha256(os.fsencode(relative.as_posix())).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT_SHARE * 2**64


def read_document(path: Path) -> str:
    """A file's text; empty if it is not UTF-8, as some files that test decoders are not."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return ""
