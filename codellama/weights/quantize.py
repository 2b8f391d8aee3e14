"""Matrices of 8 and 4 bits, swapped in for the model's linear layers while its weights are read.

Decoding reads every weight once a token, so that a smaller weight is a faster one. Each row
(8 bits) or each group of 32 weights of a row (4 bits) has a scale of its own, and products are
taken with the weights that the integers stand for: nothing but the weights is rounded (Dettmers et
al. 2022, arXiv 2208.07339, and Frantar et al. 2022, arXiv 2210.17323, compare such schemes).

Few rows of activations go through PyTorch's kernels for such weights, which read integers. For many
rows those are slow: there a layer's weights are expanded, slice by slice, for the matrix units.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.weights.downloads import CheckpointError
from codellama.weights.layout import FEW_ROWS, Packed, PackedLinear, SlicedLinear

MODES = ("int8", "int4")
GROUP = 32
BLOCK = 64
"""Rows that the 4-bit kernel takes together; a matrix of other sizes is kept in 8 bits."""
VECTOR = 16
"""Numbers that the kernels for integers take at a time."""


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each row to 255 evenly spaced values around 0.

    Shape:
        (..., in) -> int8 (..., in) and the rows' scales (...), in the dtype of `weight`
    """
    scales = (weight.float().abs().amax(-1) / 127).clamp(min=_least_scale(weight.dtype))
    scales = scales.to(weight.dtype)  # rounded first, so that the integers fit what is stored
    values = (weight.float() / scales.float()[..., None]).round().clamp(-127, 127)
    return values.to(torch.int8), scales


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds each group of `GROUP` neighbours in a row to 16 evenly spaced values.

    Shape:
        (out, in) -> uint8 values of 0 to 15 (out, in), and scales and middles (out, in / GROUP), in
        the dtype of `weight`: a weight is about `(value - 8) * scale + middle`
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / 15).clamp(min=_least_scale(weight.dtype)).to(weight.dtype)
    middles = (low + 8 * scales.float()).to(weight.dtype)
    values = (groups - middles.float()[..., None]) / scales.float()[..., None] + 8
    return values.round().clamp(0, 15).to(torch.uint8).flatten(1), scales, middles


def _least_scale(dtype: torch.dtype) -> float:
    """The least positive number of a dtype, if it is a normal one in float32: some processors take
    others for 0."""
    kind = torch.finfo(dtype)
    return max(kind.tiny * kind.eps, torch.finfo(torch.float32).tiny)


