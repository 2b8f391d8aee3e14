"""Prepacked weights: linear layers whose weight is in the order that an x86 library reads fastest.

Slow: `F.linear` has to hand rows as they lie in the file to libraries that read blocks.
Instead: the weight is reordered once, while loading, for the library inside PyTorch that suits
    it.

| weight | processor | library |
|---|---|---|
| bfloat16 | multiplies bfloat16 (AVX-512 BF16, AMX) | oneDNN |
| bfloat16 and float16 | others | FBGEMM, as float16, widened in registers |
| int8 | all | FBGEMM |

Gains: on two AMD cores with AVX2 alone (2026-11-25, a matrix of 5,632 x 2,048, in ms):

| rows of activations | 1 | 8 | 64 | 512 |
|---|---|---|---|---|
| bfloat16, `F.linear` | 1.35 | 9.2 | 73 | 587 |
| bfloat16, widened to float32 first | 21 | 32 | 44 | 130 |
| bfloat16, prepacked | 1.13 | 2.1 | 9.1 | 71 |
| int8, PyTorch's kernel | 0.98 | 2.8 | 22 | 178 |
| int8, prepacked | 0.68 | 1.5 | 10.7 | 90 |

Costs: the weights are copied, and packing a billion of them takes 13 s (float16), 6 s (int8) or 1
s (oneDNN) on one core. Does not apply to other processors.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from functools import partial
from itertools import count

import torch
from torch import Tensor, nn

from codellama.errors import CheckpointError
from codellama.fast.int8 import Int8Linear

Product = Callable[[Tensor], Tensor]
"""Multiplies activations (..., in) by a weight that it keeps: (..., out)."""
EXPECTED_ROWS = 8
"""Rows of activations that oneDNN is told to expect; its order was as good for 1 and for 512."""
LARGEST = 63
"""The largest part of a split activation: FBGEMM adds two products in 16 bits without VNNI."""


def can_prepack(device: torch.device) -> bool:
    """Whether PyTorch has such a library for a device."""
    return device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines


def multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16, and PyTorch the library that uses them."""
    has_products = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and has_products


class PrepackedLinear(nn.Module):
    """A linear layer without bias whose weight is prepacked.

    Shape:
        (..., in) -> (..., out)

    Attributes:
        weight_bytes: memory of the prepacked weight, which is no tensor.
    """

    def __init__(self, product: Product, weight_bytes: int) -> None:
        super().__init__()
        self._product = product
        self.weight_bytes = weight_bytes

    @classmethod
    def from_weight(cls, weight: Tensor) -> PrepackedLinear:
        """Prepacks 16 bits a weight.

        Raises:
            CheckpointError: the weight has another dtype, or numbers that float16 cannot hold.
        """
        if weight.dtype.itemsize != 2:
            raise CheckpointError(
                f"a matrix is {weight.dtype}; prepacked weights have 16 bits: load it as bfloat16"
            )
        suits_onednn = weight.dtype == torch.bfloat16 and multiplies_bfloat16()
        product = onednn_product(weight) if suits_onednn else fbgemm_product(weight)
        return cls(product, 2 * weight.numel())

    @classmethod
    def from_int8(cls, layer: Int8Linear) -> PrepackedLinear:
        """Prepacks the integers of a layer."""
        return cls(fbgemm_int8_product(layer.values, layer.scales), layer.values.numel())

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x)


