"""Products with many rows of activations, by way of weights expanded slice by slice.

Slow: weights of 4 bits, or of 16 bits on a processor with AVX2 alone, are no numbers that its
    matrix units multiply.
Instead: `SLICE` rows of the weight at a time are expanded into one buffer, and multiplied there.
Gains: expanding into the same megabytes again and again took five sixths (4 bits) of the time of
    expanding a whole matrix into fresh memory; with AVX2, 256 rows of bfloat16 took a fifth of
    the time of PyTorch's own product (two cores, 2026-11).
Costs: a buffer of one slice.
Not for: few rows, where expanding takes longer than the product.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

FEW_ROWS = 16
"""Up to so many rows of activations, reading weights as they are beats expanding them."""
SLICE = 2048
"""Rows of a weight; of 1,024, 2,048 and 4,096 the second read prompts fastest in 4 bits."""


def linear_by_slices(
    x: Tensor,
    in_features: int,
    out_features: int,
    product: Callable[[Tensor, slice, Tensor], Tensor],
) -> Tensor:
    """A linear layer's outputs (..., out) for `x` (..., in).

    Args:
        product: takes activations (rows, in) in the dtype that the device multiplies fastest, a
            range of outputs, and a buffer for their expanded weight; gives (rows, outputs).
    """
    rows = x.reshape(-1, in_features).to(product_dtype(x.dtype, x.device))
    y = x.new_empty(len(rows), out_features)
    buffer = rows.new_empty(min(SLICE, out_features) * in_features)
    for start in range(0, out_features, SLICE):
        outputs = slice(start, min(start + SLICE, out_features))
        y[:, outputs] = product(rows, outputs, buffer)
    return y.unflatten(0, x.shape[:-1])


@cache
def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a device multiplies expanded matrices of `dtype` fastest."""
    half = dtype in (torch.bfloat16, torch.float16)
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.float32 if half and slow else dtype
