"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

Channels are taken in pairs (0, 1), (2, 3), …, as Meta's weights expect, and pair `i` of the vector
at position `m` is turned by the angle `m * theta ** (-2i / head_dim)`. The dot product of a turned
query and a turned key then depends on their distance alone. Code Llama raises `theta` from 1e4 to
1e6, so that the slow pairs turn slower still and tell distances of 100k tokens apart (arXiv
2308.12950, section 2.4).
"""

import torch
from torch import Tensor


def rotary_angles(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle of every pair of channels at every position.

    Computed for the positions at hand, so that no table bounds the context. Everything is float32,
    with the roundings of Meta's code, which the models were trained with: at position 100,000 bf16
    would not even tell neighbouring tokens apart.

    Args:
        positions: (batch, seq) whole numbers from 0.
        head_dim: channels of an attention head; even.
        theta: the base.

    Returns:
        Two float32 tensors (batch, seq, 1, head_dim / 2), to be broadcast over the heads.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    frequencies = 1.0 / theta**exponents
    angles = positions[:, :, None, None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns every pair of channels by its angle, in float32; the result has the dtype of `x`.

    A pair is a complex number, and turning it a product: `(x0 + i x1) * (cos + i sin)`.

    Shape:
        x (batch, seq, heads, head_dim), cos and sin (batch, seq, 1, head_dim / 2) -> as x
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the product written out: only real numbers are fused
        real, imaginary = pairs.unbind(-1)
        parts = real * cos - imaginary * sin, real * sin + imaginary * cos
        turned = torch.stack(parts, -1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.complex(cos, sin))
    return turned.flatten(-2).to(x.dtype)
