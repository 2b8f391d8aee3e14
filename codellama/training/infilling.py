"""How documents teach a model to infill: the fill-in-the-middle transform (Bavarian et al. 2022,
arXiv 2207.14255), as Code Llama was trained with it (arXiv 2308.12950, section 2.3). The middle of
a document moves to its end, behind what surrounds it: read in order, it shows how a gap is filled.
`packing` decides which documents are cut.
"""

from __future__ import annotations

import random

from codellama.errors import PromptError
from codellama.text import prompts
from codellama.text.tokenizer import Tokenizer

SUFFIX_FIRST_SHARE = 0.5


def cut(document: str, random_numbers: random.Random) -> tuple[str, str, str]:
    """Prefix, middle and suffix of a document, between two uniformly drawn places of its
    characters. Any of the three may be empty."""
    first, second = sorted(random_numbers.randint(0, len(document)) for _ in range(2))
    return document[:first], document[first:second], document[second:]


def example(
    tokenizer: Tokenizer, parts: tuple[str, str, str], suffix_first: bool = False
) -> list[int]:
    """Token ids of a filled gap, of which `parts` are prefix, middle and suffix: the prompt of
    `prompts.infilling`, the middle, and EOT. With the suffix first, prefix and middle are one text
    to the tokenizer, so that the model learns to go on from a prefix that ends inside a token.

    Raises:
        PromptError: the vocabulary has no infilling tokens, or the text spells a control token.
    """
    prefix, middle, suffix = parts
    if tokenizer.eot_id is None:
        raise PromptError("the vocabulary has no infilling tokens to train with")
    if suffix_first:
        prompt = prompts.infilling(tokenizer, prefix + middle, suffix, suffix_first=True)
        return [*prompt, tokenizer.eot_id]
    prompt = prompts.infilling(tokenizer, prefix, suffix)
    target = tokenizer.encode_continuation(middle)
    if tokenizer.control_ids.intersection(target):
        raise PromptError("the text to fill in spells a control token")
    return [*prompt, *target, tokenizer.eot_id]


def transform(tokenizer: Tokenizer, document: str, random_numbers: random.Random) -> list[int]:
    """The `example` of a document that is cut at random; half of them have the suffix first."""
    parts = cut(document, random_numbers)
    return example(tokenizer, parts, random_numbers.random() < SUFFIX_FIRST_SHARE)
