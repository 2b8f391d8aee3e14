"""Positions that skip, so that short sequences show long distances: PoSE (Zhu et al. 2023, arXiv
2309.10400, section 3), with two chunks.

A rotary embedding tells tokens apart by distance alone. Where a sequence is cut in two and its
second half moved away, the model sees distances of a whole context at the cost of a short sequence,
and does not forget what they look like.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor


def skipping(
    count: int, length: int, context: int, rate: float, random_numbers: random.Random
) -> Tensor:
    """Positions of tokens in sequences, some of which skip at one place.

    Args:
        count, length: of the sequences.
        context: positions that there are; a skip is a uniformly drawn part of what a sequence
            leaves of them.
        rate: share of sequences that skip.

    Returns:
        (count, length) whole numbers from 0, growing in each row.
    """
    positions = torch.arange(length).repeat(count, 1)
    for row in positions:
        if random_numbers.random() < rate:
            place = random_numbers.randrange(1, length)
            row[place:] += random_numbers.randint(0, context - length)
    return positions
