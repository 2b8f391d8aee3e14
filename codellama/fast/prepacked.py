"""Prepacked weights: linear layers whose weight is in the order that an x86 library reads fastest.

Slow: `F.linear` has to hand rows as they lie in the file to libraries that read blocks.
Instead: loading reorders the weight for a library inside PyTorch: bfloat16 for oneDNN where the
    processor multiplies it (AVX-512 BF16, AMX), other numbers of 16 bits and integers for FBGEMM.
Gains: on two AMD cores with AVX2 alone (2026-11-25, a matrix of 5,632 x 2,048, in ms):

| rows of activations | 1 | 8 | 64 | 512 |
|---|---|---|---|---|
| bfloat16, `F.linear` | 1.35 | 9.2 | 73 | 587 |
| bfloat16, widened to float32 first | 21 | 32 | 44 | 130 |
| bfloat16, prepacked | 1.13 | 2.1 | 9.1 | 71 |
| int8, PyTorch's kernel | 0.98 | 2.8 | 22 | 178 |
| int8, prepacked | 0.68 | 1.5 | 10.7 | 90 |

Costs: a copy. Packing a billion weights takes a core 13 s (float16), 6 s (int8) or 1 s (oneDNN).
Not for: other processors than x86; bfloat16 where there are tiles (AMX), since one row takes 1.5
    times as long as by `SingleRowLinear` (2026-11-30, two cores).
"""

from __future__ import annotations

import copy
import warnings
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from codellama.errors import CheckpointError
from codellama.fast.operators import has_operators, multiplies_bfloat16, without_gradient

LARGEST = 63
"""The largest part of a split activation: FBGEMM adds two products in 16 bits without VNNI."""


HAS_FBGEMM = "fbgemm" in torch.backends.quantized.supported_engines and has_operators(
    "_make_per_channel_quantized_tensor",
    "ops.quantized.linear_prepack",
    "ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32",
    "ops.quantized.linear_prepack_fp16",
    "ops.quantized.linear_dynamic_fp16",
)
HAS_ONEDNN = multiplies_bfloat16() and has_operators(
    "ops.mkldnn._reorder_linear_weight", "ops.mkldnn._linear_pointwise"
)


def can_prepack(device: torch.device) -> bool:
    """Whether PyTorch has such a library for a device."""
    return device.type == "cpu" and HAS_FBGEMM


class PrepackedLinear(nn.Module):
    """A linear layer without bias, prepacked for one library; a subclass's `multiply` calls it.

    Shape:
        (..., in) -> (..., out)

    Attributes:
        weight_bytes: memory of the prepacked weight, which is no parameter.
    """

    def __init__(self, packed: Any, out_features: int, weight_bytes: int) -> None:
        super().__init__()
        self.packed = packed
        self.out_features = out_features
        self.weight_bytes = weight_bytes
        self._register()

    def _register(self) -> None:
        self.number = next(_numbers)
        _layers[self.number] = self

    def __deepcopy__(self, _: dict[int, Any]) -> PrepackedLinear:
        return copy.copy(self)  # what is packed never changes

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._register()  # a copy is a layer of its own

    @staticmethod
    def from_weight(weight: Tensor) -> PrepackedLinear:
        """Prepacks a weight (out, in) of bfloat16 or float16.

        Raises:
            CheckpointError: the weight has another dtype, or numbers that float16 cannot hold.
        """
        if weight.itemsize != 2:
            raise CheckpointError(f"a matrix is {weight.dtype}; load it as bfloat16 or float16")
        suits_onednn = weight.dtype == torch.bfloat16 and HAS_ONEDNN
        return OneDnnLinear(weight) if suits_onednn else FbgemmLinear(weight)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return without_gradient(x, self)
        rows = x.reshape(-1, x.shape[-1])
        product = torch.ops.codellama.prepacked_product(rows, self.number, self.out_features)
        return product.view(*x.shape[:-1], product.shape[-1])


class OneDnnLinear(PrepackedLinear):
    """Products of bfloat16 in oneDNN."""

    def __init__(self, weight: Tensor) -> None:
        # The order for 8 rows of activations was as good for 1 and for 512.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 8)
        super().__init__(packed, len(weight), weight.nbytes)

    def multiply(self, x: Tensor) -> Tensor:
        """By oneDNN."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


class FbgemmLinear(PrepackedLinear):
    """Products of float16 in FBGEMM (Khudia et al. 2021, arXiv 2101.05615), float32 inside.

    Numbers of bfloat16 from 6e-5 on become float16 unchanged; smaller ones move by 3e-8 at most.
    """

    def __init__(self, weight: Tensor) -> None:
        if (largest := weight.abs().max()) > torch.finfo(torch.float16).max:
            raise CheckpointError(
                f"a matrix of {weight.dtype} has weights of up to {largest:.3g}; prepacked ones "
                "must not be above 65504: load it without compile"
            )
        packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None)
        super().__init__(packed, len(weight), weight.nbytes)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)

    def multiply(self, x: Tensor) -> Tensor:
        """By FBGEMM."""
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


class FbgemmInt8Linear(PrepackedLinear):
    """Products of integers in FBGEMM: `values` (out, in) with `scales` (out)."""

    def __init__(self, values: Tensor, scales: Tensor) -> None:
        zero_points = torch.zeros(len(scales), dtype=torch.long)
        weight = torch._make_per_channel_quantized_tensor(values, scales.double(), zero_points, 0)
        packed = torch.ops.quantized.linear_prepack(weight, None)
        super().__init__(packed, len(values), values.nbytes)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return without_gradient(x, self)
        parts, scales = split_activations(x.reshape(-1, x.shape[-1]).float())
        product = join_products(super().forward(parts), scales).to(x.dtype)
        return product.view(*x.shape[:-1], product.shape[-1])

    def multiply(self, x: Tensor) -> Tensor:
        """By FBGEMM, in integers of 8 bits."""
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x, 1.0, LARGEST + 1, self.packed
        )


def split_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Splits activations into a high and a low integer part, which integer units multiply exactly:
    only the weights are rounded to 8 bits.

    Both parts are from `-LARGEST` to `LARGEST`; a row's scale is its largest magnitude
    divided by `2 * LARGEST ** 2`. bfloat16 is kept exactly down to 1/31 of that magnitude.

    Shape:
        float32 (rows, in) -> (2 * rows, in), first all high parts, and scales (rows, 1)
    """
    peaks = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True)
    scales = peaks.clamp_(min=1e-30).div_(2 * LARGEST**2)
    numbers = x / scales
    high = (numbers / (2 * LARGEST)).round_()
    low = numbers.sub_(high, alpha=2 * LARGEST).round_()
    return torch.cat([high, low]), scales


def join_products(products: Tensor, scales: Tensor) -> Tensor:
    """Adds the products (2 * rows, out) of the high and the low parts: (rows, out)."""
    high, low = products.chunk(2)
    return torch.add(low, high, alpha=2 * LARGEST).mul_(scales)


# torch.compile and FBGEMM, as of PyTorch 2.13. The compiler cannot look into prepacked weights, so
# it calls an operator of ours, which finds the layer by its number. FBGEMM takes integers in no
# other form than one that PyTorch warns of at every use.

warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor.*deprecated", UserWarning)
_layers: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = count()
_NAME = "codellama::prepacked_product"
torch.library.define(_NAME, "(Tensor x, int number, int outputs) -> Tensor")
torch.library.impl(_NAME, "CompositeExplicitAutograd", lambda x, n, _: _layers[n].multiply(x))
torch.library.register_fake(_NAME, lambda x, _, outputs: x.new_empty(*x.shape[:-1], outputs))
