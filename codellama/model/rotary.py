"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

Channels are taken in pairs (0, 1), (2, 3), …, as Meta's weights expect. Pair `i` at position `m` is
rotated by the angle `m * theta ** (-2i / head_dim)`. The dot product of a rotated query and key
then depends only on the vectors and their distance. Code Llama raises `theta` from 1e4 to 1e6, so
that slow pairs tell distances of 100k tokens apart (arXiv 2308.12950, section 2.4).
"""

import torch
from torch import Tensor


def rotary_embedding(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of every pair of channels at every position.

    They are computed for the given positions, so that no table limits the context. Everything is
    float32 and rounded as in Meta's code, with which the models were trained. In bfloat16,
    positions near 100,000 would be multiples of 512.

    Args:
        positions: (batch, seq) numbers from 0.
        head_dim: channels of an attention head; even.
        theta: the base.

    Returns:
        Two float32 tensors (batch, seq, 1, head_dim / 2), to be broadcast over the heads.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    frequencies = 1.0 / theta**exponents
    angles = positions[:, :, None, None].float() * frequencies
    return angles.cos(), angles.sin()


def apply_rotary_embedding(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates every pair of channels by its angle, in float32; the result has the dtype of `x`.

    Shape:
        x (batch, seq, heads, head_dim), cos and sin (batch, seq, 1, head_dim / 2) -> as x
    """
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype)
