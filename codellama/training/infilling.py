"""How documents teach a model to infill: the fill-in-the-middle transform (Bavarian et al. 2022,
arXiv 2207.14255), as Code Llama was trained with it (arXiv 2308.12950, section 2.3).

A document is cut in three at random, and its middle moved to the end, behind what surrounds it.
Read from left to right, it then shows how a gap is filled.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import Tensor

from codellama.text import prompts
from codellama.text.tokenizer import Tokenizer

RATE = 0.9
LINE_RATE = 0.0
SUFFIX_FIRST_RATE = 0.5
NEVER = -2
"""No token, nor padding."""


def cut(document: str, random_numbers: random.Random) -> tuple[str, str, str]:
    """Prefix, middle and suffix of a document, between two uniformly drawn places of its
    characters. Any of the three may be empty."""
    first, second = sorted(random_numbers.randint(0, len(document)) for _ in range(2))
    return document[:first], document[first:second], document[second:]


def cut_line(document: str, random_numbers: random.Random) -> tuple[str, str, str]:
    """As `cut`, around one whole line that is not blank, without its end: the gap that an editor
    asks to have filled, and easier to learn, since no word is cut in two."""
    lines = document.split("\n")
    written = [number for number, line in enumerate(lines) if line.strip()]
    if not written:
        return cut(document, random_numbers)
    number = random_numbers.choice(written)
    prefix = "".join(line + "\n" for line in lines[:number])
    suffix = "".join("\n" + line for line in lines[number + 1 :])
    return prefix, lines[number], suffix


def example(
    tokenizer: Tokenizer, prefix: str, middle: str, suffix: str, suffix_first: bool
) -> list[int]:
    """Token ids of a filled gap: the prompt of `prompts.infilling`, the middle, and EOT.

    With the suffix first, prefix and middle are encoded as one text, so that the model learns to go
    on from a prefix that ends inside a token.

    Raises:
        PromptError: the vocabulary has no infilling tokens, or the text spells a control token.
    """
    if tokenizer.eot_id is None:
        raise prompts.PromptError("the vocabulary has no infilling tokens to train with")
    if suffix_first:
        prompt = prompts.infilling(tokenizer, prefix + middle, suffix, suffix_first=True)
        return [*prompt, tokenizer.eot_id]
    prompt = prompts.infilling(tokenizer, prefix, suffix)
    target = tokenizer.encode_continuation(middle)
    if tokenizer.control_ids.intersection(target):
        raise prompts.PromptError("the text to fill in spells a control token")
    return [*prompt, *target, tokenizer.eot_id]


def transform(
    tokenizer: Tokenizer,
    document: str,
    random_numbers: random.Random,
    line_rate: float = LINE_RATE,
    suffix_first_rate: float = SUFFIX_FIRST_RATE,
) -> list[int]:
    """Token ids of a whole document that is cut at random.

    Args:
        line_rate: share of documents that are cut around a line; the paper has none.
        suffix_first_rate: share of documents with the suffix first; the paper has half.

    Raises:
        PromptError: as `example`.
    """
    cut_somewhere = cut_line if random_numbers.random() < line_rate else cut
    parts = cut_somewhere(document, random_numbers)
    return example(tokenizer, *parts, random_numbers.random() < suffix_first_rate)


def in_gap(rows: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Which tokens of `rows` (batch, length) fill a gap, EOT among them: (batch, length), bool.

    Only those of documents with the prefix first: with the suffix first, nothing marks where the
    prefix ends and the gap begins.
    """
    places = torch.arange(rows.size(1), device=rows.device).expand_as(rows)

    def latest(token: int | None) -> Tensor:
        """The last place before each token that has a certain one; -1: there is none."""
        seen = torch.where(torch.eq(rows, token or NEVER), places, -1).cummax(dim=1).values
        return F.pad(seen[:, :-1], (1, 0), value=-1)

    behind_prefix = rows.roll(-1, dims=1).gather(1, latest(tokenizer.prefix_id).clamp(min=0))
    filled = latest(tokenizer.middle_id) > latest(tokenizer.eot_id)
    return filled & (behind_prefix != tokenizer.suffix_id)
