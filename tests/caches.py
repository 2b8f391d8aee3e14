"""Small KV caches, and what is expected of their contents."""

import torch
from torch import Tensor

from codellama import KVCache

LAYERS, KV_HEADS, HEAD_DIM = 2, 3, 4


def empty_cache(
    batch_size: int, capacity: int = 0, kind: type[KVCache] = KVCache, **options
) -> KVCache:
    return kind(LAYERS, KV_HEADS, HEAD_DIM, batch_size, capacity, **options)


def new_tokens(batch_size: int, seq: int, seed: int = 0) -> Tensor:
    """Keys and values of every layer: (layers, 2, batch, seq, kv_heads, head_dim)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, 2, batch_size, seq, KV_HEADS, HEAD_DIM, generator=generator)


def append(cache: KVCache, tokens: Tensor) -> Tensor:
    """Writes to every layer and advances; returns what each layer gave back, stacked."""
    written = [
        torch.stack(cache.write(layer, *keys_and_values))
        for layer, keys_and_values in enumerate(tokens)
    ]
    cache.advance(tokens.shape[3])
    return torch.stack(written)


def contents(cache: KVCache) -> list[Tensor]:
    """Of each row what the cache holds, as (layers, 2, length, kv_heads, head_dim)."""
    stored = torch.stack((torch.stack(cache.keys), torch.stack(cache.values)), dim=1)
    return [
        stored[:, :, row, :, :length].transpose(2, 3) for row, length in enumerate(cache.lengths)
    ]


def assert_rows(cache: KVCache, expected: list[Tensor]) -> None:
    assert cache.lengths == [row.shape[2] for row in expected]
    for row, tokens in zip(contents(cache), expected, strict=True):
        assert torch.equal(row, tokens)