def pack_nibbles(values: Tensor) -> Tensor:
    """Puts two values of 0 to 15 into a byte, in the order that the device's kernel wants.

    Shape:
        uint8 (out, in) -> uint8 (out, in / 2); `out` is a multiple of `BLOCK`
    """
    if _kernel_layout(values.device):
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1)
    low, high = values.unflatten(0, (-1, 2, BLOCK // 2)).unbind(1)
    return (low | high << 4).transpose(1, 2).reshape(len(values), -1)


def unpack_nibbles(packed: Tensor, columns: int, order: list[int], room: Tensor) -> Tensor:
    """The values that `pack_nibbles` was given, as numbers of the dtype of `room`, transposed; the
    rows of each block come in the order that they are packed in.

    Shape:
        uint8 (out, in / 2) -> (in, out), in the memory of `room`, which has `in * out` numbers
    """
    half = len(order) // 2
    blocks = packed.view(-1, columns, half)
    values = room[: 2 * packed.numel()].view(columns, len(blocks), 2, half)
    values[:, :, 0] = (blocks & 15).transpose(0, 1)
    values[:, :, 1] = (blocks >> 4).transpose(0, 1)
    return values.view(columns, -1)


def _kernel_layout(device: torch.device) -> bool:
    """Whether a device has a 4-bit kernel, so that bytes are laid out for it."""
    return device.type == "cpu"


def block_order(device: torch.device) -> list[int]:
    """Which row of a block each nibble of packed bytes belongs to: first the low ones of a block's
    bytes, then the high ones."""
    return _kernel_order() if _kernel_layout(device) else list(range(BLOCK))


def _kernel_order() -> list[int]:
    """The order of the CPU kernel's layout. It depends on the processor, so it is looked up once,
    in a matrix that holds its own row numbers."""
    if not _found_order:
        rows = torch.arange(BLOCK, dtype=torch.uint8)[:, None].expand(-1, GROUP)
        remainder, quotient = (pack_nibbles(part).flatten() for part in (rows % 16, rows // 16))
        low = (remainder & 15) + 16 * (quotient & 15)
        high = (remainder >> 4) + 16 * (quotient >> 4)
        half = int((low[1:] == low[0]).nonzero()[0]) + 1  # there the block's second column begins
        _found_order.extend(torch.cat([low[:half], high[:half]]).tolist())
    return _found_order


_found_order: list[int] = []  # which torch.compile can read, as it cannot what `cache` keeps


def _reordered(rows: Tensor, order: list[int], back: bool = False) -> Tensor:
    """Puts each block of the last dimension in another order, or back from it."""
    if order == sorted(order):
        return rows
    order = sorted(range(len(order)), key=order.__getitem__) if back else order
    return rows.unflatten(-1, (-1, len(order)))[..., order].flatten(-2)


class QuantizedLinear(PackedLinear, SlicedLinear):
    """A linear layer whose weight is rounded as it is put in place.

    Attributes:
        most_rows: of activations, up to which its kernel beats expanding the weight.
    """

    most_rows = FEW_ROWS

    @property
    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of what the rounded form consists of."""
        raise NotImplementedError

    def restore(self, buffers: Mapping[str, Tensor], order: list[int]) -> None:
        """Takes the rounded form as another layer has kept it, nibbles packed in an order."""
        self.weight = None
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def expanded(self) -> Tensor:
        """The weight that the integers stand for, float32 (out, in)."""
        raise NotImplementedError

    def few_rows(self, x: Tensor) -> Tensor:
        """The product for x (rows, in) of few rows."""
        raise NotImplementedError

    def fused(self, x: Tensor) -> Tensor:
        """The product for x (..., in), written for torch.compile, which makes one pass of expanding
        the weight, and on a GPU one with the product of a lone row."""
        return F.linear(x, self.expanded().to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        # The kernels read past the end of rows that do not fill their vectors.
        many = len(rows) > self.most_rows or x.device.type != "cpu" or self.in_features % VECTOR
        if many and torch.compiler.is_compiling():
            return self.fused(x)
        product = self.many_rows(rows) if many else self.few_rows(rows)
        return product.unflatten(0, x.shape[:-1])


class Int8Linear(QuantizedLinear):
    """8 bits a weight and a scale for each row."""

    values: Tensor
    scales: Tensor

    @property
    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The integers, and a scale for each row."""
        return {"values": (self.out_features, self.in_features), "scales": (self.out_features,)}

    def pack(self, weight: Tensor) -> None:
        """Rounds by rows."""
        values, scales = quantize_rows(weight)
        self.weight = None
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    def expanded(self) -> Tensor:
        """Each row, scaled."""
        return self.values * self.scales.float()[:, None]

    def few_rows(self, x: Tensor) -> Tensor:
        """By the kernel that reads bytes."""
        return torch._weight_int8pack_mm(x, self.values, self.scales)

    def product(self, x: Tensor, outputs: slice, room: Tensor) -> Tensor:
        """Scales the product, which has fewer numbers than the weight."""
        values = self.values[outputs]
        return F.linear(x, room[: values.numel()].view_as(values).copy_(values)).mul_(
            self.scales[outputs]
        )


class Int4Linear(QuantizedLinear):
    """4 bits a weight, and a scale and a middle for each group of 32.

    Expanding them costs more than expanding 8 bits: with AVX-512 the kernel took a third of the
    time for 24 rows of activations, and half to two thirds for 48.
    """

    most_rows = 48
    packed: Tensor
    scales_and_middles: Tensor

    @property
    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Two integers a byte, and a scale and a middle for each group."""
        return {
            "packed": (self.out_features, self.in_features // 2),
            "scales_and_middles": (self.in_features // GROUP, self.out_features, 2),
        }

    def restore(self, buffers: Mapping[str, Tensor], order: list[int]) -> None:
        """Packs anew where this device's kernel wants another order."""
        packed = buffers["packed"]
        if order != block_order(packed.device):
            room = packed.new_empty(2 * packed.numel())
            values = unpack_nibbles(packed, self.in_features, order, room)
            packed = pack_nibbles(_reordered(values, order, back=True).T.contiguous())
        super().restore({**buffers, "packed": packed}, order)

    def pack(self, weight: Tensor) -> None:
        """Rounds by groups, and lays bytes out for the kernel."""
        values, scales, middles = quantize_groups(weight)
        self.weight = None
        self.register_buffer("packed", pack_nibbles(values))
        both = torch.stack([scales.T, middles.T], -1).contiguous()
        self.register_buffer("scales_and_middles", both)  # (in / GROUP, out, 2)

    def _in_blocks(self) -> Tensor:
        """Each group, scaled about its middle, as it is laid out: float32 (blocks, groups, GROUP,
        2, rows of half a block)."""
        order = block_order(self.packed.device)
        half = len(order) // 2
        nibbles = self.packed.view(-1, self.in_features // GROUP, GROUP, 1, half)
        shifts = 4 * torch.arange(2, dtype=torch.uint8, device=nibbles.device)[:, None]
        both = _reordered(self.scales_and_middles.float().permute(2, 0, 1), order)
        scales, middles = both.unflatten(-1, (-1, 2, half)).transpose(1, 2)[:, :, :, None]
        return ((nibbles >> shifts & 15).float() - 8) * scales + middles

    def expanded(self) -> Tensor:
        """Its blocks, put in order."""
        columns = self._in_blocks().flatten(1, 2).transpose(0, 1).flatten(1)  # (in, out)
        return _reordered(columns, block_order(columns.device), back=True).T

    def fused(self, x: Tensor) -> Tensor:
        """A lone row is multiplied by the weight as it is laid out: of what puts it in order,
        torch.compile would make a copy in float32."""
        if x.numel() > self.in_features:
            return super().fused(x)
        sums = (self._in_blocks() * x.float().view(-1, GROUP, 1, 1)).sum((1, 2)).flatten()
        row = _reordered(sums, block_order(x.device), back=True).to(x.dtype)
        return row.view(*x.shape[:-1], -1)

    def few_rows(self, x: Tensor) -> Tensor:
        """By the kernel that reads half bytes."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(
            x, self.packed, GROUP, self.scales_and_middles
        )

    def product(self, x: Tensor, outputs: slice, room: Tensor) -> Tensor:
        """With each group's integers scaled, and added to the group's lowest weight."""
        order = block_order(x.device)
        values = unpack_nibbles(self.packed[outputs], self.in_features, order, room)
        groups = values.unflatten(0, (-1, GROUP))
        both = self.scales_and_middles[:, outputs].to(room.dtype)
        scales, middles = both.permute(2, 0, 1).contiguous()
        lows = torch.sub(middles, scales, alpha=8)
        scales, lows = _reordered(scales, order)[:, None], _reordered(lows, order)[:, None]
        weight = torch.addcmul(lows, groups, scales, out=groups).flatten(0, 1)  # (in, outputs)
        return _reordered(x @ weight, order, back=True)


class Quantized(Packed):
    """Holds the matrices in 8 or 4 bits. In 4 bits the output matrix has 8, as in other runners: it
    matters most.

    Args:
        mode: "int8" or "int4"; a CheckpointError for others.
    """

    def __init__(self, mode: str) -> None:
        if mode not in MODES:
            raise CheckpointError(f"mode is {mode!r}; expected {' or '.join(MODES)}")
        self.mode = mode

    def layer(self, name: str, linear: nn.Linear) -> QuantizedLinear:
        """In the bits asked for where the kernel takes such a matrix, else in 8."""
        sizes = linear.in_features, linear.out_features
        fits = linear.in_features % GROUP == 0 and linear.out_features % BLOCK == 0
        if self.mode == "int4" and fits and name != "output":
            return Int4Linear(*sizes)
        return Int8Linear(*sizes)
