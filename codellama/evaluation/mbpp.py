"""MBPP: functions to be written from a sentence and three tests (Austin et al. 2021, arXiv
2108.07732; arXiv 2308.12950, tables 2 and 8)."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

from codellama.errors import DataError
from codellama.evaluation.results import Record, read_json_lines
from codellama.evaluation.tasks import Task

SHOTS = 3
QUESTION = """You are an expert Python programmer, and here is your task: {text}
Your code should pass these tests:

{tests}
"""
TAGS = "Your code should start with a [PYTHON] tag and end with a [/PYTHON] tag."


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
    solved, tasks, shots = "", [], 0
    try:
        for record in read_json_lines(path):
            task, question = _task(record, zero_shot)
            if int(task.task_id) <= 10 and shots < SHOTS and not zero_shot:
                solved, shots = f"{solved}{question}[BEGIN]\n{task.solution}\n[DONE]\n\n", shots + 1
            elif 11 <= int(task.task_id) <= 510:
                tasks.append((task, question))
    except (KeyError, TypeError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: {error}; expected MBPP's format") from None
    if not tasks or (shots < SHOTS and not zero_shot):
        raise DataError(
            f"{path} has {len(tasks)} problems with numbers from 11 to 510 and {shots} below; "
            f"expected at least one to ask, and {SHOTS} to show before it"
        )
    return [
        replace(task, prompt=task.prompt or f"{solved}{question}[BEGIN]\n")
        for task, question in tasks
    ]


def extract(text: str) -> str:
    """The program in an answer: what follows `[PYTHON]`, or stands in a fenced block, or all."""
    program = text.partition("[PYTHON]")[2] or text
    fenced = re.search(r"```(?:python)?\n(.*?)(?:```|$)", program, re.DOTALL)
    return fenced[1] if fenced else program


def _task(record: Record, zero_shot: bool) -> tuple[Task, str]:
    """A problem, its prompt left out unless it is a dialog; and its question."""
    code = record["code"].replace("\r\n", "\n")
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tests = "\n".join(record["test_list"])
    setup = [record.get("test_setup_code") or "", *record.get("test_imports", ())]
    question = QUESTION.format(text=record.get("text") or record["prompt"], tests=tests)
    task = Task(
        str(record["task_id"]),
        prefix="",
        suffix="",
        solution=code,
        test="\n".join([*setup, tests]).replace("\r\n", "\n"),
        names=tuple(node.name for node in ast.parse(code).body if isinstance(node, definitions)),
        prompt=({"role": "user", "content": question + TAGS},) if zero_shot else "",
        stop=("[/PYTHON]",) if zero_shot else ("[DONE]",),
        extract=extract if zero_shot else str,
    )
    return task, question
