"""Linear layers of 16 bits on a CPU: mapped from disk as they are, or prepacked.

Slow: for one row of bfloat16, `F.linear` asks oneDNN, whose products are made for many rows; for
    many, it hands rows as they lie in the file to libraries that read blocks. With AVX2 alone,
    which has no products of 16 bits, each number is converted at each use.
Instead: `SingleRowLinear` leaves the weight mapped. One row goes to PyTorch's own product of a
    matrix and a vector; with AVX2, slices are converted to float32 for many rows. `prepack`
    reorders the weight for a library inside PyTorch: oneDNN for bfloat16 where the processor
    multiplies it (AVX-512 BF16, AMX), else FBGEMM.
Gains: one row takes half the time with AVX-512 and 0.74 to 0.87 of it with AMX (two cores,
    2026-11). Prepacked, 512 rows take an eighth with AVX2 alone (table in README.md).
Costs: mapped, nothing; prepacked, a copy, and a core's 13 s (oneDNN: 1 s) per billion weights.
Not for: GPUs, float32, gradients. Prepacking is for x86, but not for bfloat16 with AMX, where one
    row takes 1.5 times as long as mapped (2026-11-30, two cores).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, cast
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.errors import CheckpointError, RequestError

MAX_ROWS = 16
"""Rows of activations up to which reading the weight as it is beats converting it."""
SLICE = 1024
"""Rows of a weight that are converted together, so that the same memory serves all slices."""


def has_operators(library: Any, *names: str) -> bool:
    """Whether this PyTorch has private operators; warns of the first that it lacks."""
    missing = [name for name in names if not hasattr(library, name)]
    if missing:
        warnings.warn(
            f"PyTorch {torch.__version__} has no {missing[0]}: codellama computes the same without "
            "it, but slower; 2.13 has it",
            stacklevel=2,
        )
    return not missing


def has_amx() -> bool:
    """Whether the processor multiplies matrices of bfloat16 (AMX)."""
    return getattr(torch.cpu, "_is_amx_tile_supported", bool)()


def multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16, and PyTorch the library that uses them."""
    has_products = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)() or has_amx()
    return torch.backends.mkldnn.is_available() and has_products


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a device multiplies matrices of `dtype` fastest."""
    is_slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.float32 if is_slow and dtype.itemsize == 2 else dtype


HAS_FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines and has_operators(
    torch.ops.quantized,
    "linear_prepack",
    "linear_prepack_fp16",
    "linear_dynamic_fp16",
    "linear_with_input_q_dq_qweight_dq_output_fp32",
)
HAS_ONEDNN = multiplies_bfloat16() and has_operators(
    torch.ops.mkldnn, "_reorder_linear_weight", "_linear_pointwise"
)


def can_prepack(device: torch.device) -> bool:
    """Whether PyTorch has a library that prepacks for a device."""
    return device.type == "cpu" and HAS_FBGEMM


Product = Callable[[Tensor], Tensor]
"""Multiplies activations (rows, in) with a weight: (rows, out)."""


class SingleRowLinear(nn.Linear):
    """`nn.Linear` without bias that takes the quickest product for the rows that it gets."""

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


@contextmanager
def without_onednn() -> Iterator[None]:
    """Lets PyTorch take products itself, on a processor with AVX-512 but without AMX.

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


class FrozenLinear(nn.Module):
    """A linear layer without bias or gradients."""

    multiply: Product

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return cast(Tensor, _NoGradient.apply(x, self))  # type: ignore[no-untyped-call]
        product = self.multiply(x.reshape(-1, x.shape[-1]))
        return product.view(*x.shape[:-1], product.shape[-1])


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear) -> Tensor:
        return layer(x)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Raises RequestError."""
        raise RequestError(
            "quantized and prepacked layers have no gradients; train the model of load_model or of "
            "CodeLlama.load(directory, fast=False)"
        )


class PrepackedLinear(FrozenLinear):
    """A layer whose `weight` a library has reordered, and multiplies by `product` in `dtype`.

    Attributes:
        weight_bytes: memory of the reordered weight, which is no parameter.
    """

    def __init__(self, weight: Tensor, product: Product, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.weight_bytes = len(weight), weight.nbytes
        self.dtype, self.product, self.number = dtype, product, next(_numbers)
        _products[self.number] = product  # shared by copies of the layer

    def multiply(self, x: Tensor) -> Tensor:
        multiply = torch.ops.codellama.prepacked_product
        return multiply(x.to(self.dtype), self.number, self.out_features).to(x.dtype)


def prepack(weight: Tensor) -> PrepackedLinear:
    """The layer of a weight (out, in) of 16 bits, for the library that is fastest here."""
    is_onednn = weight.dtype == torch.bfloat16 and HAS_ONEDNN
    return prepack_for_onednn(weight) if is_onednn else prepack_for_fbgemm(weight)


def prepack_for_onednn(weight: Tensor) -> PrepackedLinear:
    """Products of bfloat16."""
    # The order for 8 rows of activations is as good for 1 and for 512.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 8)
    multiply = torch.ops.mkldnn._linear_pointwise
    rest: tuple[Any, ...] = (packed, None, "none", [], "")
    return PrepackedLinear(weight, lambda x: multiply(x, *rest), torch.bfloat16)


def prepack_for_fbgemm(weight: Tensor) -> PrepackedLinear:
    """Products of float16, float32 inside (Khudia et al. 2021, arXiv 2101.05615).

    Numbers of bfloat16 from 6e-5 on become float16 unchanged; smaller ones move by 3e-8 at most.
    CheckpointError if float16 cannot hold one.
    """
    if (largest := weight.abs().max()) > torch.finfo(torch.float16).max:
        raise CheckpointError(
            f"a matrix of {weight.dtype} has weights of up to {largest:.3g}; prepacked ones must "
            "not be above 65504: load it without compile"
        )
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None)
    multiply = torch.ops.quantized.linear_dynamic_fp16
    return PrepackedLinear(weight, lambda x: multiply(x, packed), torch.float32)


# torch.compile and FBGEMM, as of PyTorch 2.13. An operator may take FBGEMM's weight, which is a
# ScriptObject, but the compiler may not ("Failed to convert args/kwargs to proxy"): it asks the
# object for `__obj_flatten__`, which this class lacks. So our operator takes a number, by which it
# finds the product. oneDNN's weight is a tensor and could be an argument; one way serves both.

_numbers = count()
_products: WeakValueDictionary[int, Product] = WeakValueDictionary()
_NAME = "codellama::prepacked_product"
torch.library.define(_NAME, "(Tensor x, int number, int out_features) -> Tensor")
torch.library.impl(_NAME, "CompositeExplicitAutograd", lambda x, number, _: _products[number](x))
torch.library.register_fake(_NAME, lambda x, _, columns: x.new_empty(x.shape[0], columns))
