"""Linear layers of 4 bits a weight.

Slow and instead: as in `int8`, with half the bytes, and a scale and a zero point for each group
    of 32 weights of a row (Frantar et al. 2022, arXiv 2210.17323, compare such schemes). Two
    integers share a byte, in the order of PyTorch's kernel for few rows of activations; for many
    rows weights are expanded slice by slice.
Gains: figures in README.md; with AVX-512 the kernel took a third of the time of expanding for 24
    rows, half to two thirds for 48.
Costs: accuracy.
Not for: matrices whose sizes are no multiples of `GROUP` and `BLOCK`; they have 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from codellama.fast.expansion import linear_by_slices
from codellama.fast.int8 import VECTOR, QuantizedLinear, least_scale

GROUP = 32
BLOCK = 64
"""Rows that the kernel takes together."""
MOST_ROWS = 48
"""Of activations, up to which the kernel beats expanding the weight."""


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds each group of `GROUP` neighbours in a row to 16 evenly spaced values.

    Shape:
        (out, in) -> uint8 values of 0 to 15 (out, in), and scales and zero points
        (out, in / GROUP), in the dtype of `weight`: a weight is about
        `(value - 8) * scale + zero_point`
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.aminmax(dim=-1)
    scales = ((high - low) / 15).clamp(min=least_scale(weight.dtype)).to(weight.dtype)
    zero_points = (low + 8 * scales.float()).to(weight.dtype)
    values = (groups - zero_points.float()[..., None]).div_(scales.float()[..., None]).add_(8)
    return values.round_().clamp_(0, 15).to(torch.uint8).flatten(1), scales, zero_points


def pack_nibbles(values: Tensor) -> Tensor:
    """Puts two values of 0 to 15 into a byte, in the order of the device's kernel.

    Shape:
        uint8 (out, in) -> uint8 (out, in / 2); `out` is a multiple of `BLOCK`
    """
    if values.device.type == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1)
    low, high = values.unflatten(0, (-1, 2, BLOCK // 2)).unbind(1)
    return (low | high << 4).transpose(1, 2).reshape(len(values), -1)


def unpack_nibbles(packed: Tensor, columns: int, order: list[int], buffer: Tensor) -> Tensor:
    """The values that `pack_nibbles` was given, as numbers of the dtype of `buffer`, transposed;
    the rows of each block come in the order that they are packed in.

    Shape:
        uint8 (out, in / 2) -> (in, out), in the memory of `buffer`, which has `in * out` numbers
    """
    half = len(order) // 2
    blocks = packed.view(-1, columns, half)
    values = buffer[: 2 * packed.numel()].view(columns, len(blocks), 2, half)
    values[:, :, 0] = (blocks & 15).transpose(0, 1)
    values[:, :, 1] = (blocks >> 4).transpose(0, 1)
    return values.view(columns, -1)


def block_order(device: torch.device) -> list[int]:
    """The row of a block that each nibble of packed bytes belongs to: first the low nibbles of a
    block's bytes, then the high ones."""
    return _kernel_order() if device.type == "cpu" else list(range(BLOCK))


_found_order: list[int] = []  # torch.compile can read a list, and not what functools.cache keeps


