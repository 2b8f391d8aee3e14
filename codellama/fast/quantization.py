"""Linear layers of 8 and 4 bits a weight, into which matrices are rounded while they are read.

Slow: decoding reads every weight once a token, so it is as fast as memory is.
Instead: weights are integers. With 8 bits each row has a scale (Dettmers et al. 2022, arXiv
    2208.07339, compare such schemes); with 4 bits each group of 32 in a row has a scale and a zero
    point (Frantar et al. 2022, arXiv 2210.17323). Nothing but the weights is rounded. PyTorch's
    kernels multiply few rows; for many, the weight is dequantized. On x86, oneDNN or FBGEMM
    multiplies 8 bits.
Gains: half the memory of 16 bits, or with 4 bits about a third, the embedding included. A 7B in
    int4 is loaded within 5.5 GB of memory. Speed: see README.md.
Costs: accuracy (`codellama.evaluate compare`), and seconds per billion weights for rounding.
Not for: gradients, the embedding and norms. The output matrix, which matters most, has 8 bits also
    with int4, and so have matrices whose sizes do not fill the 4-bit blocks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from codellama.fast import cpu_linear
from codellama.fast.cpu_linear import SLICE, FrozenLinear, PrepackedLinear, Product, product_dtype
from codellama.model.transformer import Transformer
from codellama.weights.loading import WeightLoader, default_weight_loader
from codellama.weights.meta import own_slices, shard_dimension

HAS_INT8_KERNEL = cpu_linear.has_operators(torch.ops.aten, "_weight_int8pack_mm")
HAS_ONEDNN_INT8 = getattr(torch.cpu, "_is_vnni_supported", bool)() and cpu_linear.has_operators(
    torch.ops.onednn, "qlinear_prepack", "qlinear_pointwise"
)
HAS_INT4_KERNEL = cpu_linear.has_operators(torch.ops.aten, "_weight_int4pack_mm_for_cpu")
MAX_INT8_ROWS, MAX_INT4_ROWS = 16, 48
"""Rows of activations up to which the kernels beat dequantizing (AVX-512, 2026-11)."""
GROUP = 32
BLOCK = 64
"""Rows of a 4-bit weight that are packed together for a device without a kernel; also the most."""
MAX_PART = 63
"""The largest part of a split activation: FBGEMM adds two products in 16 bits without VNNI."""


def quantizing_weight_loader(
    mode: str, otherwise: WeightLoader = default_weight_loader, mesh: DeviceMesh | None = None
) -> WeightLoader:
    """Rounds the matrices of a model as they are read, in mode "int8" or "int4".

    Args:
        otherwise: takes the other parameters.
        mesh: processes of which each rounds its own slice of a matrix, as it is in the whole.
    """

    def load(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
        owner = name.removesuffix(".weight")
        if not isinstance(model.get_submodule(owner), nn.Linear):
            return otherwise(model, name, read)
        weight = read(own_slices(name, model.get_parameter(name).shape, mesh))
        fits = weight.shape[0] % BLOCK == 0 and weight.shape[1] % GROUP == 0
        if mode == "int4" and fits and owner != "output":
            return model.set_submodule(owner, Int4Linear.from_weight(weight))
        across = mesh if shard_dimension(name) == 1 else None
        return model.set_submodule(owner, Int8Linear.from_weight(weight, across))

    return load


def least_scale(dtype: torch.dtype) -> float:
    """A dtype's least positive number that float32 holds as a normal one; some processors take
    others for 0."""
    kind = torch.finfo(dtype)
    return max(kind.tiny * kind.eps, torch.finfo(torch.float32).tiny)


def quantize_rows(weight: Tensor, mesh: DeviceMesh | None = None) -> tuple[Tensor, Tensor]:
    """Rounds each row to 255 evenly spaced values around 0. Processes of a `mesh` give columns of
    the same rows, and find one scale for each row.

    Shape:
        (..., in) -> int8 (..., in) and the rows' scales (...), in the dtype of `weight`
    """
    numbers = weight.float()
    largest = torch.linalg.vector_norm(numbers, torch.inf, -1)
    if mesh is not None:
        dist.all_reduce(largest, dist.ReduceOp.MAX, mesh.get_group())
    scales = (largest / 127).clamp(min=least_scale(weight.dtype)).to(weight.dtype)
    values = numbers / scales.float()[..., None]  # by the scale that is stored
    return values.round_().clamp_(-127, 127).to(torch.int8), scales


class Int8Linear(FrozenLinear):
    """A linear layer without bias: 8 bits a weight and a scale for each row.

    Args:
        values: int8 (out, in).
        scales: (out), in the model's dtype.
    """

    values: Tensor
    scales: Tensor

    def __init__(self, values: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)

    @classmethod
    def from_weight(cls, weight: Tensor, mesh: DeviceMesh | None = None) -> Int8Linear:
        """Rounds a weight (out, in), `SLICE` rows at a time, so that little of it is in float32."""
        rows = (quantize_rows(part, mesh) for part in weight.split(SLICE))
        values, scales = zip(*rows, strict=True)
        return cls(torch.cat(values), torch.cat(scales))

    def dequantize(self) -> Tensor:
        """The weight that the integers stand for, float32 (out, in)."""
        return self.values * self.scales.float()[:, None]

    def multiply(self, x: Tensor) -> Tensor:
        # The kernel reads past the end of rows that do not fill its vectors of 16 numbers.
        has_kernel = x.device.type == "cpu" and HAS_INT8_KERNEL and x.shape[1] % 16 == 0
        if has_kernel and len(x) <= MAX_INT8_ROWS:
            return torch._weight_int8pack_mm(x, self.values, self.scales)
        return F.linear(x, self.values.to(x.dtype)) * self.scales


class PackedInt8Linear(PrepackedLinear):
    """Products of integers: `values` (out, in) with `scales` (out), in oneDNN where the processor
    has instructions for them (VNNI, AMX), else in FBGEMM."""

    def __init__(self, values: Tensor, scales: Tensor) -> None:
        pack = onednn_product if HAS_ONEDNN_INT8 else fbgemm_product
        super().__init__(values, pack(values, scales), torch.float32)

    def multiply(self, x: Tensor) -> Tensor:
        parts, scales = split_activations(x.float())
        high, low = super().multiply(parts).chunk(2)
        return torch.add(low, high, alpha=2 * MAX_PART).mul_(scales).to(x.dtype)


def onednn_product(values: Tensor, scales: Tensor) -> Product:
    """Multiplies activations that are integers from -128 to 127. Without AMX, oneDNN has kernels
    for unsigned ones alone; with it, signed ones are faster for few rows."""
    packed = torch.ops.onednn.qlinear_prepack(values, None)
    weight = packed, scales.float(), torch.zeros(len(scales), dtype=torch.int32)
    plain: tuple[Any, ...] = (None, 1.0, 0, torch.float32, "none", [], "")  # no bias, float32 out
    signed_rows = MAX_INT8_ROWS if cpu_linear.has_amx() else 0

    def multiply(x: Tensor) -> Tensor:
        zero, dtype = (0, torch.int8) if len(x) <= signed_rows else (128, torch.uint8)
        x = (x + zero).to(dtype)
        return torch.ops.onednn.qlinear_pointwise(x, 1.0, zero, *weight, *plain)

    return multiply


def fbgemm_product(values: Tensor, scales: Tensor) -> Product:
    """Multiplies activations that are integers from `-MAX_PART` to `MAX_PART`."""
    zeros = torch.zeros(len(scales), dtype=torch.long)
    with warnings.catch_warnings():  # PyTorch 2.13 deprecates such tensors, and says so once
        warnings.simplefilter("ignore", UserWarning)
        weight = torch._make_per_channel_quantized_tensor(values, scales.double(), zeros, 0)
    packed = torch.ops.quantized.linear_prepack(weight, None)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return lambda x: multiply(x, 1.0, MAX_PART + 1, packed)


def split_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Splits activations into `(2 * MAX_PART * high + low) * scale`, whose integer parts from
    `-MAX_PART` to `MAX_PART` are multiplied exactly: only the weights are rounded to 8 bits.

    A row's scale is its largest magnitude divided by `2 * MAX_PART ** 2`; bfloat16 is kept exactly
    down to 1/31 of that magnitude.

    Shape:
        float32 (rows, in) -> (2 * rows, in), first all high parts, and scales (rows, 1)
    """
    peaks = torch.linalg.vector_norm(x, torch.inf, -1, keepdim=True)
    scales = peaks.clamp_(min=1e-30).div_(2 * MAX_PART**2)
    numbers = x / scales
    high = (numbers / (2 * MAX_PART)).round_()
    low = numbers.sub_(high, alpha=2 * MAX_PART).round_()
    return torch.cat([high, low]), scales


