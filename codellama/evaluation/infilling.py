"""Infilling: a line, or a piece of one, is taken out of a file for the model to write again."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from codellama.inference.generation import CodeLlama
from codellama.text.tokenizer import Tokenizer
from codellama.weights.downloads import Progress


@dataclass(frozen=True)
class Gap:
    """A text with a piece taken out.

    Attributes:
        prefix, suffix: what surrounds the gap.
        middle: what was in it.
    """

    prefix: str
    middle: str
    suffix: str


def gaps(
    texts: Iterable[str],
    tokenizer: Tokenizer,
    count: int,
    context: int = 512,
    seed: int = 0,
    inside: bool = False,
) -> list[Gap]:
    """Takes out single lines that are not blank, one of each file in turn, so that a large file of
    data does not outweigh all others.

    Args:
        count: number of gaps, or all lines if there are fewer.
        context: tokens that the lines around the gap have at most, half of them on each side.
        seed: decides which lines.
        inside: take out what lies between two places of the line drawn at random, which mostly
            are inside words, instead of all of it; never spaces alone.
    """
    random_numbers = random.Random(seed)
    found = []
    for lines, number in _places(texts, random_numbers):
        line = lines[number].rstrip("\n")
        start, end = 0, len(line)
        if inside:
            start, end = sorted(random_numbers.sample(range(len(line) + 1), 2))
        before = _closest(lines[:number][::-1], tokenizer, context // 2)[::-1]
        after = _closest(lines[number + 1 :], tokenizer, context // 2)
        rest = lines[number][end:]
        gap = Gap("".join(before) + line[:start], line[start:end], rest + "".join(after))
        # Writing nothing would match spaces; what spells a control token cannot be asked for.
        spells = tokenizer.control_ids.intersection(tokenizer.encode(gap.prefix + gap.suffix))
        if gap.middle.strip() and not spells:
            found.append(gap)
        if len(found) == count:
            break
    return found


def _places(texts: Iterable[str], random_numbers: random.Random) -> Iterator[tuple[list[str], int]]:
    """The lines of a text and the number of one that is not blank, each once; rounds over all texts
    that have lines left."""
    left = []
    for text in texts:
        lines = text.splitlines(keepends=True)
        numbers = [number for number, line in enumerate(lines) if line.strip()]
        random_numbers.shuffle(numbers)
        left.append((lines, numbers))
    while left := [(lines, numbers) for lines, numbers in left if numbers]:
        random_numbers.shuffle(left)
        for lines, numbers in left:
            yield lines, numbers.pop()


def _closest(lines: Sequence[str], tokenizer: Tokenizer, most: int) -> Sequence[str]:
    """As many of the first lines as have at most `most` tokens together."""
    taken = 0
    for count, size in enumerate(accumulate(len(tokenizer.encode(line)) for line in lines)):
        if size > most:
            break
        taken = count + 1
    return lines[:taken]


def exact_matches(
    llm: CodeLlama,
    asked: Sequence[Gap],
    suffix_first: bool,
    progress: Progress | None = None,
    group: int = 32,
    **options: Any,
) -> list[bool]:
    """Which gaps the model fills with exactly what was there, but for spaces around it.

    Only the first line of what the model writes counts.

    Args:
        suffix_first: as for `CodeLlama.infill`.
        progress: told gaps done and gaps in all.
        group: gaps that run together.
        options: as for `CodeLlama.infill`; greedy, 128 tokens unless given.
    """
    options = {"max_new_tokens": 128, "batch_size": group, "stop": ("\n",), **options}
    matches: list[bool] = []
    for start in range(0, len(asked), group):
        batch = asked[start : start + group]
        pairs = [(gap.prefix, gap.suffix) for gap in batch]
        for gap, filled in zip(batch, llm.infill(pairs, suffix_first, **options), strict=True):
            matches.append(filled.text.strip() == gap.middle.strip())
        if progress:
            progress(len(matches), len(asked))
    return matches
