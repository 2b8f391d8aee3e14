"""The SwiGLU feed-forward (Shazeer 2020, arXiv 2002.05202)."""

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """`w2(silu(w1(x)) * w3(x))`: one projection gates the other.

    Args:
        dim: channels of the input and of the output.
        hidden_dim: channels in between.

    Shape:
        (..., dim) -> (..., dim)
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))
