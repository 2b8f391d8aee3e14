"""Results of a measurement: one JSON object a line, appended as they come."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from codellama.errors import DataError
from codellama.weights.downloads import Progress

Record = dict[str, Any]
T = TypeVar("T")
BEGINNING = b'{"key": '
"""Of each line of results."""
FORMAT = "JSON objects, one a line or in a list, plain or .gz"


def read_json_lines(path: Path) -> dict[str, Record]:
    """The objects of a file with one a line, or with a list of them, plain or `.gz`, each named by
    where it stands: "FILE, line 3".

    Raises:
        DataError: a line is no JSON object, or the file is no text, or empty.
    """
    content = path.read_bytes()
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}; expected {FORMAT}") from None
    if records := _parse(path, text):
        return records
    raise DataError(f"{path} is empty; expected {FORMAT}")


def _parse(path: Path, text: str) -> dict[str, Record]:
    is_list, where, records = text.startswith("["), str(path), dict[str, Record]()
    try:
        for number, part in enumerate(json.loads(text) if is_list else text.split("\n"), 1):
            where = f"{path}, {'entry' if is_list else 'line'} {number}"
            if is_list or part.strip():
                records[where] = {**(part if is_list else json.loads(part))}
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{where}: {error}; expected {FORMAT}") from None
    return records


def value_of(record: Record, where: str, key: str, kind: type = str) -> Any:
    """A value of a record.

    Raises:
        DataError: the record has none, or one of another type.
    """
    if isinstance(value := record.get(key), kind):
        return value
    found = f"is {value!r:.60}" if key in record else "is missing"
    raise DataError(f"{where}: {key} {found}; expected a {'text' if kind is str else 'list'}")


def task_id_of(record: Record, where: str) -> str:
    """A record's `task_id` as a text: 1 and "1" are the same."""
    number = record.get("task_id")
    return str(number) if type(number) is int else value_of(record, where, "task_id")


class Results:
    """What has been measured so far, in memory and in a file.

    Args:
        path: JSON lines to go on with; None: memory alone.
        run: says which model is measured and how; stands in each line.
        progress: told how much of a measurement is done, and of how much.

    Raises:
        DataError: the file holds results of another run, or something else.
    """

    def __init__(
        self, path: Path | None = None, run: str = "", progress: Progress | None = None
    ) -> None:
        self.path, self.run, self.progress = path, run, progress
        self.records: dict[Any, Record] = {}  # by a name or a number, or a tuple of such
        if path is None:
            return
        if path.suffix == ".gz":
            raise DataError(f"{path}: results are plain text; name a file that does not end in .gz")
        path.touch()
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if not content[end:].startswith(BEGINNING[: len(content) - end]):
            raise DataError(f"{path} holds no results of a measurement; name another file")
        for where, record in _parse(path, content[:end].decode(errors="replace")).items():
            if record.get("run") != run:
                raise DataError(
                    f"{where} is a result of {record.get('run')!r}, but this run is {run!r}; name "
                    "another file"
                )
            key = record.get("key")
            self.records[tuple(key) if isinstance(key, list) else key] = record
        if content[end:]:  # an earlier run ended inside a line
            path.write_bytes(content[:end])

    def missing(self, keys: Collection[T], size: int = 1) -> Iterator[list[T]]:
        """The keys that have no record yet, `size` at a time, for the caller to measure and add."""
        waiting = deque(key for key in keys if key not in self.records)
        while waiting:
            yield [waiting.popleft() for _ in range(min(size, len(waiting)))]
            if self.progress:
                self.progress(len(keys) - len(waiting), len(keys))

    def add(self, key: Any, **measured: Any) -> None:
        """Keeps what was measured, and appends it to the file."""
        self.records[key] = {"key": key, **measured, "run": self.run}
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps(self.records[key]) + "\n")


def digest(text: str) -> str:
    """Twelve digits that tell a text from others."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]
