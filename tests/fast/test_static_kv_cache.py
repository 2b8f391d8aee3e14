"""A static cache, beside an ordinary one that is given the same tokens."""

import pytest
import torch

from codellama import KVCache
from codellama.fast.compiled import move, static_rows
from codellama.fast.quantized_kv_cache import QuantizedKVCache

LAYERS, KV_HEADS, HEAD_DIM, CAPACITY = 2, 3, 4, 9

kinds = pytest.mark.parametrize("kind", [KVCache, QuantizedKVCache])


def filled(kind, lengths):
    """A cache with buffers for more, and random tokens in it."""
    cache = kind(LAYERS, KV_HEADS, HEAD_DIM, len(lengths), CAPACITY)
    append(cache, new_tokens(len(lengths), 5))
    cache.lengths = list(lengths)
    return cache


def new_tokens(batch_size, seq, seed=0):
    """Keys and values of every layer."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(LAYERS, 2, batch_size, seq, KV_HEADS, HEAD_DIM, generator=generator)


def append(cache, tokens):
    """What each layer gave back, stacked."""
    written = [torch.stack(cache.write(layer, *pair)).clone() for layer, pair in enumerate(tokens)]
    cache.advance(tokens.shape[3])
    return torch.stack(written)


@kinds
@pytest.mark.parametrize("lengths", [[3, 3], [5, 2], [0, 4]])
def test_it_shows_what_the_other_would_and_counts_on_the_device(kind, lengths):
    ordinary, buffers = filled(kind, lengths), filled(kind, lengths)
    cache = static_rows(buffers, 2, torch.tensor(lengths)[:, None])
    for seed in (1, 2):
        step = new_tokens(2, 1, seed)
        assert cache.needs_mask(1)
        assert cache.next_positions(1)[:, 0].tolist() == ordinary.lengths
        found, expected = append(cache, step), append(ordinary, step)
        assert found.shape[4] == cache.key_count(1) == CAPACITY
        for row, length in enumerate(ordinary.lengths):
            assert torch.equal(found[:, :, row, :, :length], expected[:, :, row, :, :length])
    assert cache.starts[:, 0].tolist() == ordinary.lengths


@kinds
def test_it_is_the_first_rows_of_the_memory_it_was_made_of(kind):
    buffers = filled(kind, [5, 2, 4])
    cache = static_rows(buffers, 2, torch.tensor([[5], [2], [4]]))
    assert len(cache.keys[0]) == len(cache.starts) == 2
    append(cache, new_tokens(2, 1, seed=1))
    assert torch.equal(cache.keys[1], buffers.keys[1][:2])
    assert isinstance(cache, kind)
    assert type(cache) is type(static_rows(buffers, 1, cache.starts))


@kinds
def test_a_cache_that_moves_holds_what_it_held_in_the_memory_it_moved_to(kind):
    cache, buffers = filled(kind, [5, 2]), kind(LAYERS, KV_HEADS, HEAD_DIM, 2, 20)
    before = {name: [store.clone() for store in getattr(cache, name)] for name in cache.kinds}
    move(cache, buffers)
    assert (cache.lengths, cache.capacity) == ([5, 2], 20)
    for name, stores in before.items():
        for old, new, there in zip(
            stores, getattr(cache, name), getattr(buffers, name), strict=True
        ):
            assert new is there
            assert torch.equal(new[:, :, :5], old[:, :, :5])
