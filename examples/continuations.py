"""How good does generated code look? Counts what a reader sees first: loops, and broken syntax.

    python examples/continuations.py [--ckpt DIR] [--count 200]

Headers of functions in held-out files of the standard library are continued greedily by 64 tokens.
A text that ends in the same few tokens again and again is a loop. A text is valid if Python accepts
it without its last lines, which the end of the text has cut.
"""

from __future__ import annotations

import ast
import contextlib
import random
from dataclasses import dataclass

from codellama import CodeLlama
from codellama.cli import checkpoint_directory, run
from codellama.errors import number
from codellama.training.documents import find_documents, read_document

LOOP, TIMES = 8, 3
"""Tokens that a loop repeats at most, and how often a text of so many repeats them at the end."""
CUT_LINES = 3
"""Lines at the end that may belong to a statement that is not whole."""


@dataclass(frozen=True)
class Question:
    """What is continued, and by which model.

    Args:
        ckpt: checkpoint directory; without it, the small one that comes with the package.
        count: number of functions.
        temperature: 0 for the likeliest tokens.
        show: print so many of the texts.
    """

    ckpt: str | None = None
    count: int = number(200, least=1)
    temperature: float = number(0.0, least=0)
    show: int = number(3, least=0)


def function_headers(count: int) -> list[str]:
    """Headers of one line of functions that stand at the top of held-out files."""
    headers = []
    for path in find_documents().held_out:
        lines = read_document(path).splitlines()
        headers += [line for line in lines if line.startswith("def ") and line.endswith("):")]
    random.Random(0).shuffle(headers)
    return headers[:count]


def is_loop(tokens: list[int]) -> bool:
    """Whether the end repeats at most `LOOP` tokens, over a length of `TIMES` times as many."""
    end = tokens[-LOOP * TIMES :]
    repeats = any(end[period:] == end[:-period] for period in range(1, LOOP + 1))
    return len(end) == LOOP * TIMES and repeats


def is_valid(code: str) -> bool:
    """Whether Python accepts the code without a few lines at its end."""
    lines = code.splitlines()
    for end in range(len(lines), max(1, len(lines) - CUT_LINES - 1), -1):
        with contextlib.suppress(SyntaxError, ValueError):
            ast.parse("\n".join(lines[:end]))
            return True
    return False


def continuations(question: Question) -> None:
    """Count loops and valid texts among continuations of function headers."""
    llm = CodeLlama.load(checkpoint_directory(question.ckpt), dtype="float32")
    headers = function_headers(question.count)
    options = {"temperature": question.temperature, "seed": 0, "batch_size": 20}
    texts = llm.complete(headers, max_new_tokens=64, **options)
    for header, text in zip(headers[: question.show], texts, strict=False):
        print(f"{header}{text.text}\n{'-' * 40}")
    loops = sum(is_loop(text.tokens) for text in texts)
    valid = sum(is_valid(header + text.text) for header, text in zip(headers, texts, strict=True))
    print(f"{len(headers)} functions: {loops / len(headers):.1%} end in a loop, ", end="")
    print(f"{valid / len(headers):.1%} are valid Python")


if __name__ == "__main__":
    run(continuations)