def _kernel_order() -> list[int]:
    """The order of the CPU kernel. It depends on the processor, so it is looked up once, in a
    matrix that holds its own row numbers."""
    if not _found_order:
        rows = torch.arange(BLOCK, dtype=torch.uint8)[:, None].expand(-1, GROUP)
        remainder, quotient = (pack_nibbles(part).flatten() for part in (rows % 16, rows // 16))
        low = (remainder & 15) + 16 * (quotient & 15)
        high = (remainder >> 4) + 16 * (quotient >> 4)
        half = int((low[1:] == low[0]).nonzero()[0]) + 1  # there the block's second column begins
        _found_order.extend(torch.cat([low[:half], high[:half]]).tolist())
    return _found_order


def _reordered(rows: Tensor, order: list[int], back: bool = False) -> Tensor:
    """Puts each block of the last dimension in another order, or back from it."""
    if order == sorted(order):
        return rows
    order = sorted(range(len(order)), key=order.__getitem__) if back else order
    return rows.unflatten(-1, (-1, len(order)))[..., order].flatten(-2)


class Int4Linear(QuantizedLinear):
    """4 bits a weight, and a scale and a zero point for each group of 32."""

    kinds: ClassVar[dict[str, torch.dtype | None]] = {
        "packed": torch.uint8,
        "scales_and_zeros": None,
    }
    packed: Tensor
    scales_and_zeros: Tensor

    @staticmethod
    def fits(shape: torch.Size) -> bool:
        """Whether a weight (out, in) can be kept so."""
        return shape[0] % BLOCK == 0 and shape[1] % GROUP == 0

    @classmethod
    def from_weight(cls, weight: Tensor) -> Int4Linear:
        """Rounds by groups, and packs for the kernel."""
        layer = cls(weight.shape[1], weight.shape[0])
        values, scales, zero_points = quantize_groups(weight)
        both = torch.stack([scales.T, zero_points.T], -1).contiguous()
        layer.keep({"packed": pack_nibbles(values), "scales_and_zeros": both})
        return layer

    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Two integers a byte, and a scale and a zero point for each group."""
        return {
            "packed": (self.out_features, self.in_features // 2),
            "scales_and_zeros": (self.in_features // GROUP, self.out_features, 2),
        }

    def keep_ordered(self, buffers: Mapping[str, Tensor], order: list[int]) -> None:
        """As `keep`; packs anew where this device's kernel wants another order."""
        packed = buffers["packed"]
        if order != block_order(packed.device):
            buffer = packed.new_empty(2 * packed.numel())
            values = unpack_nibbles(packed, self.in_features, order, buffer)
            packed = pack_nibbles(_reordered(values, order, back=True).T.contiguous())
        self.keep({**buffers, "packed": packed})

    def expanded(self) -> Tensor:
        """Its blocks, put in order."""
        columns = self._in_blocks().flatten(1, 2).transpose(0, 1).flatten(1)  # (in, out)
        return _reordered(columns, block_order(columns.device), back=True).T

    def _in_blocks(self) -> Tensor:
        """The weight as it is laid out, float32 (blocks, groups, GROUP, 2, half a block's rows)."""
        order = block_order(self.packed.device)
        half = len(order) // 2
        nibbles = self.packed.view(-1, self.in_features // GROUP, GROUP, 1, half)
        shifts = 4 * torch.arange(2, dtype=torch.uint8, device=nibbles.device)[:, None]
        both = _reordered(self.scales_and_zeros.float().permute(2, 0, 1), order)
        scales, zeros = both.unflatten(-1, (-1, 2, half)).transpose(1, 2)[:, :, :, None]
        return ((nibbles >> shifts & 15).float() - 8) * scales + zeros

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        # The kernel reads past the end of rows that do not fill its vectors.
        on_cpu = x.device.type == "cpu" and not self.in_features % VECTOR
        if on_cpu and len(rows) <= MOST_ROWS:
            product = torch.ops.aten._weight_int4pack_mm_for_cpu(
                rows, self.packed, GROUP, self.scales_and_zeros
            )
            return product.unflatten(0, x.shape[:-1])
        if torch.compiler.is_compiling():
            return self._fused(x)
        return linear_by_slices(x, self.in_features, self.out_features, self._product)

    def _fused(self, x: Tensor) -> Tensor:
        """The product, written for torch.compile. A single row is multiplied by the weight as it is
        laid out: of what puts it in order, the compiler would make a copy in float32."""
        if x.numel() > self.in_features:
            return F.linear(x, self.expanded().to(x.dtype))
        sums = (self._in_blocks() * x.float().view(-1, GROUP, 1, 1)).sum((1, 2)).flatten()
        row = _reordered(sums, block_order(x.device), back=True).to(x.dtype)
        return row.view(*x.shape[:-1], -1)

    def _product(self, x: Tensor, outputs: slice, buffer: Tensor) -> Tensor:
        """Each group's integers are scaled, and added to the group's lowest weight."""
        order = block_order(x.device)
        values = unpack_nibbles(self.packed[outputs], self.in_features, order, buffer)
        groups = values.unflatten(0, (-1, GROUP))
        both = self.scales_and_zeros[:, outputs].to(buffer.dtype)
        scales, zeros = both.permute(2, 0, 1).contiguous()
        lows = torch.sub(zeros, scales, alpha=8)
        scales, lows = _reordered(scales, order)[:, None], _reordered(lows, order)[:, None]
        weight = torch.addcmul(lows, groups, scales, out=groups).flatten(0, 1)  # (in, outputs)
        return _reordered(x @ weight, order, back=True)
