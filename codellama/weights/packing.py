"""Matrices in the order in which a processor's library reads them fastest.

Inside PyTorch on x86 there are:

- oneDNN, for bfloat16 on processors that multiply it. `F.linear` asks it as well, but has to hand
  it the rows of the file. Two cores with AMX read a matrix in its order at 24 GB/s for 1 to 16 rows
  of activations, and at 19 in the file's.
- oneDNN, for 8 bits on processors that multiply such integers (VNNI). The same cores read bytes at
  18 GB/s for 1 to 16 rows; PyTorch's kernel for other processors at 13 for one row, 6 for eight.
- FBGEMM, for float16, and for bfloat16 on processors with AVX2 alone. They multiply no numbers of
  16 bits: PyTorch's own products read such weights at half the memory's speed, and for many rows of
  activations widened copies are needed. FBGEMM widens in registers. On two such cores it took 0.6
  of the time for one row, a quarter for 8, and 0.7 for 512.

Packing takes time: for a billion weights on two cores, a second with oneDNN, 14 with FBGEMM.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor, nn

from codellama.weights.downloads import CheckpointError
from codellama.weights.layout import Packed, PackedLinear, multiplies_bfloat16
from codellama.weights.quantize import quantize_rows

Product = Callable[[Tensor], Tensor]
"""Multiplies activations (..., in) by a weight that it keeps: (..., out)."""
ROWS = 8
"""Of activations, that oneDNN is told to expect; its order was as good for 1 and for 512."""
BASE = 254
"""Of two digits from -127 to 127, in which every number has one form."""
UNSIGNED_ZERO = 128
"""What stands for 0 where digits are unsigned. oneDNN multiplies signed ones fast with AMX alone:
with AVX-512, 16 rows and a matrix of 5632x2048 took 1,460 ms, unsigned 0.3. There it also reads
bytes faster for four rows of digits (28 GB/s) than for the two of a lone row (21): those come
twice."""


def _define(schema: str, product: Callable[..., Tensor], shape: Callable[..., Tensor]) -> None:
    """Gives one of oneDNN's products a name of our own, which torch.compile takes as it is: of
    PyTorch's it asks that the packed weight be known while it compiles."""
    name = f"codellama::{product.__name__}"
    torch.library.define(name, schema)
    torch.library.impl(name, "CompositeExplicitAutograd", product)
    torch.library.register_fake(name, shape)


