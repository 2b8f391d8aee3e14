"""PyTorch's private operators, which may be missing in another version, and have no gradients."""

from __future__ import annotations

import operator
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn

from codellama.errors import RequestError


def has_operators(*names: str) -> bool:
    """Whether this PyTorch has all of `torch.<name>`; warns of the first that it lacks."""
    for name in names:
        try:
            operator.attrgetter(name)(torch)
        except (AttributeError, RuntimeError):
            warnings.warn(
                f"PyTorch {torch.__version__} has no torch.{name}: codellama computes the same "
                "without it, but slower; 2.13 has it",
                stacklevel=3,
            )
            return False
    return True


def has_amx() -> bool:
    """Whether the processor multiplies tiles of bfloat16 (AMX)."""
    return getattr(torch.cpu, "_is_amx_tile_supported", bool)()


def multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16, and PyTorch the library that uses them."""
    has_products = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() or has_amx()
    return torch.backends.mkldnn.is_available() and has_products


def without_gradient(x: Tensor, layer: nn.Module) -> Tensor:
    """The layer's output, which refuses to pass gradients back."""
    return cast(Tensor, _WithoutGradient.apply(x, layer))  # type: ignore[no-untyped-call]


class _WithoutGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        return layer(x)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Raises RequestError."""
        raise RequestError(
            "rounded and prepacked layers have no gradients; train the model of load_model or of "
            "CodeLlama.load(directory, fast=False)"
        )
