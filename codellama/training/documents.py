"""The documents to train on, and those that are never trained on."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import math
import os
import shutil
import sysconfig
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from codellama.errors import DataError
from codellama.text.prompts import Message

HELD_OUT = "held_out"
HELD_OUT_SHARE = 1 / 16
FOREIGN = {"site-packages", "dist-packages", "__pycache__"}
EXERCISES = "exercises"
EXERCISES_CHARACTERS = 30_000_000
INSTRUCTIONS = "instructions.jsonl"
T = TypeVar("T")


class Line(NamedTuple):
    """A line in a file of JSON lines: where it begins, and its bytes."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True)
class Documents:
    """Files and conversations to train on, and about a sixteenth of each held out, at least one.

    A hash decides, of a file's path below the directory or of a conversation's line, so that a
    document is on the same side on every machine. A directory with a folder `held_out` has decided
    itself.
    """

    train: list[Path]
    held_out: list[Path]
    train_chats: list[Line] = field(default_factory=list)
    held_out_chats: list[Line] = field(default_factory=list)


def standard_library() -> Path:
    """The directory of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def find_all(
    sources: Iterable[str], pattern: str = "*.py", exercises: Path | None = None
) -> Documents:
    """The documents of several sources.

    Args:
        sources: directories (see `find_documents`); files of conversations, whose names end in
            `.jsonl`; `stdlib`, the standard library; `package:NAME`, the directory of an installed
            package; `exercises` and `exercises:chat`, the modules and the conversations that
            `write_exercises` has written.
        exercises: where it has written them.

    Raises:
        DataError: a source is none of these, or has too few documents.
    """
    found = [_find(source, pattern, exercises) for source in sources]
    held_out = [path for documents in found for path in documents.held_out]
    never = {path.resolve() for path in held_out}  # where one source lies in another
    return Documents(
        [path for one in found for path in one.train if path.resolve() not in never],
        held_out,
        [line for one in found for line in one.train_chats],
        [line for one in found for line in one.held_out_chats],
    )


def _find(source: str, pattern: str, exercises: Path | None) -> Documents:
    kind, _, name = source.partition(":")
    if source.endswith(".jsonl"):
        lines = _conversations(Path(source))
        return Documents([], [], *_split(lines, f"{source} has {len(lines)} conversations"))
    if kind == EXERCISES and name in ("", "chat"):
        if exercises is None:
            raise DataError(f"{source} are written by codellama.train for its own runs alone")
        if not name:
            return find_documents(exercises, "*.py")
        files = find_documents(exercises, INSTRUCTIONS)
        sides = (files.train, files.held_out)
        return Documents([], [], *([*_conversations(*paths)] for paths in sides))
    if kind == "package":
        package = importlib.util.find_spec(name) if name.isidentifier() else None
        if package is None or not package.submodule_search_locations:
            raise DataError(f"the package {name} is not installed; install it, or drop {source}")
        return find_documents(Path(package.submodule_search_locations[0]), pattern)
    return find_documents(None if source == "stdlib" else Path(source), pattern)


def find_documents(directory: Path | None = None, pattern: str = "*.py") -> Documents:
    """Splits the files below a directory (None: the standard library), but for empty ones, those of
    site-packages, and those that are not UTF-8, of which a warning tells.

    Raises:
        DataError: there is no such directory, too few files for both sides, or no such pattern.
    """
    directory = directory or standard_library()
    if not directory.is_dir():
        raise DataError(f"{directory} is no directory; expected one with documents to train on")
    digests, unreadable = {}, []
    for path in matching(directory, pattern, FOREIGN):
        name = path.relative_to(directory)
        if path.is_file() and path.stat().st_size and not FOREIGN.intersection(name.parts):
            if read_document(path):
                digests[path] = hashlib.sha256(os.fsencode(name.as_posix())).digest()
            else:
                unreadable.append(str(name))
    where = f"{directory} has {len(digests)} files {pattern}"
    if unreadable:
        some = ", ".join(unreadable[:3]) + ", …" * (len(unreadable) > 3)
        where += f" in UTF-8, and {len(unreadable)} that are not and are left out ({some})"
        if digests:
            warnings.warn(where, stacklevel=2)
    own = directory / HELD_OUT
    held_out = [path for path in digests if own in path.parents]
    train = [path for path in digests if own not in path.parents]
    return Documents(train, held_out) if train and held_out else Documents(*_split(digests, where))


def _split(digests: Mapping[T, bytes], where: str) -> tuple[list[T], list[T]]:
    """Documents to train on, and those to hold out."""
    shares = {one: int.from_bytes(digest[:8], "big") / 2**64 for one, digest in digests.items()}
    limit = max(HELD_OUT_SHARE, math.nextafter(min(shares.values(), default=0.0), 1))
    train = [one for one, share in shares.items() if share >= limit]
    if not train:
        raise DataError(f"{where}; too few to train on some and hold out others")
    return train, [one for one, share in shares.items() if share < limit]


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


def read_document(path: Path) -> str:
    """A file's text; empty if it is not UTF-8, as some files that test decoders are not."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return ""


def _conversations(*paths: Path) -> dict[Line, bytes]:
    """The lines of files of conversations, each with the digest that decides on its side.

    Raises:
        DataError: a line is no conversation with an answer; OSError: there is no such file.
    """
    found = {}
    for path in paths:
        start = 0
        with path.open("rb") as file:
            for number, content in enumerate(file, 1):
                if content.strip():
                    _messages(content, f"line {number} of {path}")
                    digest = hashlib.sha256(content.strip()).digest()
                    found[Line(path, start, len(content))] = digest
                start += len(content)
    return found


def read_conversation(line: Line) -> list[Message]:
    """The messages of a conversation, up to the assistant's last."""
    with line.path.open("rb") as file:
        file.seek(line.start)
        return _messages(file.read(line.size), str(line.path))


def _messages(content: bytes, where: str) -> list[Message]:
    try:
        record = json.loads(content)
        if "messages" in record:
            messages: list[Message] = [dict(message) for message in record["messages"]]
        else:
            roles = {"prompt": "user", "completion": "assistant"}
            messages = [{"role": role, "content": record[key]} for key, role in roles.items()]
        if not all(isinstance(message["content"], str) for message in messages):
            raise TypeError
        while messages[-1]["role"] != "assistant":
            messages.pop()
    except (ValueError, TypeError, LookupError, RecursionError):
        raise DataError(
            f"{where} is {content[:60]!r}; expected an object with `messages`, of which one is the "
            "assistant's, or with the texts `prompt` and `completion`"
        ) from None
    return messages


def write_exercises(directory: Path, seed: int, keep: bool = False) -> None:
    """Writes the documents of the source `exercises`, which appear in one go.

    Args:
        keep: leave those that are there.

    Raises:
        DataError: this version of the package has no generator of exercises.
    """
    if keep and directory.exists():
        return
    try:
        exercises = importlib.import_module("codellama.training.exercises")
    except ModuleNotFoundError:
        raise DataError("this package cannot write exercises; name other data") from None
    temporary = directory.with_name(f"{directory.name}.part")
    for old in (temporary, directory):
        shutil.rmtree(old, ignore_errors=True)
    temporary.mkdir(parents=True)
    exercises.write_exercises(temporary, seed, EXERCISES_CHARACTERS)
    temporary.rename(directory)
