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

import torch

from codellama.errors import DataError
from codellama.inference.codellama import CodeLlama
from codellama.weights.downloads import Progress

Record = dict[str, Any]
T = TypeVar("T")
BEGINNING = b'{"key": '
"""Of each line of results."""


def read_json_lines(path: Path) -> list[Record]:
    """The objects of a file with one a line, or with a list of them, plain or `.gz`.

    Raises:
        DataError: a line is no JSON object, or the file is no text.
    """
    return _parse(path, path.read_bytes())


def _parse(path: Path, content: bytes) -> list[Record]:
    try:
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        lines = (json.loads(line) for line in text.split("\n") if line.strip())
        return [{**one} for one in (json.loads(text) if text.startswith("[") else lines)]
    except (ValueError, TypeError, RecursionError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: {error}; expected JSON objects, one a line or in a list, plain or .gz"
        ) from None


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
        for record in _parse(path, content[:end]):
            if record.get("run") != run:
                raise DataError(
                    f"{path} holds results of {record.get('run')!r}, but this run is {run!r}; name "
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


def fingerprint(llm: CodeLlama) -> str:
    """Twelve digits that tell most models from others: a hash of the shape and the norms, which
    training changes and quantisation keeps."""
    digest = hashlib.sha256(repr(llm.model.config).encode())
    for parameter in llm.model.parameters():
        if parameter.dim() == 1:
            digest.update(parameter.detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:12]
