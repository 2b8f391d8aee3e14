"""The documents to train on, and those that are never trained on."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import sysconfig
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from codellama.errors import DataError

HELD_OUT_SHARE = 1 / 16
FOREIGN = {"site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Documents:
    """Files to train on, and about a sixteenth held out, at least one. A hash of the path below the
    directory decides, so that a file is on the same side on every machine."""

    train: list[Path]
    held_out: list[Path]


def standard_library() -> Path:
    """The directory of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def find_all(sources: Iterable[str], pattern: str = "*.py") -> Documents:
    """As `find_documents`, for several directories; `stdlib` stands for the standard library, and
    `package:NAME` for the directory of an installed package."""
    found = [find_documents(_directory(source), pattern) for source in sources]
    held_out = [path for documents in found for path in documents.held_out]
    never = {path.resolve() for path in held_out}  # where one source lies in another
    train = [path for documents in found for path in documents.train]
    return Documents([path for path in train if path.resolve() not in never], held_out)


def find_documents(directory: Path | None = None, pattern: str = "*.py") -> Documents:
    """Splits the files below a directory (None: the standard library), but for empty ones and those
    of site-packages.

    Raises:
        DataError: there is no such directory, too few files for both sides, or no such pattern.
    """
    directory = directory or standard_library()
    if not directory.is_dir():
        raise DataError(f"{directory} is no directory; expected one with documents to train on")
    shares = {}  # evenly spread between 0 and 1
    for path in matching(directory, pattern, FOREIGN):
        name = path.relative_to(directory)
        is_text = path.is_file() and path.stat().st_size > 0
        if is_text and not FOREIGN.intersection(name.parts):
            digest = hashlib.sha256(os.fsencode(name.as_posix())).digest()
            shares[path] = int.from_bytes(digest[:8], "big") / 2**64
    limit = max(HELD_OUT_SHARE, math.nextafter(min(shares.values(), default=0.0), 1))
    train = [path for path, share in shares.items() if share >= limit]
    held_out = [path for path, share in shares.items() if share < limit]
    if not train or not held_out:
        raise DataError(
            f"{directory} has {len(shares)} files {pattern}; too few to train on some and hold out "
            "others"
        )
    return Documents(train, held_out)


def matching(directory: Path, pattern: str, left_out: Collection[str] = ()) -> list[Path]:
    """The paths below a directory that fit a pattern.

    Args:
        left_out: names of directories in it that are not looked into.

    Raises:
        DataError: the pattern is none, or leads out of the directory.
    """
    try:
        if ".." in Path(pattern).parts:
            raise ValueError
        found = {*directory.glob(pattern)}
        for inner in directory.iterdir():
            if inner.is_dir() and not inner.is_symlink() and inner.name not in left_out:
                found.update(inner.rglob(pattern))
        return sorted(found)
    except (IndexError, NotImplementedError, ValueError):
        raise DataError(
            f"the pattern is {pattern!r}; expected one of files below the directory, such as *.py"
        ) from None


def _directory(source: str) -> Path:
    kind, _, name = source.partition(":")
    if source == "stdlib":
        return standard_library()
    if kind != "package":
        return Path(source)
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise DataError(f"the package {name} is not installed; install it, or leave {source} out")
    return Path(found.submodule_search_locations[0])


def read_document(path: Path) -> str:
    """A file's text; empty if it is not UTF-8, as some files that test decoders are not."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return ""
