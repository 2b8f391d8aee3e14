"""Products with matrices in the order in which a processor's library reads them fastest.

Inside PyTorch on x86 there are:

- oneDNN, for bfloat16 on processors that multiply it. `F.linear` asks it as well, but has to hand
  it the rows of the file. Two cores with AMX read a matrix in its order at 24 GB/s for 1 to 16 rows
  of activations, and at 19 in the file's.
- oneDNN, for 8 bits on processors with AMX. The same cores read bytes at 18 GB/s for 1 to 16 rows;
  PyTorch's kernel for other processors at 13 for one row, 6 for eight.
- FBGEMM, for float16, and for bfloat16 on processors with AVX2 alone. They multiply no numbers of
  16 bits: PyTorch's own products read such weights at half the memory's speed, and for many rows of
  activations widened copies are needed. FBGEMM widens in registers. On two such cores it took 0.6
  of the time for one row, a quarter for 8, and 0.7 for 512.
- FBGEMM, for 8 bits on other processors. Two cores with AVX-512, told to use AVX2 alone, read bytes
  at 30 GB/s for 1 to 4 rows, as fast as their memory is; PyTorch's kernel at 16 for one. With
  AVX-512's products of integers (VNNI), a lone row takes two thirds to three quarters of oneDNN's
  time.

Packing takes time: for a billion weights of 16 bits on two cores, a second with oneDNN, 14 with
FBGEMM.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from functools import partial
from itertools import count

import torch
from torch import Tensor

from codellama.weights.downloads import CheckpointError
from codellama.weights.layout import multiplies_bfloat16
from codellama.weights.quantize import quantize_rows

Product = Callable[[Tensor], Tensor]
"""Multiplies activations (..., in) by a weight that it keeps: (..., out)."""
ROWS = 8
"""Of activations, that oneDNN is told to expect; its order was as good for 1 and for 512."""
DIGIT = 127
"""The largest digit of activations for oneDNN; the least is its negative."""
SHORT_DIGIT = 63
"""The same for FBGEMM, which adds two products in 16 bits on processors without VNNI."""

# FBGEMM takes integers in no other form than one whose end PyTorch announces, from 2.13 on.
warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor.*deprecated", UserWarning)

_objects: dict[int, torch.ScriptObject] = {}
_numbers = count()


def _numbered(packed: torch.ScriptObject, product: Callable[..., Tensor], outputs: int) -> Product:
    """Binds a product to a matrix of FBGEMM's by a number, which torch.compile can know. The matrix
    goes when the product does."""
    number = next(_numbers)
    _objects[number] = packed
    bound = partial(product, number, outputs)
    weakref.finalize(bound, _objects.pop, number)
    return bound


def _define(schema: str, product: Callable[..., Tensor], shape: Callable[..., Tensor]) -> None:
    """Gives a library's product a name of our own, which torch.compile takes as it is: of PyTorch's
    it asks that it can look into the packed weight."""
    name = f"codellama::{product.__name__}"
    torch.library.define(name, schema)
    torch.library.impl(name, "CompositeExplicitAutograd", product)
    torch.library.register_fake(name, shape)


def onednn_linear(x: Tensor, packed: Tensor, outputs: int) -> Tensor:
    """Multiplies bfloat16 (..., in) by a packed weight: (..., outputs)."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return product


def onednn_sums(digits: Tensor, packed: Tensor, scales: Tensor) -> Tensor:
    """Multiplies integers (rows, in) of 8 bits by a packed weight and its outputs' scales: float32
    (rows, out)."""
    sums: Tensor = torch.ops.onednn.qlinear_pointwise(
        digits, 1.0, 0, packed, scales, None, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return sums


def fbgemm_linear(x: Tensor, number: int, outputs: int) -> Tensor:
    """Multiplies float32 (..., in) by a packed weight of 16 bits: (..., outputs)."""
    product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, _objects[number])
    return product


def fbgemm_sums(digits: Tensor, number: int, outputs: int) -> Tensor:
    """Multiplies float32 (rows, in), integers up to `SHORT_DIGIT`, by a packed weight of 8 bits and
    its outputs' scales: (rows, outputs)."""
    sums: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        digits, 1.0, SHORT_DIGIT + 1, _objects[number]
    )
    return sums


_define(
    "(Tensor x, Tensor packed, int outputs) -> Tensor",
    onednn_linear,
    lambda x, packed, outputs: x.new_empty(*x.shape[:-1], outputs),
)
_define(
    "(Tensor digits, Tensor packed, Tensor scales) -> Tensor",
    onednn_sums,
    lambda digits, packed, scales: scales.new_empty(digits.shape[0], scales.shape[0]),
)
for _product in (fbgemm_linear, fbgemm_sums):
    _define(
        "(Tensor x, int number, int outputs) -> Tensor",
        _product,
        lambda x, number, outputs: x.new_empty(*x.shape[:-1], outputs),
    )


