"""Key retrieval: is a value far back in a context found again (arXiv 2308.12950, appendix G.2)?"""

from __future__ import annotations

import ast
import contextlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product

from codellama.errors import DataError, RequestError, check_fields, number
from codellama.evaluation.results import Results, digest
from codellama.inference.codellama import CodeLlama
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import Tokenizer

KEY = """def my_function() -> int:
    return "Note that this function is used at the end"
    return {}


"""
QUESTION = "assert my_function() == "
VALUES = range(10, 100)
ANSWER_TOKENS = 4
CHARACTERS_PER_TOKEN = 16  # more than any text has


@dataclass(frozen=True)
class KeyRetrievalArguments:
    """Where keys stand, in contexts of which lengths.

    Args:
        length: tokens of a prompt, or a list of lengths.
        position: of the key, from 0 to 1, or a list of positions.
        examples: prompts of each length and position.
        rope_theta: another rotary base than the model's.
        rope_scaling_factor: divide positions by it (linear position interpolation).
        seed: draws filler and values.

    Raises:
        RequestError: a value is out of range.
    """

    length: tuple[int, ...] = number((8_000, 16_000, 24_000), least=1)
    position: tuple[float, ...] = number((0.0, 0.2, 0.4), least=0, most=1)
    examples: int = number(64, least=1)
    rope_theta: float | None = None
    rope_scaling_factor: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def override_rope(self, model: Transformer) -> None:
        """Gives a model the rotary base and the scaling factor (arXiv 2306.15595) asked for."""
        theta = self.rope_theta or model.config.rope_theta
        factor = self.rope_scaling_factor or model.config.rope_scaling_factor
        model.config = replace(model.config, rope_theta=theta, rope_scaling_factor=factor)


def functions(texts: Iterable[str], characters: int, seed: int = 0) -> list[str]:
    """Functions of Python files, but no methods, in an order drawn by the seed: of as many files as
    hold so many characters of them."""
    numbers, files, found = random.Random(seed), sorted(texts), set[str]()
    for text in numbers.sample(files, len(files)):
        if sum(map(len, found)) > characters:
            break
        with contextlib.suppress(SyntaxError, ValueError):
            nodes = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
            found |= {f"{ast.get_source_segment(text, node)}\n\n\n" for node in nodes}
    return numbers.sample(sorted(found), len(found))


def surroundings(
    tokenizer: Tokenizer, filler: Sequence[str], length: int, position: float
) -> tuple[str, str]:
    """What stands before and behind a key: as many functions as fit into a length in tokens. The
    key stands before the first one that would end behind its position.

    Raises:
        DataError: all functions together are shorter.
    """
    total = len(tokenizer.encode(KEY.format(VALUES[0]) + QUESTION, bos=True))
    parts, key_at = ["", ""], total + position * (length - total)
    for function in filler:
        total += len(tokenizer.encode_continuation(function))
        if total > length:
            return parts[0], parts[1]
        parts[total > key_at] += function
    raise DataError(f"the functions have {total:,} tokens of {length:,}; give more files")


def key_retrieval(
    llm: CodeLlama,
    texts: Iterable[str],
    arguments: KeyRetrievalArguments,
    results: Results | None = None,
) -> dict[tuple[int, float], float]:
    """For each length and position, the share of prompts after which the first number that the
    model writes is the key's value. The model keeps the rotary settings of `arguments`.

    Args:
        texts: Python files whose functions fill the context.
        results: keeps each prompt's value and answer.

    Raises:
        RequestError: a prompt would be longer than the model's context.
        DataError: the functions are too few.
    """
    if (longest := max(arguments.length)) > (most := llm.model.config.max_seq_len):
        raise RequestError(
            f"length is {longest:,}, but the model's context holds {most:,} tokens; choose shorter"
        )
    arguments.override_rope(llm.model)
    results, tokenizer = results or Results(), llm.tokenizer
    filler = functions(texts, CHARACTERS_PER_TOKEN * max(arguments.length), arguments.seed)
    around = cache(partial(surroundings, tokenizer, filler))
    values = random.Random(arguments.seed).sample(VALUES, len(VALUES))
    shapes = dict.fromkeys(product(arguments.length, arguments.position))  # each once
    mark = digest("".join(filler))
    keys = [(*shape, sample, mark) for shape in shapes for sample in range(arguments.examples)]
    for [key] in results.missing(keys):
        length, place, sample, _ = key
        value = values[sample % len(values)]
        prompt = KEY.format(value).join(around(length, place)) + QUESTION
        ids = tokenizer.encode(prompt, bos=True)
        [answer] = llm.generate([ids], stop_ids=[], max_new_tokens=ANSWER_TOKENS)
        correct = re.findall(r"\d+", answer.text)[:1] == [str(value)]
        results.add(key, value=value, answer=answer.text, correct=correct)
    counts = Counter(key[:2] for key in keys if results.records[key]["correct"])
    return {shape: counts[shape] / arguments.examples for shape in shapes}
