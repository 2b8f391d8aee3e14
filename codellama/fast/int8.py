"""Linear layers of 8 bits a weight.

Slow: decoding reads every weight once a token, so it is as fast as memory is.
Instead: weights are integers, with a scale for each row. Nothing but the weights is rounded
    (Dettmers et al. 2022, arXiv 2208.07339, compare such schemes).
Gains: half the memory; figures in README.md.
Costs: accuracy (`codellama.evaluate compare`), and seconds per billion weights for rounding.
Not for: gradients, and several processes. On x86, `prepacked` replaces these layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.fast.operators import has_operators, without_gradient
from codellama.fast.single_row_linear import SLICE

HAS_KERNEL = has_operators("_weight_int8pack_mm")
MAX_ROWS = 16
"""Rows of activations up to which PyTorch's kernel beats converting the weight."""


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Rounds each row to 255 evenly spaced values around 0.

    Shape:
        (..., in) -> int8 (..., in) and the rows' scales (...), in the dtype of `weight`
    """
    numbers = weight.float()
    scales = torch.linalg.vector_norm(numbers, torch.inf, -1) / 127
    scales = scales.clamp(min=least_scale(weight.dtype)).to(weight.dtype)
    values = numbers / scales.float()[..., None]  # by the scale that is stored
    return values.round_().clamp_(-127, 127).to(torch.int8), scales


def least_scale(dtype: torch.dtype) -> float:
    """A dtype's least positive number that float32 holds as a normal one; some processors take
    others for 0."""
    kind = torch.finfo(dtype)
    return max(kind.tiny * kind.eps, torch.finfo(torch.float32).tiny)


class Int8Linear(nn.Module):
    """A linear layer without bias: 8 bits a weight and a scale for each row.

    Shape:
        (..., in) -> (..., out)

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
    def from_weight(cls, weight: Tensor) -> Int8Linear:
        """Rounds a weight (out, in), `SLICE` rows at a time, so that little of it is in float32."""
        values = torch.empty_like(weight, dtype=torch.int8)
        scales = weight.new_empty(len(weight))
        for start in range(0, len(weight), SLICE):
            part = slice(start, start + SLICE)
            values[part], scales[part] = quantize_rows(weight[part])
        return cls(values, scales)

    def dequantize(self) -> Tensor:
        """The weight that the integers stand for, float32 (out, in)."""
        return self.values * self.scales.float()[:, None]

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return without_gradient(x, self)
        rows = x.reshape(-1, x.shape[-1])
        # The kernel reads past the end of rows that do not fill its vectors of 16 numbers.
        suits = x.device.type == "cpu" and HAS_KERNEL and x.shape[-1] % 16 == 0
        if suits and len(rows) <= MAX_ROWS:
            product = torch._weight_int8pack_mm(rows, self.values, self.scales)
            return product.view(*x.shape[:-1], product.shape[-1])
        return F.linear(x, self.values.to(x.dtype)) * self.scales
