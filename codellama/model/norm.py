"""Root mean square layer normalisation (Zhang and Sennrich 2019, arXiv 1910.07467)."""

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Scales each vector to a root mean square of one, then each channel by a learned weight.

    The arithmetic is float32 whatever the dtype of the input; the result has the input's dtype.

    Args:
        dim: channels of a vector.
        eps: added to the mean square, so that a zero vector stays finite.

    Shape:
        (..., dim) -> (..., dim)
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        exact = x.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return (exact * scale * self.weight).to(x.dtype)