def half_product(weight: Tensor) -> Product:
    """Packs a weight (out, in) of 16 bits for the library that suits the processor; a
    CheckpointError as for `fbgemm_product`."""
    suits_onednn = weight.dtype == torch.bfloat16 and multiplies_bfloat16()
    return onednn_product(weight) if suits_onednn else fbgemm_product(weight)


def onednn_product(weight: Tensor) -> Product:
    """Packs a weight (out, in) of bfloat16 for oneDNN."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    return partial(_onednn, packed, len(weight))


def _onednn(packed: Tensor, outputs: int, x: Tensor) -> Tensor:
    product: Tensor = torch.ops.codellama.onednn_linear(x, packed, outputs)
    return product


def fbgemm_product(weight: Tensor) -> Product:
    """Packs a weight (out, in) of 16 bits for FBGEMM (Khudia et al. 2021, arXiv 2101.05615), whose
    products are float32 inside.

    What bfloat16 stores becomes float16 unchanged from 6e-5 on; smaller numbers move by 3e-8 at
    most, a thousandth of what bfloat16 itself rounds a weight of 0.02 by.

    Raises:
        CheckpointError: float16 cannot hold a weight.
    """
    if (largest := weight.abs().max()) > torch.finfo(torch.float16).max:
        raise CheckpointError(
            f"a matrix of {weight.dtype} has weights of up to {largest:.3g}; to be packed it must "
            "have none above 65504: load it unpacked"
        )
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None)
    return _numbered(packed, _fbgemm, len(weight))


def _fbgemm(number: int, outputs: int, x: Tensor) -> Tensor:
    product: Tensor = torch.ops.codellama.fbgemm_linear(x.float(), number, outputs)
    return product.to(x.dtype)


def int8_product(weight: Tensor) -> Product:
    """Rounds a weight (out, in) to 8 bits, row by row, and packs it for the library that suits the
    processor."""
    has_tiles = torch.backends.mkldnn.is_available() and torch.cpu._is_amx_tile_supported()
    pack = onednn_int8_product if has_tiles else fbgemm_int8_product
    return pack(*quantize_rows(weight))


def onednn_int8_product(values: Tensor, scales: Tensor) -> Product:
    """Packs integers (out, in) with a scale for each row for oneDNN. It needs VNNI, since its sums
    of two products overflow without, and AMX to be fast: VNNI multiplies no two signed numbers."""
    packed = torch.ops.onednn.qlinear_prepack(values, None)
    return partial(_onednn_int8, packed, scales.float())


def _onednn_int8(packed: Tensor, scales: Tensor, x: Tensor) -> Tensor:
    digits, units = two_digits(x.reshape(-1, x.shape[-1]).float(), DIGIT)
    sums = torch.ops.codellama.onednn_sums(digits.to(torch.int8), packed, scales)
    return of_digits(sums, units, DIGIT).to(x.dtype).unflatten(0, x.shape[:-1])


def fbgemm_int8_product(values: Tensor, scales: Tensor) -> Product:
    """Packs integers (out, in) with a scale for each row for FBGEMM."""
    zeros = torch.zeros(len(scales), dtype=torch.long)
    weight = torch._make_per_channel_quantized_tensor(values, scales.double(), zeros, 0)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    return _numbered(packed, _fbgemm_int8, len(values))


def _fbgemm_int8(number: int, outputs: int, x: Tensor) -> Tensor:
    digits, units = two_digits(x.reshape(-1, x.shape[-1]).float(), SHORT_DIGIT)
    sums = torch.ops.codellama.fbgemm_sums(digits, number, outputs)
    return of_digits(sums, units, SHORT_DIGIT).to(x.dtype).unflatten(0, x.shape[:-1])


def two_digits(x: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """Activations as integers of two digits from `-largest` to `largest`, which integer units
    multiply exactly.

    The base is twice the largest digit, so that every integer has one form. The unit of a row is
    its largest number's `2 * largest ** 2`th part: with 127, bfloat16 is kept as it is down to a
    126th of that number, with 63 down to a 31st.

    Shape:
        float32 (rows, in) -> (2 * rows, in), first all high digits, and units (rows, 1)
    """
    peaks = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True)
    units = peaks.clamp_(min=1e-30).div_(2 * largest**2)
    numbers = x / units
    high = (numbers / (2 * largest)).round_()
    low = numbers.sub_(high, alpha=2 * largest).round_()
    return torch.cat([high, low]), units


def of_digits(sums: Tensor, units: Tensor, largest: int) -> Tensor:
    """What the products (2 * rows, out) of `two_digits` are together: (rows, out)."""
    high, low = sums.chunk(2)
    return torch.add(low, high, alpha=2 * largest).mul_(units)