def kernel_rows(device: torch.device) -> int:
    """Rows of a 4-bit weight that PyTorch's kernel takes together; 0 for a device without one."""
    on_cpu = device.type == "cpu" and HAS_INT4_KERNEL
    capability = torch.backends.cpu.get_cpu_capability() if on_cpu else ""
    return {"AVX512": 64, "AVX2": 32}.get(capability, 0)


def block_rows(device: torch.device) -> int:
    """Rows of a 4-bit weight that are packed together for a device."""
    return kernel_rows(device) or BLOCK


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each group of `GROUP` neighbours in a row to 16 evenly spaced values.

    Shape:
        (out, in) -> uint8 values of 0 to 15 (out, in), and scales and zero points
        (in / GROUP, out, 2), in the dtype of `weight`: a weight is about
        `(value - 8) * scale + zero_point`, as in PyTorch's kernel
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    low, high = groups.amin(-1), groups.amax(-1)
    scales = ((high - low) / 15).clamp(min=least_scale(weight.dtype)).to(weight.dtype)
    zero_points = (low + 8 * scales.float()).to(weight.dtype)
    values = (groups - zero_points.float()[..., None]).div_(scales.float()[..., None]).add_(8)
    values = values.round_().clamp_(0, 15).to(torch.uint8).flatten(1)
    return values, torch.stack([scales.T, zero_points.T], -1)


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


