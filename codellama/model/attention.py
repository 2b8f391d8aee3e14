"""Causal self-attention with grouped queries (Ainslie et al. 2023, arXiv 2305.13245)."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.model.kv_cache import KVCache
from codellama.model.rotary import rotate


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

    Keys and values are not repeated for the query heads of a group. The softmax is float32 inside
    PyTorch's kernels.

    Args:
        queries: (batch, heads, seq, head_dim)
        keys, values: (batch, kv_heads, key_count, head_dim); kv_heads divides heads.
        mask: (batch or 1, 1, seq, key_count), True where a query may look. None stands for the two
            plain cases: as many keys as queries, each looking back, or one query that sees all.

    Returns:
        (batch, heads, seq, head_dim)
    """
    batch, heads, seq, head_dim = queries.shape
    kv_heads = keys.shape[1]
    if seq == 1:
        # Query heads of a group are to a key head what more positions would be: the keys are then
        # read once a group, which made decoding on a CPU 1.5 to 4 times faster than enable_gqa.
        rows = heads // kv_heads
        grouped = queries.reshape(batch, kv_heads, rows, head_dim)
        if torch.compiler.is_compiling():
            return _written_out(grouped, keys, values, mask).reshape(queries.shape)
        if rows == 1 and queries.dtype == torch.bfloat16 and _asks_twice(queries.device):
            grouped = grouped.expand(-1, -1, 2, -1)
        attended = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
        return attended[:, :, :rows].reshape(queries.shape)
    return F.scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=kv_heads != heads,
    )


def _written_out(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """The formula in float32, for torch.compile to fuse: with 512 to 4,096 keys on a CPU it took
    half to two fifths of the time of PyTorch's kernel.

    Shape:
        queries (batch, kv_heads, rows, head_dim), the rest as above -> as queries
    """
    products = queries.float()[:, :, :, None] * keys.float()[:, :, None]
    scores = products.sum(-1) * queries.shape[-1] ** -0.5  # (batch, kv_heads, rows, key_count)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weighted = scores.softmax(-1)[..., None] * values.float()[:, :, None]
    return weighted.sum(-2).to(queries.dtype)


@cache
def _asks_twice(device: torch.device) -> bool:
    """Whether a lone row of bfloat16 falls out of the kernel's fast products: on processors without
    tiles for matrices (AMX), asking twice took a third of the time of asking once; with them, three
    times as long."""
    return device.type == "cpu" and not torch.cpu._is_amx_tile_supported()


class Attention(nn.Module):
    """Projects to queries, keys and values, turns queries and keys by their position, attends.

    Args:
        dim: channels of the input and of the output.
        n_heads: number of query heads, each of `dim / n_heads` channels.
        n_kv_heads: number of key and value heads.

    Shape:
        (batch, seq, dim) -> (batch, seq, dim)
    """

    def __init__(self, dim: int, n_heads: int, n_kv_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // n_heads
        self.n_kv_heads = n_kv_heads
        self.wq = nn.Linear(dim, n_heads * self.head_dim, bias=False)
        self.wk = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wv = nn.Linear(dim, n_kv_heads * self.head_dim, bias=False)
        self.wo = nn.Linear(n_heads * self.head_dim, dim, bias=False)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Attends from the tokens `x` to themselves and to what layer `layer` of `cache` holds.

        `cos` and `sin` come from `rotary_angles`, `mask` is as in `grouped_query_attention`.
        """
        queries = self.wq(x).unflatten(-1, (-1, self.head_dim))  # (batch, seq, heads, head_dim)
        keys = self.wk(x).unflatten(-1, (-1, self.head_dim))  # (batch, seq, kv_heads, head_dim)
        values = self.wv(x).unflatten(-1, (-1, self.head_dim))
        queries, keys = rotate(queries, cos, sin), rotate(keys, cos, sin)
        if cache is None:
            keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        else:
            keys, values = cache.write(layer, keys, values)  # (batch, kv_heads, total, head_dim)
        attended = grouped_query_attention(queries.transpose(1, 2), keys, values, mask)
        return self.wo(attended.transpose(1, 2).flatten(2))
