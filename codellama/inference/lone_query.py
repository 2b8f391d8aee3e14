"""Attention of a lone query to those before it: a step of decoding, the way that is quickest."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from codellama.model.attention import Attention, grouped_query_attention
from codellama.model.transformer import Transformer


def prepare(model: Transformer) -> None:
    """Lets a model attend by `attend`."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.attend = attend


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """As `grouped_query_attention`.

    Query heads of a group are to a key head what more positions would be: the keys are then read
    once a group, which made decoding on a CPU 1.5 to 4 times faster than `enable_gqa`.
    """
    _, heads, seq, _ = queries.shape
    if seq > 1:
        return grouped_query_attention(queries, keys, values, mask)
    rows = heads // keys.shape[1]
    grouped = queries.unflatten(1, (-1, rows)).flatten(2, 3)  # (batch, kv_heads, rows, head_dim)
    if torch.compiler.is_compiling():
        return _written_out(grouped, keys, values, mask).reshape(queries.shape)
    if rows == 1 and queries.dtype == torch.bfloat16 and _asks_twice(queries.device):
        grouped = grouped.expand(-1, -1, 2, -1)
    attended = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
    return attended[:, :, :rows].reshape(queries.shape)


def _written_out(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """The formula in float32, for torch.compile to fuse. With 512 to 4,096 keys on a CPU it took
    half to two fifths of the time of PyTorch's kernel; on a GPU the keys are shared out among more
    threads, where kernels give a head's keys to one block of them.

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
