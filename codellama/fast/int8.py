"""Linear layers of 8 bits a weight.

Slow: decoding reads every weight once a token, so it is as fast as memory is.
Instead: weights are integers, with a scale for each row. Nothing but the weights is rounded
    (Dettmers et al. 2022, arXiv 2208.07339, compare such schemes).
Gains: half the memory; figures in README.md.
Costs: rounding takes seconds a billion weights, and accuracy (`codellama.evaluate compare`).
Not for: gradients, and to several processes. On x86 the integers are prepacked as well (see
    `prepacked`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.fast.expansion import FEW_ROWS

VECTOR = 16
"""Numbers that the kernels for integers take at a time."""


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
    """The least positive number of a dtype, if it is a normal one in float32: some processors take
    others for 0."""
    kind = torch.finfo(dtype)
    return max(kind.tiny * kind.eps, torch.finfo(torch.float32).tiny)


class QuantizedLinear(nn.Module):
    """A linear layer without bias that keeps integers.

    Shape:
        (..., in) -> (..., out)

    Attributes:
        kinds: name and dtype of the tensors that it keeps; None: the model's dtype.
    """

    kinds: ClassVar[dict[str, torch.dtype | None]]

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features

    @classmethod
    def from_weight(cls, weight: Tensor) -> QuantizedLinear:
        """Rounds a weight (out, in)."""
        raise NotImplementedError

    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of what the layer keeps."""
        raise NotImplementedError

    def keep(self, buffers: Mapping[str, Tensor]) -> None:
        """Takes the tensors of `buffer_shapes`."""
        for name in self.buffer_shapes():
            self.register_buffer(name, buffers[name])

    def expanded(self) -> Tensor:
        """The weight that the integers stand for, float32 (out, in)."""
        raise NotImplementedError


class Int8Linear(QuantizedLinear):
    """8 bits a weight and a scale for each row."""

    kinds: ClassVar[dict[str, torch.dtype | None]] = {"values": torch.int8, "scales": None}
    values: Tensor
    scales: Tensor

    @classmethod
    def from_weight(cls, weight: Tensor) -> Int8Linear:
        """Rounds by rows."""
        layer = cls(weight.shape[1], weight.shape[0])
        layer.keep(dict(zip(("values", "scales"), quantize_rows(weight), strict=True)))
        return layer

    def buffer_shapes(self) -> dict[str, tuple[int, ...]]:
        """The integers, and a scale for each row."""
        return {"values": (self.out_features, self.in_features), "scales": (self.out_features,)}

    def expanded(self) -> Tensor:
        """Each row, scaled."""
        return self.values * self.scales.float()[:, None]

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        on_cpu = x.device.type == "cpu" and not self.in_features % VECTOR
        if on_cpu and len(rows) <= FEW_ROWS:  # PyTorch's kernel, which reads bytes
            product = torch._weight_int8pack_mm(rows, self.values, self.scales)
            return product.unflatten(0, x.shape[:-1])
        return F.linear(x, self.values.to(x.dtype)) * self.scales