def packed_product(x: Tensor, packed: Tensor, outputs: int) -> Tensor:
    """Multiplies bfloat16 (..., in) by a packed weight: (..., outputs)."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    return product


def packed_sums(digits: Tensor, packed: Tensor, scales: Tensor, zero: int) -> Tensor:
    """Multiplies integers (rows, in) of 8 bits, among which `zero` is 0, by a packed weight and
    its outputs' scales: float32 (rows, out)."""
    sums: Tensor = torch.ops.onednn.qlinear_pointwise(
        digits, 1.0, zero, packed, scales, None, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return sums


_define(
    "(Tensor x, Tensor packed, int outputs) -> Tensor",
    packed_product,
    lambda x, packed, outputs: x.new_empty(*x.shape[:-1], outputs),
)
_define(
    "(Tensor digits, Tensor packed, Tensor scales, int zero) -> Tensor",
    packed_sums,
    lambda digits, packed, scales, zero: scales.new_empty(digits.shape[0], scales.shape[0]),
)


def can_pack(device: torch.device, quantize: str | None = None) -> bool:
    """Whether PyTorch has such a library for a device, for matrices that are rounded so."""
    if device.type != "cpu" or "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    has_integers = torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()
    return quantize is None or (quantize == "int8" and has_integers)


def onednn_product(weight: Tensor) -> Product:
    """Packs a weight (out, in) of bfloat16 for oneDNN."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    return partial(_onednn, packed, len(weight))


def _onednn(packed: Tensor, outputs: int, x: Tensor) -> Tensor:
    product: Tensor = torch.ops.codellama.packed_product(x, packed, outputs)
    return product


def int8_product(weight: Tensor) -> Product:
    """Rounds a weight (out, in) to 8 bits, row by row, and packs it for oneDNN."""
    values, scales = quantize_rows(weight)
    packed = torch.ops.onednn.qlinear_prepack(values, None)
    zero = 0 if torch.cpu._is_amx_tile_supported() else UNSIGNED_ZERO
    return partial(_int8, packed, scales.float(), zero)


def _int8(packed: Tensor, scales: Tensor, zero: int, x: Tensor) -> Tensor:
    digits, units = two_digits(x.reshape(-1, x.shape[-1]).float())
    if zero:
        digits = digits.view(torch.uint8) ^ zero
        if len(units) == 1:
            digits = digits.repeat(2, 1)
    sums = torch.ops.codellama.packed_sums(digits, packed, scales, zero)
    high, low = sums[: 2 * len(units)].chunk(2)
    product = torch.add(low, high, alpha=BASE).mul_(units)
    return product.to(x.dtype).unflatten(0, x.shape[:-1])


def two_digits(x: Tensor) -> tuple[Tensor, Tensor]:
    """Activations as integers of 16 bits in two digits of 8, which integer units multiply exactly.

    The unit of a row is its largest number's 32258th part, so that bfloat16 is kept as it is down
    to a 126th of that number.

    Shape:
        float32 (rows, in) -> int8 (2 * rows, in), first all high digits, and units (rows, 1)
    """
    largest = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True)
    units = largest.clamp_(min=1e-30).div_(127 * BASE)
    numbers = x / units
    high = (numbers / BASE).round_()
    low = numbers.sub_(high, alpha=BASE).round_()
    return torch.cat([high, low]).to(torch.int8), units


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
    return partial(_fbgemm, torch.ops.quantized.linear_prepack_fp16(weight.float(), None))


def _fbgemm(packed: torch.ScriptObject, x: Tensor) -> Tensor:
    product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x.float(), packed)
    return product.to(x.dtype)


class ReorderedLinear(PackedLinear):
    """A linear layer whose weight is in the order of the library that suits it and the processor.

    Args:
        compiled: whether torch.compile will meet it, which cannot look into FBGEMM's matrices.

    Shape:
        (..., in) -> (..., out)
    """

    _product: Product

    def __init__(self, in_features: int, out_features: int, compiled: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.compiled = compiled

    def pack(self, weight: Tensor) -> None:
        """Takes a weight of 16 bits; a CheckpointError for others."""
        if weight.dtype.itemsize != 2:
            raise CheckpointError(
                f"a matrix is {weight.dtype}; to be packed it must have 16 bits: load it unpacked"
            )
        suits_onednn = weight.dtype == torch.bfloat16 and multiplies_bfloat16()
        if self.compiled and not suits_onednn:
            raise CheckpointError(
                f"a matrix is {weight.dtype}; to be packed and compiled it must be bfloat16, on a "
                "processor that multiplies it: leave out pack or compile"
            )
        self._product = onednn_product(weight) if suits_onednn else fbgemm_product(weight)
        self.opaque_bytes = 2 * weight.numel()
        self.weight = None

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x)


class ReorderedInt8Linear(ReorderedLinear):
    """As `ReorderedLinear`, with 8 bits a weight and a scale for each row."""

    def pack(self, weight: Tensor) -> None:
        """Rounds a weight as `Int8Linear` does."""
        self._product = int8_product(weight)
        self.opaque_bytes = weight.numel()
        self.weight = None


class Reordered(Packed):
    """Holds the matrices in a library's order; as many are packed at once as there are threads.

    Args:
        quantize: "int8" rounds them; see `can_pack`.
        compiled: as for `ReorderedLinear`.
    """

    def __init__(self, quantize: str | None = None, compiled: bool = False) -> None:
        self._compiled = compiled
        self._kind = ReorderedInt8Linear if quantize else ReorderedLinear
        self._pool = ThreadPoolExecutor(torch.get_num_threads())
        self._running: deque[Future[None]] = deque()

    def layer(self, name: str, linear: nn.Linear) -> ReorderedLinear:
        """One for each matrix."""
        return self._kind(linear.in_features, linear.out_features, self._compiled)

    def place(self, owner: nn.Module, leaf: str, share: Tensor) -> None:
        """Starts to pack a matrix; waits if enough are on their way."""
        if len(self._running) >= torch.get_num_threads():
            self._running.popleft().result()
        self._running.append(self._pool.submit(super().place, owner, leaf, share))

    def finish(self) -> None:
        """Waits for the last ones."""
        while self._running:
            self._running.popleft().result()
        self._pool.shutdown()
