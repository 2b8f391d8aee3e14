"""Linear layers of 4 bits a weight.

Slow: decoding reads every weight once a token, so it is as fast as memory is.
Instead: weights are integers, with a scale and a zero point for each group of 32 in a row (Frantar
    et al. 2022, arXiv 2210.17323, compare such schemes). PyTorch's kernel multiplies few rows of
    activations. For many rows, slices of the weight are expanded first.
Gains: about a third of the memory of 16 bits, the embedding included; figures in README.md.
Costs: accuracy.
Not for: matrices whose sizes are no multiples of `GROUP` and `BLOCK`; they have 8 bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.fast.int8 import least_scale
from codellama.fast.operators import has_operators, without_gradient
from codellama.fast.single_row_linear import SLICE, product_dtype

HAS_KERNEL = has_operators("ops.aten._weight_int4pack_mm_for_cpu")
GROUP = 32
BLOCK = 64
"""Rows of a weight that are packed together for a device without a kernel; also the most."""
MAX_ROWS = 48
"""Rows of activations up to which the kernel beats expanding the weight (AVX-512, 2026-11)."""


def kernel_rows(device: torch.device) -> int:
    """Rows of a weight that PyTorch's kernel takes together; 0 for a device without a kernel."""
    on_cpu = device.type == "cpu" and HAS_KERNEL
    capability = torch.backends.cpu.get_cpu_capability() if on_cpu else ""
    return {"AVX512": 64, "AVX2": 32}.get(capability, 0)


def block_rows(device: torch.device) -> int:
    """Rows of a weight that are packed together for a device."""
    return kernel_rows(device) or BLOCK


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rounds each group of `GROUP` neighbours in a row to 16 evenly spaced values.

    Shape:
        (out, in) -> uint8 values of 0 to 15 (out, in), and scales and zero points
        (out, in / GROUP), in the dtype of `weight`: a weight is about
        `(value - 8) * scale + zero_point`, as in PyTorch's kernel
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / 15).clamp(min=least_scale(weight.dtype)).to(weight.dtype)
    zero_points = (low + 8 * scales.float()).to(weight.dtype)
    values = (groups - zero_points.float()[..., None]).div_(scales.float()[..., None]).add_(8)
    return values.round_().clamp_(0, 15).to(torch.uint8).flatten(1), scales, zero_points


def pack_nibbles(values: Tensor, block: int) -> Tensor:
    """Puts two values of 0 to 15 into a byte: of each column of a block of rows, the first half of
    the rows into the low bits, the second half into the high bits.

    Shape:
        uint8 (out, in) -> uint8 (out, in / 2); `out` is a multiple of `block`
    """
    low, high = values.unflatten(0, (-1, 2, block // 2)).unbind(1)  # (blocks, block / 2, in)
    return (low | high << 4).transpose(1, 2).contiguous().view(len(values), -1)


def unpack_nibbles(packed: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """The values that `pack_nibbles` was given, transposed.

    Shape:
        uint8 (out, in / 2) -> (in, out)
    """
    blocks = packed.view(-1, 2 * packed.shape[1], block // 2)  # (blocks, in, block / 2)
    values = packed.new_empty(blocks.shape[1], len(blocks), 2, block // 2, dtype=dtype)
    values[:, :, 0] = (blocks & 15).transpose(0, 1)
    values[:, :, 1] = (blocks >> 4).transpose(0, 1)
    return values.flatten(1)


class Int4Linear(nn.Module):
    """A linear layer without bias: 4 bits a weight, a scale and a zero point for each group of 32.

    Shape:
        (..., in) -> (..., out)

    Args:
        packed: uint8 (out, in / 2), packed in blocks of `block_rows` of its device.
        scales_and_zeros: (in / GROUP, out, 2), in the model's dtype.
    """

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, packed: Tensor, scales_and_zeros: Tensor) -> None:
        super().__init__()
        self.register_buffer("packed", packed)
        self.register_buffer("scales_and_zeros", scales_and_zeros)
        self.block = block_rows(packed.device)
        self.has_kernel = kernel_rows(packed.device) > 0

    @classmethod
    def from_weight(cls, weight: Tensor) -> Int4Linear:
        """Rounds a weight (out, in), `SLICE` rows at a time, so that little of it is in float32."""
        rows, columns = weight.shape
        packed = weight.new_empty(rows, columns // 2, dtype=torch.uint8)
        both = weight.new_empty(columns // GROUP, rows, 2)
        for start in range(0, rows, SLICE):
            part = slice(start, start + SLICE)
            values, scales, zero_points = quantize_groups(weight[part])
            packed[part] = pack_nibbles(values, block_rows(weight.device))
            both[:, part] = torch.stack([scales.T, zero_points.T], -1)
        return cls(packed, both)

    def dequantize(self) -> Tensor:
        """The weight that the integers stand for, float32 (out, in)."""
        return self._in_blocks().flatten(1, 2).transpose(1, 2).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return without_gradient(x, self)
        rows = x.reshape(-1, x.shape[-1])
        if self.has_kernel and len(rows) <= MAX_ROWS:
            product = torch.ops.aten._weight_int4pack_mm_for_cpu(
                rows, self.packed, GROUP, self.scales_and_zeros
            )
        elif not torch.compiler.is_compiling():
            product = self._by_slices(rows)
        elif len(rows) > 1:
            product = F.linear(rows, self.dequantize().to(x.dtype))
        else:  # a sum, which torch.compile fuses with the expansion
            product = (self._in_blocks() * rows.float().view(-1, GROUP, 1)).sum((1, 2))
            product = product.view(1, -1).to(x.dtype)
        return product.view(*x.shape[:-1], product.shape[-1])

    def _in_blocks(self) -> Tensor:
        """The weight in the order of its bytes, float32 (blocks, in / GROUP, GROUP, block)."""
        nibbles = self.packed.view(len(self.packed) // self.block, -1, GROUP, 1, self.block // 2)
        shifts = 4 * torch.arange(2, dtype=torch.uint8, device=nibbles.device)[:, None]
        values = (nibbles >> shifts & 15).float().flatten(3)
        both = self.scales_and_zeros.float().unflatten(1, (-1, self.block))
        scales, zeros = both.permute(3, 1, 0, 2)[:, :, :, None]  # (blocks, in / GROUP, 1, block)
        return (values - 8) * scales + zeros

    def _by_slices(self, x: Tensor) -> Tensor:
        """The product (rows, out) of `x` (rows, in) with `SLICE` rows of the weight at a time, so
        that the same memory serves all slices."""
        dtype = product_dtype(x.dtype, x.device)
        products = []
        slices = zip(self.packed.split(SLICE), self.scales_and_zeros.split(SLICE, 1), strict=True)
        for packed, both in slices:
            groups = unpack_nibbles(packed, self.block, dtype).unflatten(0, (-1, GROUP))
            scales, zeros = both.to(dtype).permute(2, 0, 1).contiguous()[:, :, None]
            lows = torch.sub(zeros, scales, alpha=8)
            weight = torch.addcmul(lows, groups, scales, out=groups).flatten(0, 1)  # (in, slice)
            products.append(x.to(dtype) @ weight)
        return torch.cat(products, -1).to(x.dtype)
