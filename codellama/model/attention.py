"""Causal self-attention with grouped queries (Ainslie et al. 2023, arXiv 2305.13245)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.model.kv_cache import KVCache
from codellama.model.rotary import apply_rotary_embedding


def causal_mask(positions: Tensor, key_count: int) -> Tensor:
    """True where a query may look: at keys no later than itself.

    Shape:
        positions (batch, seq) -> bool (batch, 1, seq, key_count), to be broadcast over the heads
    """
    keys = torch.arange(key_count, device=positions.device)
    return (keys <= positions[:, :, None])[:, None]


def grouped_query_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`softmax(Q K^T / sqrt(head_dim)) V`, where each group of query heads shares a key head.

    Keys and values are not repeated for a group. PyTorch's kernels have a float32 softmax inside.

    Args:
        queries: (batch, heads, seq, head_dim)
        keys, values: (batch, kv_heads, key_count, head_dim); kv_heads divides heads.
        mask: (batch or 1, 1, seq, key_count), True where a query may look. None: causal if there
            are several queries (and as many keys), unmasked if there is one.

    Returns:
        (batch, heads, seq, head_dim)
    """
    is_causal = mask is None and queries.shape[2] > 1
    has_groups = keys.shape[1] != queries.shape[1]
    return F.scaled_dot_product_attention(
        queries, keys, values, mask, is_causal=is_causal, enable_gqa=has_groups
    )


class Attention(nn.Module):
    """Projects to queries, keys and values, rotates queries and keys by position, and attends.

    Args:
        dim: channels of the input and of the output.
        n_heads: number of query heads, each of `dim / n_heads` channels.
        n_kv_heads: number of key and value heads.

    Shape:
        (batch, seq, dim) -> (batch, seq, dim)

    Attributes:
        attend: `grouped_query_attention`, or another function of the same arguments and result.
    """

    def __init__(self, dim: int, n_heads: int, n_kv_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // n_heads
        self.n_kv_heads = n_kv_heads
        self.wq = nn.Linear(dim, n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(n_heads * self.head_dim, dim, bias=False)
        self.attend = grouped_query_attention

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Attends from the tokens `x` to themselves and to the tokens in layer `layer` of `cache`.

        `cos` and `sin` come from `rotary_embedding`, `mask` is as in `grouped_query_attention`.
        """
        queries = self.wq(x).unflatten(-1, (-1, self.head_dim))  # (batch, seq, heads, head_dim)
        keys = self.wk(x).unflatten(-1, (-1, self.head_dim))  # (batch, seq, kv_heads, head_dim)
        values = self.wv(x).unflatten(-1, (-1, self.head_dim))
        queries = apply_rotary_embedding(queries, cos, sin)
        keys = apply_rotary_embedding(keys, cos, sin)
        if cache is None:
            keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        else:
            keys, values = cache.write(layer, keys, values)  # (batch, kv_heads, total, head_dim)
        attended = self.attend(queries.transpose(1, 2), keys, values, mask)
        return self.wo(attended.transpose(1, 2).flatten(2))
