"""Weights between those of two models, of which one was trained from the other.

What a model learns last it pays for with what it could do before. Halfway between both, in every
weight, it often can do both: WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903, section 3).
"""

from __future__ import annotations

import torch

from codellama.errors import DataError
from codellama.model.transformer import Transformer


@torch.no_grad()
def mix(model: Transformer, other: Transformer, share: float) -> None:
    """Moves every weight of `model` by `share` of the way to that of `other`.

    Raises:
        DataError: the models have different shapes.
    """
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    if {name: weight.shape for name, weight in ours.items()} != {
        name: weight.shape for name, weight in theirs.items()
    }:
        raise DataError(
            f"a model of {len(model.layers)} blocks of {model.config.dim} channels cannot be mixed "
            f"with one of {len(other.layers)} of {other.config.dim}, or their other sizes differ; "
            "expected the same shape"
        )
    for name, weight in ours.items():
        weight.lerp_(theirs[name], share)
