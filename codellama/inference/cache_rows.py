"""Rows of a KV cache, for batches whose sequences come and go."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch

from codellama.model.kv_cache import KVCache


def view_rows(cache: KVCache, start: int, stop: int) -> KVCache:
    """A cache of some of the rows, in the same memory; it must not grow."""
    view = copy(cache)
    for kind in cache.kinds:
        setattr(view, kind, [buffer[start:stop] for buffer in getattr(cache, kind)])
    view.lengths = cache.lengths[start:stop]
    return view


def keep_rows(cache: KVCache, rows: Sequence[int]) -> None:
    """Makes `rows` the rows of the cache, in the order given; one may come several times."""
    _rebuild(cache, [(cache, row) for row in rows], cache.capacity)


def join_rows(cache: KVCache, other: KVCache) -> None:
    """Appends the rows of `other`, which is used up; the larger capacity of the two stays."""
    rows = [(owner, row) for owner in (cache, other) for row in range(len(owner.lengths))]
    _rebuild(cache, rows, max(cache.capacity, other.capacity))


@torch.no_grad()
def _rebuild(cache: KVCache, rows: Sequence[tuple[KVCache, int]], capacity: int) -> None:
    """Makes `rows` the rows of `cache`; layer by layer, so that only one layer exists twice."""
    lengths = [owner.lengths[row] for owner, row in rows]
    for layer in range(len(cache.keys)):
        for kind in cache.kinds:
            _, heads, _, channels = getattr(cache, kind)[layer].shape
            new = getattr(cache, kind)[layer].new_zeros(len(rows), heads, capacity, channels)
            for target, (owner, row), length in zip(new, rows, lengths, strict=True):
                target[:, :length] = getattr(owner, kind)[layer][row, :, :length]
            for owner in (cache, *(owner for owner, _ in rows)):
                getattr(owner, kind)[layer] = new  # frees the old layer
    cache.lengths = lengths


def bytes_per_token(cache: KVCache) -> int:
    """Memory that one token of one row takes in all layers, in bytes."""
    buffers = [buffer for kind in cache.kinds for buffer in getattr(cache, kind)]
    return sum(buffer.shape[1] * buffer.shape[3] * buffer.itemsize for buffer in buffers)