def onednn_product(weight: Tensor) -> Product:
    """Prepacks a weight (out, in) of bfloat16 for oneDNN."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), EXPECTED_ROWS)
    return partial(_onednn, packed, len(weight))


def _onednn(packed: Tensor, outputs: int, x: Tensor) -> Tensor:
    product: Tensor = torch.ops.codellama.onednn_linear(x, packed, outputs)
    return product


def fbgemm_product(weight: Tensor) -> Product:
    """Prepacks a weight (out, in) of 16 bits for FBGEMM (Khudia et al. 2021, arXiv 2101.05615),
    whose products are float32 inside.

    What bfloat16 stores becomes float16 unchanged from 6e-5 on. Smaller numbers move by 3e-8 at
    most, a thousandth of what bfloat16 itself rounds a weight of 0.02 by.

    Raises:
        CheckpointError: float16 cannot hold a weight.
    """
    if (largest := weight.abs().max()) > torch.finfo(torch.float16).max:
        raise CheckpointError(
            f"a matrix of {weight.dtype} has weights of up to {largest:.3g}; prepacked ones must "
            "not be above 65504: load it without compile"
        )
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None)
    return _by_number(packed, _fbgemm, len(weight))


def _fbgemm(number: int, outputs: int, x: Tensor) -> Tensor:
    product: Tensor = torch.ops.codellama.fbgemm_linear(x.float(), number, outputs)
    return product.to(x.dtype)


def fbgemm_int8_product(values: Tensor, scales: Tensor) -> Product:
    """Prepacks integers (out, in) with a scale for each row for FBGEMM."""
    zero_points = torch.zeros(len(scales), dtype=torch.long)
    weight = torch._make_per_channel_quantized_tensor(values, scales.double(), zero_points, 0)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    return _by_number(packed, _fbgemm_int8, len(values))


def _fbgemm_int8(number: int, outputs: int, x: Tensor) -> Tensor:
    parts, scales = split_activations(x.reshape(-1, x.shape[-1]).float())
    products = torch.ops.codellama.fbgemm_int8_linear(parts, number, outputs)
    return join_products(products, scales).to(x.dtype).unflatten(0, x.shape[:-1])


def split_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Splits activations into a high and a low integer part, which integer units multiply exactly:
    only the weights are rounded to 8 bits.

    Both parts are from `-LARGEST` to `LARGEST`; a row's scale is its largest number's
    `2 * LARGEST ** 2`th part. bfloat16 is kept exactly down to a 31st of that number.

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
    """The product (rows, out) of which `split_activations` gave the parts (2 * rows, out)."""
    high, low = products.chunk(2)
    return torch.add(low, high, alpha=2 * LARGEST).mul_(scales)


# FBGEMM and torch.compile, as of PyTorch 2.13. The compiler asks to look into FBGEMM's prepacked
# objects and cannot, so they are kept in a table, and operators of our own take their number.
# FBGEMM takes integers in no other form than one that PyTorch warns of at every use.

warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor.*deprecated", UserWarning)
_objects: dict[int, torch.ScriptObject] = {}
_numbers = count()


def _by_number(packed: torch.ScriptObject, product: Callable[..., Tensor], outputs: int) -> Product:
    """Binds a product to an object's number; the object goes when the product does."""
    number = next(_numbers)
    _objects[number] = packed
    bound = partial(product, number, outputs)
    weakref.finalize(bound, _objects.pop, number)
    return bound


def _define(name: str, arguments: str, product: Callable[..., Tensor]) -> None:
    """Registers an operator that gives (..., outputs) of its first argument's dtype."""
    torch.library.define(f"codellama::{name}", f"(Tensor x, {arguments}, int outputs) -> Tensor")
    torch.library.impl(f"codellama::{name}", "CompositeExplicitAutograd", product)
    torch.library.register_fake(
        f"codellama::{name}", lambda x, _, outputs: x.new_empty(*x.shape[:-1], outputs)
    )


_define(
    "onednn_linear",
    "Tensor packed",
    lambda x, packed, _: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""),
)
_define(
    "fbgemm_linear",
    "int number",
    lambda x, number, _: torch.ops.quantized.linear_dynamic_fp16(x, _objects[number]),
)
_define(
    "fbgemm_int8_linear",
    "int number",
    lambda x, number, _: torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        x, 1.0, LARGEST + 1, _objects[number]
    ),
)
