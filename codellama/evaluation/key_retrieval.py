"""Key retrieval: is a value far back in a long context found again (arXiv 2308.12950, appendix
G.2)?"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from codellama.errors import DataError
from codellama.evaluation.perplexity import CHUNK
from codellama.evaluation.results import Key, Progress, Record, Results
from codellama.inference.generation import CodeLlama
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import Tokenizer

KEY = """def my_function() -> int:
    return "Note that this function is used at the end"
    return {}


"""
QUESTION = "assert my_function() == "
VALUES = range(10, 100)
ANSWER_TOKENS = 4


@dataclass(frozen=True)
class Cell:
    """A length in tokens, a relative position of the key from 0 to 1, and how many examples."""

    length: int
    position: float
    examples: int = 64


def override_rope(model: Transformer, theta: float | None, scaling_factor: float | None) -> None:
    """Gives a model another rotary base, or divides its positions by a factor (linear position
    interpolation, Chen et al. 2023, arXiv 2306.15595)."""
    changes = {"rope_theta": theta, "rope_scaling_factor": scaling_factor}
    given = {name: value for name, value in changes.items() if value is not None}
    model.config = replace(model.config, **given)


def functions(texts: Iterable[str], seed: int = 0) -> list[str]:
    """The functions of Python files, but for methods, in an order drawn by the seed."""
    found = set()
    for text in texts:
        try:
            nodes = ast.parse(text).body
        except (SyntaxError, ValueError):
            continue
        sources = (ast.get_source_segment(text, n) for n in nodes if isinstance(n, ast.FunctionDef))
        found |= {f"{source}\n\n\n" for source in sources if source}
    return random.Random(seed).sample(sorted(found), len(found))


def prompts(
    tokenizer: Tokenizer, filler: Sequence[str], cell: Cell, seed: int = 0
) -> list[tuple[int, list[int]]]:
    """A value and the tokens of a prompt for each example of a cell; they differ in the value.

    The filler is as many functions as fit into the cell's length. The key stands before the first
    one that would end behind its position.

    Raises:
        DataError: all functions together are shorter.
    """
    total = len(tokenizer.encode(KEY.format(VALUES[0]) + QUESTION, bos=True))
    parts, key_at = ["", ""], total + cell.position * (cell.length - total)
    for function in filler:
        total += len(tokenizer.encode_continuation(function))
        if total > cell.length:
            break
        parts[total > key_at] += function
    else:
        raise DataError(
            f"all functions have {total:,} tokens, fewer than the length {cell.length:,}; give "
            "more files"
        )
    values = random.Random(seed).sample(VALUES, len(VALUES)) * -(-cell.examples // len(VALUES))
    texts = ((value, KEY.format(value).join(parts) + QUESTION) for value in values)
    pairs = [(value, tokenizer.encode(text, bos=True)) for value, text in texts]
    return pairs[: cell.examples]


@torch.no_grad()
def answers(llm: CodeLlama, asked: Sequence[Sequence[int]]) -> Iterator[str]:
    """Continues each prompt greedily by a few tokens. What a prompt has in common with the one
    before it stays in the KV cache, which is exact: attention is causal."""
    model, device = llm.model, llm.model.tok_embeddings.weight.device
    cache = model.new_cache(1, max(map(len, asked)) + ANSWER_TOKENS)
    held: Sequence[int] = ()
    for ids in asked:
        differ = (at for at, (old, new) in enumerate(zip(held, ids, strict=False)) if old != new)
        known = min(next(differ, len(held)), len(ids) - 1)
        cache.lengths = [known]
        for start in range(known, len(ids), CHUNK):
            hidden = model.hidden(torch.tensor([ids[start : start + CHUNK]], device=device), cache)
        written: list[int] = []
        for _ in range(ANSWER_TOKENS):
            token = model.logits(hidden[:, -1]).argmax(-1)
            written.append(int(token))
            hidden = model.hidden(token[:, None], cache)
        held = ids
        yield llm.tokenizer.decode(written)


def key_retrieval(
    llm: CodeLlama,
    filler: Sequence[str],
    cells: Sequence[Cell],
    *,
    seed: int = 0,
    results: Results | None = None,
    progress: Progress | None = None,
) -> dict[Cell, float]:
    """The share of each cell's examples in which the first number written is the key's value.

    Args:
        filler: functions to fill the context with.
        seed: draws the values.
        results: keeps each example's value and answer.
        progress: told cells done and cells in all.
    """

    def ask(group: Sequence[Cell]) -> Iterator[Record]:
        for cell in group:
            values, asked = zip(*prompts(llm.tokenizer, filler, cell, seed), strict=True)
            for sample, (value, text) in enumerate(zip(values, answers(llm, asked), strict=True)):
                correct = re.findall(r"\d+", text)[:1] == [str(value)]
                named = {"task_id": cell.length, "order": cell.position, "sample": sample}
                yield {**named, "value": value, "answer": text, "correct": correct}

    units: dict[Key, Cell] = {(cell.length, cell.position, 0): cell for cell in cells}
    counts = dict.fromkeys(cells, 0)
    for record in (results or Results()).collect(units, ask, progress):
        counts[units[record["task_id"], record["order"], 0]] += record["correct"]
    return {cell: count / cell.examples for cell, count in counts.items()}
