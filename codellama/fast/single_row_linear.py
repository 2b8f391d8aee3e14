"""Linear layers of 16 bits on a CPU, as they are mapped from disk.

Slow: for one row of bfloat16, `F.linear` asks oneDNN, whose products are made for many rows. For
    many rows on a processor with AVX2 alone, which has no products of 16 bits, it converts each
    number at each use.
Instead: one row goes to PyTorch's own product of a matrix and a vector; many rows are multiplied
    in float32 (see `expansion`).
Gains (two cores, 2026-11): one row takes half the time with AVX-512, and 0.74 to 0.87 of it where
    there are tiles for matrices (AMX); many rows take a fifth with AVX2.
Costs: nothing.
Not for: GPUs, float32, gradients and compiled steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.fast.expansion import FEW_ROWS, linear_by_slices, product_dtype


class SingleRowLinear(nn.Linear):
    """`nn.Linear` without bias that takes the quickest product for the rows that it gets.

    Shape:
        (..., in) -> (..., out)
    """

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Whether a weight is one of 16 bits on a CPU, all of it in this process."""
        whole = type(weight) is nn.Parameter
        return whole and weight.device.type == "cpu" and weight.dtype.itemsize == 2

    @classmethod
    def sharing(cls, linear: nn.Linear) -> SingleRowLinear:
        """A layer with the parameter of another."""
        layer = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        layer.weight = linear.weight
        return layer

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        rows = x.numel() // self.in_features
        if rows == 1 and x.dtype == torch.bfloat16:
            return self._one_row(x)
        if rows > FEW_ROWS and product_dtype(x.dtype, x.device) != x.dtype:
            return linear_by_slices(x, self.in_features, self.out_features, self._product)
        return super().forward(x)

    def _one_row(self, x: Tensor) -> Tensor:
        if _has_tiles():
            return torch.mv(self.weight, x.view(-1)).view(*x.shape[:-1], -1)
        with without_onednn():
            return super().forward(x)

    def _product(self, x: Tensor, outputs: slice, buffer: Tensor) -> Tensor:
        weight = self.weight[outputs]
        return F.linear(x, buffer[: weight.numel()].view_as(weight).copy_(weight))


@contextmanager
def without_onednn() -> Iterator[None]:
    """Lets PyTorch take products itself, on a processor with AVX-512 and no tiles.

    Up to PyTorch 2.13 no operator takes a product of bfloat16 past oneDNN, so this switches a flag
    of the whole process and back. Other threads' products are right meanwhile, if slower.
    """
    onednn: Any = torch.backends.mkldnn
    if _has_tiles() or not _has_avx512() or not onednn.enabled:
        yield
        return
    try:
        onednn.enabled = False
        yield
    finally:
        onednn.enabled = True


@cache
def _has_tiles() -> bool:
    return torch.cpu._is_amx_tile_supported()


@cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"
