"""Attention of a single query to the keys before it: a step of decoding.

Slow: with `enable_gqa` PyTorch's kernel reads each key head once for every query head of its group.
    For a single query of bfloat16 the kernel takes a slow path.
Instead: the query heads of a group are passed as positions of one head, so that each key is read
    once a group. A query of bfloat16 is given twice. torch.compile fuses the written-out formula.
Gains (two cores, 2026-11): decoding is 1.5 to 4 times faster with grouped queries. Two queries of
    bfloat16 take a third of the time of one. Written out, half of the time of PyTorch's kernel.
Costs: nothing; on CUDA, prefill behind a first chunk holds a layer's keys and values once for each
    query head.
Not for: prefill and training, which go to `grouped_query_attention`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from codellama.fast.cpu_linear import has_amx
from codellama.model.attention import grouped_query_attention


def single_query_attention(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
) -> Tensor:
    """As `grouped_query_attention`."""
    _, heads, seq, _ = queries.shape
    group = heads // keys.shape[1]
    if seq > 1:
        if queries.is_cuda and mask is not None and group > 1:
            # Of PyTorch's CUDA kernels only one takes both a mask and groups, in float32 with all
            # scores in memory (2.13).
            keys, values = (part.repeat_interleave(group, 1) for part in (keys, values))
        return grouped_query_attention(queries, keys, values, mask)
    grouped = queries.unflatten(1, (-1, group)).flatten(2, 3)  # (batch, kv_heads, group, head_dim)
    if torch.compiler.is_compiling():
        return _written_out(grouped, keys, values, mask).reshape(queries.shape)
    # On a CPU without AMX the kernel takes a slow path for a single row of bfloat16.
    on_cpu = queries.device.type == "cpu" and not has_amx()
    if group == 1 and queries.dtype == torch.bfloat16 and on_cpu:
        grouped = grouped.expand(-1, -1, 2, -1)
    attended = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
    return attended[:, :, :group].reshape(queries.shape)


def _written_out(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """The formula in float32, for queries (batch, kv_heads, group, head_dim). On a GPU all threads
    share a head's keys; kernels give them to one block of threads."""
    products = queries.float()[:, :, :, None] * keys.float()[:, :, None]
    scores = products.sum(-1) * queries.shape[-1] ** -0.5  # (batch, kv_heads, group, key_count)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weighted = scores.softmax(-1)[..., None] * values.float()[:, :, None]
    return weighted.sum(-2).to(queries.dtype)
