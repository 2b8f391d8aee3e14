"""MBPP: functions to be written from a sentence and three tests (Austin et al. 2021, arXiv
2108.07732; arXiv 2308.12950, tables 2 and 8)."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from codellama.errors import DataError
from codellama.evaluation.results import Record, read_json_lines
from codellama.evaluation.tasks import Task

SHOTS = 3
TEST_SPLIT = range(11, 511)


def read_tasks(path: Path, zero_shot: bool = False) -> list[Task]:
    """The problems of a published file: its test split, numbers 11 to 510.

    Args:
        path: `mbpp.jsonl` or `sanitized-mbpp.jsonl`, plain or `.gz`.
        zero_shot: ask as figure 13 does, for Instruct models. Otherwise the file's first three
            problems below number 11 stand solved before each; the paper's own prompt with three
            examples is unpublished, and this one has `[BEGIN]` and `[DONE]` around each solution.

    Raises:
        DataError: the file is damaged, of another format, or lacks problems.
    """
    try:
        problems = [_problem(record) for record in read_json_lines(path)]
    except (KeyError, TypeError, ValueError, SyntaxError) as error:
        raise DataError(f"{path}: {error!r}; expected MBPP's format") from None
    shots = [problem for problem in problems if problem["task_id"] < TEST_SPLIT.start][:SHOTS]
    asked = [problem for problem in problems if problem["task_id"] in TEST_SPLIT]
    if not asked or (len(shots) < SHOTS and not zero_shot):
        raise DataError(
            f"{path} has {len(asked)} problems with numbers from 11 to 510 and {len(shots)} below; "
            f"expected at least one to ask, and {SHOTS} to show before it"
        )
    solved = "".join(f"{_question(shot)}[BEGIN]\n{shot['code']}\n[DONE]\n\n" for shot in shots)
    return [_task(problem, "" if zero_shot else solved) for problem in asked]


def extract(text: str) -> str:
    """The program in an answer: what follows `[PYTHON]`, or stands in a fenced block, or all."""
    _, tag, program = text.partition("[PYTHON]")
    fenced = re.search(r"```(?:python)?\n(.*?)(?:```|$)", program or text, re.DOTALL)
    return fenced[1] if fenced else program if tag else text


def _problem(record: Record) -> dict[str, Any]:
    code = record["code"].replace("\r\n", "\n")
    setup = [record.get("test_setup_code") or "", *record.get("test_imports", ())]
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {
        "task_id": int(record["task_id"]),
        "text": record["text"] if "text" in record else record["prompt"],
        "code": code,
        "tests": "\n".join(record["test_list"]).replace("\r\n", "\n"),
        "setup": "\n".join(setup).replace("\r\n", "\n"),
        "names": tuple(n.name for n in ast.parse(code).body if isinstance(n, definitions)),
    }


def _question(problem: dict[str, Any]) -> str:
    return (
        "You are an expert Python programmer, and here is your task: "
        f"{problem['text']}\nYour code should pass these tests:\n\n{problem['tests']}\n"
    )


def _task(problem: dict[str, Any], solved: str) -> Task:
    tags = "Your code should start with a [PYTHON] tag and end with a [/PYTHON] tag."
    dialog = ({"role": "user", "content": _question(problem) + tags},)
    return Task(
        str(problem["task_id"]),
        prefix="",
        suffix="",
        solution=problem["code"],
        test=f"{problem['setup']}\n{problem['tests']}\n",
        names=problem["names"],
        prompt=f"{solved}{_question(problem)}[BEGIN]\n" if solved else dialog,
        stop=("[DONE]",) if solved else ("[/PYTHON]",),
        extract=str if solved else extract,
    )
