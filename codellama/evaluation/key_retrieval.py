"""Key retrieval: is a value far back in a long context found again (arXiv 2308.12950, appendix
G.2)?"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch

from codellama.errors import DataError, RequestError
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
LONGEST_TOKEN = 16
"""Characters that a token of code stands for at most, on average."""


@dataclass(frozen=True)
class Cells:
    """Where keys stand, in contexts of which lengths.

    Args:
        length: tokens of a prompt; may be given several times.
        position: of the key, from 0 to 1; may be given several times.
        examples: prompts of each length and position.
        rope_theta: another rotary base than the model's.
        rope_scaling_factor: divide positions by it (linear position interpolation).
        seed: draws filler and values.

    Raises:
        RequestError: a value is out of range.
    """

    length: tuple[int, ...] = (8_000, 16_000, 24_000)
    position: tuple[float, ...] = (0.0, 0.2, 0.4)
    examples: int = 64
    rope_theta: float | None = None
    rope_scaling_factor: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.examples < 1 or min(self.length) < 1 or not all(0 <= p <= 1 for p in self.position):
            raise RequestError("length and examples have to be 1 or more, position from 0 to 1")

    def override_rope(self, model: Transformer) -> None:
        """Gives a model the rotary base and the scaling factor (arXiv 2306.15595) asked for."""
        if self.rope_theta is not None:
            model.config = replace(model.config, rope_theta=self.rope_theta)
        if self.rope_scaling_factor is not None:
            model.config = replace(model.config, rope_scaling_factor=self.rope_scaling_factor)


def functions(texts: Iterable[str], characters: int, seed: int = 0) -> list[str]:
    """Functions of Python files, but no methods, in an order drawn by the seed: all of files that
    are drawn until there are so many characters."""
    random_numbers, found = random.Random(seed), set[str]()
    files = sorted(texts)
    for text in random_numbers.sample(files, len(files)):
        if sum(map(len, found)) > characters:
            break
        try:
            nodes = ast.parse(text).body
        except (SyntaxError, ValueError):
            continue
        sources = (ast.get_source_segment(text, n) for n in nodes if isinstance(n, ast.FunctionDef))
        found |= {f"{source}\n\n\n" for source in sources if source}
    return random_numbers.sample(sorted(found), len(found))


def prompts(
    tokenizer: Tokenizer, filler: Sequence[str], cell: tuple[int, float], cells: Cells
) -> list[tuple[int, list[int]]]:
    """A value and the tokens of a prompt for each example of a cell; they differ in the value.

    The filler is as many functions as fit into the cell's length. The key stands before the first
    one that would end behind its position.

    Raises:
        DataError: all functions together are shorter.
    """
    length, position = cell
    total = len(tokenizer.encode(KEY.format(VALUES[0]) + QUESTION, bos=True))
    parts, key_at = ["", ""], total + position * (length - total)
    for function in filler:
        total += len(tokenizer.encode_continuation(function))
        if total > length:
            break
        parts[total > key_at] += function
    else:
        raise DataError(
            f"all functions have {total:,} tokens, fewer than the length {length:,}; give more "
            "files"
        )
    values = random.Random(cells.seed).sample(VALUES, len(VALUES))
    values = (values * cells.examples)[: cells.examples]
    texts = [KEY.format(value).join(parts) + QUESTION for value in values]
    return [(v, tokenizer.encode(text, bos=True)) for v, text in zip(values, texts, strict=True)]


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
    texts: Iterable[str],
    cells: Cells,
    *,
    results: Results | None = None,
    progress: Progress | None = None,
) -> dict[tuple[int, float], float]:
    """For each length and position, the share of prompts after which the first number that the
    model writes is the key's value. The model keeps the rotary settings of `cells`.

    Args:
        texts: Python files whose functions fill the context.
        results: keeps each prompt's value and answer.
        progress: told cells done and cells in all.
    """
    cells.override_rope(llm.model)
    filler = functions(texts, LONGEST_TOKEN * max(cells.length), cells.seed)

    def ask(group: Sequence[tuple[int, float]]) -> Iterator[Record]:
        for cell in group:
            values, asked = zip(*prompts(llm.tokenizer, filler, cell, cells), strict=True)
            for sample, (value, text) in enumerate(zip(values, answers(llm, asked), strict=True)):
                correct = re.findall(r"\d+", text)[:1] == [str(value)]
                named = {"task_id": cell[0], "order": cell[1], "sample": sample}
                yield {**named, "value": value, "answer": text, "correct": correct}

    table = list(product(cells.length, cells.position))
    units: dict[Key, tuple[int, float]] = {(*cell, 0): cell for cell in table}
    counts = dict.fromkeys(table, 0)
    for record in (results or Results()).collect(units, ask, progress):
        counts[record["task_id"], record["order"]] += record["correct"]
    return {cell: count / cells.examples for cell, count in counts.items()}
