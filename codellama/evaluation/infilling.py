"""Infilling: a piece is taken out of a program for the model to write again (Bavarian et al. 2022,
arXiv 2207.14255; arXiv 2308.12950, tables 6 and 14)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

from codellama.evaluation.results import Progress, Record, Results, collect
from codellama.evaluation.tasks import Sampling, Task
from codellama.inference.generation import CodeLlama
from codellama.text.tokenizer import Tokenizer

Span = tuple[str, int, int]
"""A name, and where the piece begins and ends in its text."""
SPANS_PER_PROBLEM = 10
LONGEST_BLOCK = 8


def lines_of(text: str) -> list[tuple[int, int, int]]:
    """Number, start and end, without the line break, of each line that is not blank."""
    lines = text.split("\n")
    starts = accumulate((len(line) + 1 for line in lines), initial=0)
    numbered = enumerate(zip(lines, starts, strict=False))
    return [(n, start, start + len(line)) for n, (line, start) in numbered if line.strip()]


def single_lines(text: str, _: random.Random) -> list[Span]:
    """Each line that is not blank."""
    return [(f"L{number}", start, end) for number, start, end in lines_of(text)]


def multi_lines(text: str, _: random.Random) -> list[Span]:
    """Each block of lines whose first and last are not blank."""
    lines = lines_of(text)
    return [
        (f"L{first}_L{last}", start, end)
        for at, (first, start, _) in enumerate(lines)
        for last, _, end in lines[at:]
    ]


def random_spans(text: str, random_numbers: random.Random) -> list[Span]:
    """Ten pieces between two places drawn at random; none of spaces alone."""
    spans: list[Span] = []
    while len(spans) < SPANS_PER_PROBLEM and text.strip():
        start, end = sorted(random_numbers.sample(range(len(text) + 1), 2))
        if text[start:end].strip():
            spans.append((str(len(spans)), start, end))
    return spans


KINDS: dict[str, tuple[str, Callable[[str, random.Random], list[Span]]]] = {
    "single_line": ("SingleLineInfilling", single_lines),
    "multi_line": ("MultiLineInfilling", multi_lines),
    "random_span": ("RandomSpanInfilling", random_spans),
}


def derived(problems: Iterable[Task], kind: str, seed: int = 0) -> list[Task]:
    """All tasks of a kind from problems' solutions: of HumanEval's, the published 1,033 single
    lines and 5,815 blocks of lines, and ten random spans a problem."""
    (name, spans), numbers = KINDS[kind], random.Random(seed)
    return [
        replace(
            problem,
            task_id=f"{name}/{problem.task_id}/{place}",
            prefix=problem.prefix + problem.solution[:start],
            suffix=problem.solution[end:] + problem.suffix,
            solution=problem.solution[start:end],
        )
        for problem in problems
        for place, start, end in spans(problem.solution, numbers)
    ]


def from_files(
    texts: Mapping[str, str],
    tokenizer: Tokenizer,
    kind: str,
    count: int,
    *,
    context: int = 512,
    seed: int = 0,
) -> list[Task]:
    """Takes pieces out of files, one of each file in turn, so that a large file of data does not
    outweigh all others. There are no tests.

    Args:
        texts: by name.
        kind: a line; a block of up to eight lines; or a random piece of one line, which mostly cuts
            words.
        count: pieces, or all if there are fewer.
        context: tokens that the lines around the piece have at most, half of them on each side.
        seed: decides which.
    """
    numbers, found = random.Random(seed), []
    for name, line in _turns(texts, numbers):
        text, (number, start, end) = texts[name], line
        if kind == "multi_line":
            later = [other for other in lines_of(text) if number <= other[0] < number + LONGEST_BLOCK]
            end = numbers.choice(later)[2]
        begin = text.rfind("\n", 0, start) + 1
        after = (text.find("\n", end) + 1) or len(text)
        rest = text[end:after]
        if kind == "random_span":
            cut = sorted(numbers.sample(range(end - start + 1), 2))
            rest, (start, end) = text[start + cut[1] : after], (start + cut[0], start + cut[1])
        before = _closest(text[:begin].splitlines(True)[::-1], tokenizer, context // 2)[::-1]
        behind = _closest(text[after:].splitlines(True), tokenizer, context // 2)
        prefix, suffix = "".join(before) + text[begin:start], rest + "".join(behind)
        # Writing nothing would match spaces; what spells a control token cannot be asked for.
        spells = tokenizer.control_ids.intersection(tokenizer.encode(prefix + suffix))
        if text[start:end].strip() and not spells:
            found.append(Task(f"{name}/L{number}", prefix, suffix, text[start:end]))
        if len(found) == count:
            break
    return found


def _turns(texts: Mapping[str, str], numbers: random.Random) -> Iterator[tuple[str, Span]]:
    """A text's name and one of its lines, each once; rounds over all texts that have lines left."""
    left = {name: lines_of(text) for name, text in texts.items()}
    for lines in left.values():
        numbers.shuffle(lines)
    while left := {name: lines for name, lines in left.items() if lines}:
        order = list(left)
        numbers.shuffle(order)
        for name in order:
            yield name, left[name].pop()


def _closest(lines: Sequence[str], tokenizer: Tokenizer, most: int) -> Sequence[str]:
    """As many of the first lines as have at most `most` tokens together."""
    sizes = accumulate(len(tokenizer.encode(line)) for line in lines)
    return lines[: next((at for at, size in enumerate(sizes) if size > most), len(lines))]


def fill(
    llm: CodeLlama,
    tasks: Sequence[Task],
    sampling: Sampling,
    suffix_first: bool,
    *,
    results: Results | None = None,
    progress: Progress | None = None,
) -> list[Record]:
    """What the model fills each gap with, as records with `task_id`, `order` (psm or spm),
    `completion` and `exact_match`: whether it is what was there, but for spaces around it.

    Of a piece of one line, only the first line of what the model writes counts.
    """
    order = "spm" if suffix_first else "psm"

    def ask(group: Sequence[Task]) -> Iterator[Record]:
        pairs = [(task.prefix, task.suffix) for task in group]
        stop = () if any("\n" in task.solution for task in tasks) else ("\n",)
        filled = llm.infill(pairs, suffix_first, **sampling.options(stop))
        for task, completion in zip(group, filled, strict=True):
            text = completion.text if "\n" in task.solution else completion.text.split("\n")[0]
            matches = text.strip() == task.solution.strip()
            named = {"task_id": task.task_id, "order": order, "sample": 0}
            yield {**named, "completion": completion.text, "exact_match": matches}

    units = {(task.task_id, order, 0): task for task in tasks}
    return collect(results or Results(), units, ask, progress, group=sampling.group)
