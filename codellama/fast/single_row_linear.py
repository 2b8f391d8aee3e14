"""Linear layers of 16 bits on a CPU, as they are mapped from disk.

Slow: for one row of bfloat16, `F.linear` asks oneDNN, whose products are made for many rows. For
    many rows on a processor with AVX2 alone, which has no products of 16 bits, it converts each
    number at each use.
Instead: one row goes to PyTorch's own product of a matrix and a vector. For many rows, slices of
    the weight are converted to float32 first.
Gains (two cores, 2026-11): one row takes half the time with AVX-512, and 0.74 to 0.87 of it where
    there are tiles for matrices (AMX); many rows take a fifth with AVX2.
Costs: nothing.
Not for: GPUs, float32, gradients; compiled steps without tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.fast.operators import has_amx

MAX_ROWS = 16
"""Rows of activations up to which reading the weight as it is beats converting it."""
SLICE = 1024
"""Rows of a weight that are converted together, so that the same memory serves all slices."""


class SingleRowLinear(nn.Linear):
    """`nn.Linear` without bias that takes the quickest product for the rows that it gets.

    Shape:
        (..., in) -> (..., out)
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight = weight
        self.has_amx = has_amx()  # asked here, since torch.compile cannot trace it

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether a weight is one of 16 bits on a CPU, all of it in this process."""
        whole = type(weight) is nn.Parameter
        return whole and weight.device.type == "cpu" and weight.dtype.itemsize == 2

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        rows = x.numel() // self.in_features
        if rows == 1 and x.dtype == torch.bfloat16 and self.has_amx:
            return torch.mv(self.weight, x.view(-1)).view(*x.shape[:-1], -1)
        if torch.compiler.is_compiling():
            return super().forward(x)
        if rows == 1 and x.dtype == torch.bfloat16:
            with without_onednn():
                return super().forward(x)
        dtype = product_dtype(x.dtype, x.device)
        if rows > MAX_ROWS and dtype != x.dtype:
            parts = self.weight.split(SLICE)
            return torch.cat([F.linear(x.to(dtype), part.to(dtype)) for part in parts], -1).to(x)
        return super().forward(x)


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a device multiplies matrices of `dtype` fastest."""
    half = dtype in (torch.bfloat16, torch.float16)
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.float32 if half and slow else dtype


@contextmanager
def without_onednn() -> Iterator[None]:
    """Lets PyTorch take products itself, on a processor with AVX-512 and no tiles.

    Up to PyTorch 2.13 no operator takes a product of bfloat16 past oneDNN, so this switches a flag
    of the whole process and back. Other threads' products are right meanwhile, if slower.
    """
    onednn: Any = torch.backends.mkldnn
    has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    if not onednn.enabled or not has_avx512 or has_amx():
        yield
        return
    try:
        onednn.enabled = False
        yield
    finally:
        onednn.enabled = True
