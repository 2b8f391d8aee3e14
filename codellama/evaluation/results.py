"""Results of a measurement: one JSON object a line, appended as they come."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from codellama.errors import DataError
from codellama.inference.generation import CodeLlama

Record = dict[str, Any]
Key = tuple[Any, ...]
Progress = Callable[[int, int], None]
T = TypeVar("T")


def read_json_lines(path: Path) -> list[Record]:
    """The objects of a file with one a line, plain or `.gz`.

    Raises:
        DataError: a line is no JSON object, or the file is no text.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: {error}; expected JSON lines, plain or .gz") from None
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line.strip():
                records.append({**json.loads(line)})
        except (ValueError, TypeError):
            raise DataError(f"{path}: line {number} is no JSON object: {line:.60}") from None
    return records


def key_of(record: Mapping[str, Any]) -> Key:
    """What tells a result from others of the same run."""
    return tuple(record.get(name) for name in ("task_id", "order", "sample"))


class Results:
    """What has been measured so far, in memory and in a file.

    Args:
        path: JSON lines to go on with; None: memory alone.
        run: says which model is measured and how; stands in each line.

    Raises:
        DataError: the file holds results of another run.
    """

    def __init__(self, path: Path | None = None, run: str = "") -> None:
        self.path, self.run = path, run
        self.records: dict[Key, Record] = {}
        if path is None:
            return
        if path.exists():
            content = path.read_bytes()
            path.write_bytes(content[: content.rfind(b"\n") + 1])  # a run may end inside a line
            for record in read_json_lines(path):
                if record.get("run") != run:
                    raise DataError(
                        f"{path} holds results of {record.get('run')!r}, but this run is {run!r}; "
                        "name another file"
                    )
                self.records[key_of(record)] = record
        else:
            path.touch()

    def add(self, records: Iterable[Record]) -> None:
        """Appends results, which are in the file when this returns."""
        news = [{**record, "run": self.run} for record in records]
        self.records.update((key_of(record), record) for record in news)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write("".join(json.dumps(record) + "\n" for record in news))


def collect(
    results: Results,
    units: Mapping[Key, T],
    work: Callable[[Sequence[T]], Iterable[Record]],
    progress: Progress | None = None,
    *,
    group: int = 1,
) -> list[Record]:
    """Measures each unit that has no result yet, `group` of them at a time.

    Args:
        units: by the key of the unit's first result.
        work: gives the results of several units.
        progress: told units done and units in all.
    """
    waiting = [key for key in units if key not in results.records]
    for start in range(0, len(waiting), group):
        keys = waiting[start : start + group]
        results.add(work([units[key] for key in keys]))
        if progress:
            progress(len(units) - len(waiting) + start + len(keys), len(units))
    tasks = {key[:2] for key in units}
    return [record for key, record in results.records.items() if key[:2] in tasks]


def fingerprint(llm: CodeLlama) -> str:
    """Twelve digits that tell a model from others: a hash of its shape and norms, which training
    changes and quantisation keeps."""
    digest = hashlib.sha256(repr(llm.model.config).encode())
    for parameter in llm.model.parameters():
        if parameter.dim() == 1:
            digest.update(parameter.detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:12]