class Int4Linear(FrozenLinear):
    """A linear layer without bias: 4 bits a weight, a scale and a zero point for each group of 32.

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
        values, both = zip(*map(quantize_groups, weight.split(SLICE)), strict=True)
        packed = [pack_nibbles(part, block_rows(weight.device)) for part in values]
        return cls(torch.cat(packed), torch.cat(both, 1))

    def dequantize(self) -> Tensor:
        """The weight that the integers stand for, float32 (out, in)."""
        return self._in_blocks().flatten(1, 2).transpose(1, 2).flatten(0, 1)

    def multiply(self, x: Tensor) -> Tensor:
        if self.has_kernel and len(x) <= MAX_INT4_ROWS:
            return torch.ops.aten._weight_int4pack_mm_for_cpu(
                x, self.packed, GROUP, self.scales_and_zeros
            )
        if not torch.compiler.is_compiling():
            return self._multiply_slices(x)
        if len(x) > 1:
            return F.linear(x, self.dequantize().to(x.dtype))
        # A sum, which torch.compile fuses with the dequantization.
        product = (self._in_blocks() * x.float().view(-1, GROUP, 1)).sum((1, 2))
        return product.view(1, -1).to(x.dtype)

    def _in_blocks(self) -> Tensor:
        """The weight in the order of its bytes, float32 (blocks, in / GROUP, GROUP, block)."""
        nibbles = self.packed.view(len(self.packed) // self.block, -1, GROUP, 1, self.block // 2)
        shifts = 4 * torch.arange(2, dtype=torch.uint8, device=nibbles.device)[:, None]
        values = (nibbles >> shifts & 15).float().flatten(3)
        both = self.scales_and_zeros.float().unflatten(1, (-1, self.block))
        scales, zeros = both.permute(3, 1, 0, 2)[:, :, :, None]  # (blocks, in / GROUP, 1, block)
        return (values - 8) * scales + zeros

    def _multiply_slices(self, x: Tensor) -> Tensor:
        """`multiply` with `SLICE` rows of the weight at a time, so that the same memory serves all
        slices."""
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
