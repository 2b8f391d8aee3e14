"""A static cache, beside an ordinary one that is given the same tokens."""

import pytest
import torch
from caches import HEAD_DIM, KV_HEADS, LAYERS, new_tokens

from codellama import KVCache
from codellama.fast.int8_kv_cache import Int8KVCache
from codellama.fast.static_kv_cache import move, static_rows

CAPACITY = 9

kinds = pytest.mark.parametrize("kind", [KVCache, Int8KVCache])


def filled(kind, lengths):
    """A cache with capacity for more, and random tokens in it."""
    cache = kind(LAYERS, KV_HEADS, HEAD_DIM, len(lengths), CAPACITY)
    append(cache, new_tokens(len(lengths), 5))
    cache.lengths = list(lengths)
    return cache


def append(cache, tokens):
    """What each layer gave back, stacked."""
    written = [torch.stack(cache.write(layer, *pair)).clone() for layer, pair in enumerate(tokens)]
    cache.advance(tokens.shape[3])
    return torch.stack(written)


@kinds
@pytest.mark.parametrize("lengths", [[3, 3], [5, 2], [0, 4]])
@pytest.mark.parametrize("seen", [None, 7])
def test_it_shows_what_the_other_would_and_counts_on_the_device(kind, lengths, seen):
    ordinary, buffers = filled(kind, lengths), filled(kind, lengths)
    cache = static_rows(buffers, 2, torch.tensor(lengths)[:, None])
    cache.seen = None if seen is None else torch.empty(seen)
    for seed in (1, 2):
        step = new_tokens(2, 1, seed)
        assert cache.needs_mask(1)
        assert cache.next_positions(1)[:, 0].tolist() == ordinary.lengths
        found, expected = append(cache, step), append(ordinary, step)
        assert found.shape[4] == cache.key_count(1) == (seen or CAPACITY)
        for row, length in enumerate(ordinary.lengths):
            assert torch.equal(found[:, :, row, :, :length], expected[:, :, row, :, :length])
    assert cache.starts[:, 0].tolist() == ordinary.lengths


@kinds
def test_it_is_the_first_rows_of_the_buffers_it_was_made_of(kind):
    buffers = filled(kind, [5, 2, 4])
    cache = static_rows(buffers, 2, torch.tensor([[5], [2], [4]]))
    assert len(cache.keys[0]) == len(cache.starts) == 2
    append(cache, new_tokens(2, 1, seed=1))
    assert torch.equal(cache.keys[1], buffers.keys[1][:2])
    assert isinstance(cache, kind)
    assert type(cache) is type(static_rows(buffers, 1, cache.starts))


@kinds
def test_a_cache_that_moves_holds_what_it_held_in_the_buffers_it_moved_to(kind):
    cache, target = filled(kind, [5, 2]), kind(LAYERS, KV_HEADS, HEAD_DIM, 2, 20)
    before = {name: [buffer.clone() for buffer in getattr(cache, name)] for name in cache.kinds}
    move(cache, target)
    assert (cache.lengths, cache.capacity) == ([5, 2], 20)
    for name, buffers in before.items():
        now = getattr(cache, name)
        for old, new, there in zip(buffers, now, getattr(target, name), strict=True):
            assert new is there
            assert torch.equal(new[:, :, :5], old[:, :, :5])
