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
from codellama.weights.downloads import Progress

Record = dict[str, Any]
Key = tuple[Any, Any, Any]
T = TypeVar("T")


def read_json_lines(path: Path) -> list[Record]:
    """The objects of a file with one a line, plain or `.gz`.

    Raises:
        DataError: a line is no JSON object, or the file is no text.
    """
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
        return [{**json.loads(line)} for line in text.split("\n") if line.strip()]
    except (ValueError, TypeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: {error}; expected a JSON object a line, plain or .gz") from None


class Results:
    """What has been measured so far, in memory and in a file.

    A record has a `task_id`, and an `order` and a `sample` where they tell it from others.

    Args:
        path: JSON lines to go on with; None: memory alone.
        run: says which model is measured and how; stands in each line.

    Raises:
        DataError: the file holds results of another run.
    """

    def __init__(self, path: Path | None = None, run: str = "") -> None:
        self.path, self.run, self.records = path, run, dict[Key, Record]()
        if path is None:
            return
        path.touch()
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):  # an earlier run ended inside a line
            path.write_bytes(content[: content.rfind(b"\n") + 1])
        for record in read_json_lines(path):
            if record.get("run") != run:
                raise DataError(
                    f"{path} holds results of {record.get('run')!r}, but this run is {run!r}; name "
                    "another file"
                )
            self._keep(record)

    def _keep(self, record: Record) -> None:
        self.records[record.get("task_id"), record.get("order"), record.get("sample")] = record

    def collect(
        self,
        units: Mapping[Key, T],
        work: Callable[[Sequence[T]], Iterable[Record]],
        progress: Progress | None = None,
        group: int = 1,
    ) -> list[Record]:
        """Measures each unit that has no result yet, and appends what is found to the file.

        Args:
            units: by task, order and sample of the unit's first result.
            work: gives the results of several units.
            progress: told units done and units in all.
            group: units to be measured together.
        """
        waiting = [key for key in units if key not in self.records]
        for start in range(0, len(waiting), group):
            keys = waiting[start : start + group]
            for record in work([units[key] for key in keys]):
                self._keep(named := {**record, "run": self.run})
                if self.path is not None:
                    with self.path.open("a") as file:
                        file.write(json.dumps(named) + "\n")
            if progress:
                progress(len(units) - len(waiting) + start + len(keys), len(units))
        asked = {key[:2] for key in units}
        return [record for key, record in self.records.items() if key[:2] in asked]


def fingerprint(llm: CodeLlama) -> str:
    """Twelve digits that tell a model from others: a hash of its shape and its norms, which
    training changes and quantisation keeps."""
    digest = hashlib.sha256(repr(llm.model.config).encode())
    for parameter in llm.model.parameters():
        if parameter.dim() == 1:
            digest.update(parameter.detach().to("cpu", torch.float32).numpy().tobytes())
    return digest.hexdigest()[:12]
