"""Infilling: a span is taken out of a program for the model to write again (Bavarian et al. 2022,
arXiv 2207.14255; arXiv 2308.12950, tables 6 and 14)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, takewhile
from statistics import fmean

from codellama.evaluation.results import Record
from codellama.evaluation.tasks import Task
from codellama.text.tokenizer import Tokenizer

KINDS = ("single_line", "multi_line", "random_span")
SPANS_PER_PROBLEM = 10


def lines_of(text: str) -> list[tuple[int, int, int]]:
    """Number, start and end, without the line break, of each line that is not blank."""
    lines = text.split("\n")
    ends = accumulate(len(line) + 1 for line in lines)
    numbered = enumerate(zip(lines, ends, strict=True))
    return [(n, end - len(line) - 1, end - 1) for n, (line, end) in numbered if line.strip()]


def spans(text: str, kind: str, numbers: random.Random) -> Iterator[tuple[str, int, int]]:
    """Name, start and end of each line that is not blank; of each block of lines whose first and
    last are not blank; or of ten spans between two random places, none of spaces alone."""
    lines, count = lines_of(text), 0
    while kind == "random_span" and lines and count < SPANS_PER_PROBLEM:
        start, end = sorted(numbers.sample(range(len(text) + 1), 2))
        if text[start:end].strip():
            yield str(count), start, end
            count += 1
    for at, (first, start, end) in enumerate(lines):
        if kind == "single_line":
            yield f"L{first}", start, end
        elif kind == "multi_line":
            yield from ((f"L{first}_L{last}", start, end) for last, _, end in lines[at:])


def derived(problems: Sequence[Task], kind: str, seed: int = 0) -> list[Task]:
    """All tasks of a kind from problems' solutions: of HumanEval's, the published 1,033 single
    lines and 5,815 blocks of lines, and ten random spans a problem. Published tasks, which have a
    suffix, are taken as they are."""
    stop, numbers = ("\n",) if kind == "single_line" else (), random.Random(seed)
    if any(problem.suffix for problem in problems):
        return [replace(problem, stop=stop) for problem in problems]
    family = kind.title().replace("_", "")
    return [
        replace(
            problem,
            task_id=f"{family}Infilling/{problem.task_id}/{name}",
            prefix=problem.prefix + problem.solution[:start],
            suffix=problem.solution[end:],
            solution=problem.solution[start:end],
            stop=stop,
        )
        for problem in problems
        for name, start, end in spans(problem.solution, kind, numbers)
    ]


def listed(task: Task) -> Record:
    """A task in the format of the published infilling tasks."""
    return {
        "task_id": task.task_id,
        "prompt": task.prefix,
        "suffix": task.suffix,
        "canonical_solution": task.solution,
        "entry_point": task.entry_point,
        "test": task.test.removesuffix(f"\ncheck({task.entry_point})\n"),
    }


def from_files(
    texts: Mapping[str, str], tokenizer: Tokenizer, *, count: int, context: int, seed: int = 0
) -> list[Task]:
    """Takes lines out of files, one of each file in turn, so that a large file of data does not
    outweigh all others. There are no tests.

    Args:
        texts: by name.
        count: lines, or all if there are fewer.
        context: tokens of the lines around each at most, half of them on each side.
        seed: decides which.
    """
    numbers, found, most = random.Random(seed), list[Task](), context // 2
    left = {name: lines_of(text) for name, text in texts.items()}
    for lines in left.values():
        numbers.shuffle(lines)
    while left := {name: lines for name, lines in left.items() if lines}:
        for name in numbers.sample(list(left), len(left)):
            text, (number, start, end) = texts[name], left[name].pop()
            prefix = _closest(text[:start], tokenizer, -most)
            suffix = text[end : end + 1] + _closest(text[end + 1 :], tokenizer, most)
            # What spells a control token cannot be asked for.
            if not tokenizer.control_ids.intersection(tokenizer.encode(prefix + suffix)):
                line = text[start:end]
                found.append(Task(f"{name}/L{number}", prefix, suffix, line, stop=("\n",)))
            if len(found) == count:
                return found
    return found


def _closest(text: str, tokenizer: Tokenizer, most: int) -> str:
    """As many first lines (last, if `most` is negative) as have at most so many tokens together."""
    step = -1 if most < 0 else 1
    lines = text.splitlines(keepends=True)[::step]
    sizes = accumulate(len(tokenizer.encode(line)) for line in lines)
    fitting = list(takewhile(lambda size: size <= abs(most), sizes))
    return "".join(lines[: len(fitting)][::step])


def exact_matches(tasks: Sequence[Task], completions: Sequence[Record]) -> float:
    """The share of completions that are the missing span, but for spaces around it. For a span of
    one line, only the first line of what the model writes counts."""
    wanted = {task.task_id: task.solution for task in tasks}

    def matches(record: Record) -> bool:
        text, solution = record["completion"], wanted[record["task_id"]]
        written = text if "\n" in solution else text.split("\n")[0]
        return written.strip() == solution.strip()

    return fmean(map(matches, completions))
