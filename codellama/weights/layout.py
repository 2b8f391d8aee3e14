"""How a process holds a model: which layers it is made of, and what of each parameter is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.model.transformer import Transformer
from codellama.weights.checkpoint import Region

FEW_ROWS = 16
"""Up to so many rows of activations, reading weights as they are beats expanding them."""
SLICE = 2048
"""Rows of a matrix that are expanded together. Into the same megabytes again and again that took a
sixth (4 bits) to a tenth (8 bits) of the time of expanding a whole matrix into fresh memory. Of
1,024, 2,048 and 4,096, the second read prompts fastest in 4 bits."""


class SlicedLinear(nn.Module):
    """A linear layer whose weight is expanded for many rows of activations, slice by slice, into
    numbers that the processor multiplies fast."""

    in_features: int
    out_features: int

    def product(self, x: Tensor, outputs: slice, room: Tensor) -> Tensor:
        """The outputs of a range for x (rows, in), by way of weights expanded into `room`."""
        raise NotImplementedError

    def many_rows(self, x: Tensor) -> Tensor:
        """The product for x (rows, in) of any number of rows."""
        y = x.new_empty(len(x), self.out_features)
        x = x.to(product_dtype(x.dtype, x.device))
        room = x.new_empty(min(SLICE, self.out_features) * self.in_features)
        for start in range(0, self.out_features, SLICE):
            outputs = slice(start, min(start + SLICE, self.out_features))
            y[:, outputs] = self.product(x, outputs, room)
        return y


class RowLinear(SlicedLinear, nn.Linear):
    """A linear layer that takes the quickest way for the rows of activations that it gets.

    One row of bfloat16 on a processor with AVX-512: `F.linear` asks oneDNN, whose products are made
    for many rows. PyTorch's own product of a matrix and a vector reads weights twice as fast. Where
    there are tiles for matrices (AMX), `torch.mv` was enough to be 1.15 to 1.35 times as fast.

    Many rows of 16 bits on a processor with AVX2 alone, which has no products of such numbers: 256
    rows took a fifth of the time by way of float32.
    """

    def product(self, x: Tensor, outputs: slice, room: Tensor) -> Tensor:
        """With the weight's numbers as they are, in the dtype of `room`."""
        weight = self.weight[outputs]
        return F.linear(x, room[: weight.numel()].view_as(weight).copy_(weight))

    def forward(self, x: Tensor) -> Tensor:
        # One graph for torch.compile, and gradients of the weight.
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().forward(x)
        rows = x.numel() // self.in_features
        if rows == 1 and x.device.type == "cpu":
            return self._one_row(x)
        if rows > FEW_ROWS and product_dtype(x.dtype, x.device) != x.dtype:
            return self.many_rows(x.reshape(rows, -1)).unflatten(0, x.shape[:-1])
        return super().forward(x)

    def _one_row(self, x: Tensor) -> Tensor:
        if _has_tiles():
            return torch.mv(self.weight, x.view(-1)).view(*x.shape[:-1], -1)
        if x.dtype != torch.bfloat16:
            return super().forward(x)
        with without_onednn():
            return super().forward(x)


@contextmanager
def without_onednn() -> Iterator[None]:
    """On a processor with AVX-512 and no tiles: lets PyTorch take products itself; see `RowLinear`.
    Other threads' products are right meanwhile, if slower."""
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
def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """In which dtype a device multiplies matrices of `dtype` fastest, once they are expanded."""
    half = dtype in (torch.bfloat16, torch.float16)
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.float32 if half and slow else dtype


def multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16, and PyTorch the library that uses them."""
    has_products = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and has_products


@cache
def _has_tiles() -> bool:
    return torch.cpu._is_amx_tile_supported()


@cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


class Layout:
    """How a process holds a model; this one: whole, as it is."""

    def prepare(self, model: Transformer) -> None:
        """Changes the model before any weight is read; its parameters are on the meta device."""
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = RowLinear

    def region(self, parameter: nn.Parameter) -> Region | None:
        """The part of a parameter that is read; None: all of it."""
        return None

    def place(self, owner: nn.Module, leaf: str, share: Tensor) -> None:
        """Puts what has been read of the parameter `owner.leaf` in its place."""
        setattr(owner, leaf, nn.Parameter(share))

    def finish(self) -> None:
        """Comes after the last parameter."""


class PackedLinear(nn.Module):
    """A linear layer without bias that keeps its weight in a form of its own.

    Until it is packed it has an empty parameter `weight`, under the name that files have for it.

    Shape:
        (..., in) -> (..., out)

    Attributes:
        opaque_bytes: memory of what it keeps that is no tensor.
    """

    opaque_bytes = 0

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight: nn.Parameter | None = nn.Parameter(
            torch.empty(out_features, in_features, device="meta"), requires_grad=False
        )

    def pack(self, weight: Tensor) -> None:
        """Takes a weight (out, in) of floating-point numbers and keeps its packed form."""
        raise NotImplementedError


class Packed(Layout):
    """Holds the matrices of a model as layers of another kind do; embedding and norms as they are.

    Each is packed as soon as it is read, so that memory never holds all of them in both forms.
    """

    def layer(self, name: str, linear: nn.Linear) -> PackedLinear:
        """The layer to swap in for one of the model."""
        raise NotImplementedError

    def prepare(self, model: Transformer) -> None:
        """Swaps the linear layers of a model on the meta device."""
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear):
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, self.layer(name, module))

    def place(self, owner: nn.Module, leaf: str, share: Tensor) -> None:
        """Packs matrices; leaves other parameters alone."""
        if isinstance(owner, PackedLinear):
            owner.pack(share)
        else:
            super().place(owner, leaf, share)
