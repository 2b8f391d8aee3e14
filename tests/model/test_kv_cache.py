"""The cache against plain lists of what each row has been given."""

import pytest
import torch
from caches import HEAD_DIM, KV_HEADS, LAYERS, append, assert_rows, empty_cache, new_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama import KVCache
from codellama.fast.quantized_kv_cache import QuantizedKVCache


def test_new_cache_is_empty_and_has_the_capacity_asked_for():
    cache = empty_cache(batch_size=3, capacity=7)
    assert (cache.lengths, cache.longest, cache.capacity) == ([0, 0, 0], 0, 7)
    assert cache.uniform


@pytest.mark.parametrize("capacity", [0, 4, 16])
def test_write_returns_all_tokens_so_far_with_heads_before_positions(capacity):
    cache = empty_cache(2, capacity)
    tokens = new_tokens(2, 9)
    for start, end in ((0, 4), (4, 5), (5, 9)):
        written = append(cache, tokens[:, :, :, start:end])
        assert torch.equal(written, tokens[:, :, :, :end].transpose(3, 4))


def test_nothing_is_copied_within_the_reserved_capacity():
    cache = empty_cache(2)
    cache.reserve(8)
    addresses = [buffer.data_ptr() for buffer in cache.keys + cache.values]
    for step in range(8):
        append(cache, new_tokens(2, 1, seed=step))
    assert [buffer.data_ptr() for buffer in cache.keys + cache.values] == addresses
    assert cache.write(0, *new_tokens(2, 0)[0])[0].data_ptr() == addresses[0]


def test_reserving_less_than_there_is_changes_nothing():
    cache = empty_cache(1, capacity=8)
    address = cache.keys[0].data_ptr()
    cache.reserve(5)
    assert (cache.capacity, cache.keys[0].data_ptr()) == (8, address)


def test_reserving_more_keeps_the_contents():
    cache = empty_cache(2, capacity=4)
    tokens = new_tokens(2, 4)
    append(cache, tokens)
    cache.reserve(50)
    assert cache.capacity == 50
    assert_rows(cache, [tokens[:, :, 0], tokens[:, :, 1]])


def test_growing_token_by_token_seldom_copies():
    cache = empty_cache(1)
    capacities = set()
    for _ in range(500):
        append(cache, new_tokens(1, 1))
        capacities.add(cache.capacity)
    assert len(capacities) < 20
    assert cache.capacity < 2 * 500


def test_positions_of_rows_of_one_length_are_given_once():
    cache = empty_cache(3, capacity=9)
    cache.lengths = [4, 4, 4]
    assert cache.uniform
    assert cache.next_positions(2).tolist() == [[4, 5]]


def test_positions_of_rows_of_several_lengths_are_given_for_each():
    cache = empty_cache(3, capacity=9)
    cache.lengths = [4, 0, 7]
    assert not cache.uniform
    assert cache.next_positions(2).tolist() == [[4, 5], [0, 1], [7, 8]]


def test_each_row_is_written_behind_its_own_end():
    cache = empty_cache(3, capacity=9)
    first, second = new_tokens(3, 7, seed=0), new_tokens(3, 2, seed=1)
    append(cache, first)
    cache.lengths = [4, 0, 7]
    written = append(cache, second)
    assert written.shape == (LAYERS, 2, 3, KV_HEADS, 9, HEAD_DIM)
    expected = [
        torch.cat((first[:, :, row, :length], second[:, :, row]), dim=2)
        for row, length in enumerate([4, 0, 7])
    ]
    assert_rows(cache, expected)


@pytest.mark.parametrize("lowered", [[3, 3], [1, 3]], ids=["uniform", "ragged"])
def test_lowered_lengths_are_overwritten(lowered):
    cache = empty_cache(2)
    first, second = new_tokens(2, 5, seed=0), new_tokens(2, 4, seed=1)
    append(cache, first)
    cache.lengths = lowered
    append(cache, second)
    expected = [
        torch.cat((first[:, :, row, :length], second[:, :, row]), dim=2)
        for row, length in enumerate(lowered)
    ]
    assert_rows(cache, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_survives_growing(dtype):
    cache = empty_cache(2, dtype=dtype)
    append(cache, new_tokens(2, 3).to(dtype))
    assert {buffer.dtype for buffer in cache.keys + cache.values} == {dtype}


@pytest.mark.parametrize("kind", [KVCache, QuantizedKVCache])
def test_some_rows_are_written_to_in_the_same_memory(kind):
    cache, alone = empty_cache(4, 9, kind), empty_cache(2, 9, kind)
    tokens, new = new_tokens(4, 5), new_tokens(2, 2, seed=1)
    append(cache, tokens)
    append(alone, tokens[:, :, 1:3])
    cache.lengths = [5, 2, 3, 4]
    alone.lengths = [2, 3]
    part = cache.rows(1, 3)
    assert torch.equal(append(part, new), append(alone, new))
    assert (part.lengths, cache.lengths) == ([4, 5], [5, 2, 3, 4])
    for buffers, own in zip(cache.buffers(), alone.buffers(), strict=True):
        assert torch.equal(torch.stack(buffers)[:, 1:3], torch.stack(own))


@pytest.mark.parametrize("kind", [KVCache, QuantizedKVCache])
def test_bytes_of_a_token_are_those_of_its_keys_and_values(kind):
    cache = empty_cache(2, 5, kind, dtype=torch.bfloat16)
    stored = sum(buffer.nbytes for layers in cache.buffers() for buffer in layers)
    assert cache.bytes_per_token == stored / 2 / 5


ROWS = 3
STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 6)),
    st.tuples(st.just("lower"), st.lists(st.floats(0, 1), min_size=ROWS, max_size=ROWS)),
    st.tuples(st.just("reserve"), st.integers(0, 40)),
    st.tuples(st.just("copy"), st.tuples(*[st.integers(0, ROWS - 1)] * 2)),
)


@given(steps=st.lists(STEPS, max_size=12), capacity=st.integers(0, 10))
@settings(deadline=None, max_examples=60)
def test_any_sequence_of_steps_leaves_each_row_as_a_plain_list_would_be(steps, capacity):
    cache = empty_cache(ROWS, capacity)
    expected = [new_tokens(ROWS, 0)[:, :, 0]] * ROWS
    for number, (step, argument) in enumerate(steps):
        if step == "append":
            tokens = new_tokens(ROWS, argument, seed=number)
            append(cache, tokens)
            expected = [
                torch.cat((held, tokens[:, :, row]), dim=2) for row, held in enumerate(expected)
            ]
        elif step == "lower":
            cache.lengths = [
                int(part * length) for part, length in zip(argument, cache.lengths, strict=True)
            ]
            expected = [
                held[:, :, :length] for held, length in zip(expected, cache.lengths, strict=True)
            ]
        elif step == "copy":
            source, target = argument
            cache.copy_row(source, target, cache.lengths[source])
            cache.lengths[target] = cache.lengths[source]
            expected[target] = expected[source]
        else:
            cache.reserve(argument)
        assert_rows(cache, expected)
