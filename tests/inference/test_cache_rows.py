"""Rows of caches against plain lists of what each row has been given."""

import pytest
import torch
from caches import append, assert_rows, empty_cache, new_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama import KVCache
from codellama.fast.quantized_kv_cache import QuantizedKVCache
from codellama.inference.cache_rows import bytes_per_token, join_rows, keep_rows, view_rows


def test_kept_rows_are_those_asked_for_in_their_order():
    cache = empty_cache(4, capacity=6)
    tokens = new_tokens(4, 5)
    append(cache, tokens)
    cache.lengths = [5, 2, 3, 4]
    keep_rows(cache, [3, 1, 1])
    assert cache.capacity == 6
    assert_rows(cache, [tokens[:, :, 3, :4], tokens[:, :, 1, :2], tokens[:, :, 1, :2]])


@pytest.mark.parametrize("capacities", [(5, 9), (9, 7)])
def test_joined_rows_follow_those_of_the_cache_and_the_larger_capacity_stays(capacities):
    caches = [empty_cache(2, capacities[0]), empty_cache(1, capacities[1])]
    tokens = [new_tokens(2, 4, seed=0), new_tokens(1, 7, seed=1)]
    for cache, given_tokens in zip(caches, tokens, strict=True):
        append(cache, given_tokens)
    caches[0].lengths = [4, 3]
    join_rows(*caches)
    assert caches[0].capacity == 9
    expected = [tokens[0][:, :, 0], tokens[0][:, :, 1, :3], tokens[1][:, :, 0]]
    assert_rows(caches[0], expected)


def test_an_empty_row_joins_as_a_row_without_tokens():
    cache, tokens = empty_cache(1), new_tokens(1, 4)
    append(cache, tokens)
    join_rows(cache, empty_cache(1))
    assert_rows(cache, [tokens[:, :, 0], tokens[:, :, 0, :0]])


def test_a_copied_row_holds_what_its_source_holds_and_no_more():
    cache, tokens = empty_cache(3), new_tokens(3, 5)
    append(cache, tokens)
    cache.lengths = [5, 2, 3]
    keep_rows(cache, [1, 1, 2])
    assert_rows(cache, [tokens[:, :, 1, :2], tokens[:, :, 1, :2], tokens[:, :, 2, :3]])


def test_a_view_writes_to_the_rows_that_it_shows_and_to_no_others():
    cache, tokens = empty_cache(4, capacity=9), new_tokens(4, 5)
    append(cache, tokens)
    cache.lengths = [5, 2, 3, 4]
    view, new = view_rows(cache, 1, 3), new_tokens(2, 2, seed=1)
    append(view, new)
    expected = [
        torch.cat((tokens[:, :, row, :length], new[:, :, row - 1]), dim=2)
        for row, length in ((1, 2), (2, 3))
    ]
    assert_rows(view, expected)
    assert cache.lengths == [5, 2, 3, 4]
    cache.lengths = [5, 4, 5, 4]
    assert_rows(cache, [tokens[:, :, 0], *expected, tokens[:, :, 3, :4]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_survives_keeping_and_joining(dtype):
    cache, other = (empty_cache(2, dtype=dtype) for _ in range(2))
    append(cache, new_tokens(2, 3).to(dtype))
    keep_rows(cache, [1])
    join_rows(cache, other)
    assert {buffer.dtype for buffer in cache.keys + cache.values} == {dtype}


@pytest.mark.parametrize("kind", [KVCache, QuantizedKVCache])
@pytest.mark.parametrize("change", [lambda cache: keep_rows(cache, [1, 0]), lambda cache: None])
def test_bytes_of_a_token_are_those_of_its_keys_and_values(kind, change):
    cache = empty_cache(2, capacity=5, kind=kind, dtype=torch.bfloat16)
    change(cache)
    held = sum(buffer.nbytes for name in cache.kinds for buffer in getattr(cache, name))
    assert bytes_per_token(cache) == held / 2 / 5


ROWS = 3
STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 6)),
    st.tuples(st.just("lower"), st.lists(st.floats(0, 1), min_size=ROWS, max_size=ROWS)),
    st.tuples(st.just("keep"), st.lists(st.integers(0, ROWS - 1), min_size=ROWS, max_size=ROWS)),
    st.tuples(st.just("copy"), st.tuples(*[st.integers(0, ROWS - 1)] * 2)),
    st.tuples(st.just("join"), st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=ROWS)),
    st.tuples(st.just("reserve"), st.integers(0, 40)),
)


@given(steps=st.lists(STEPS, max_size=12), capacity=st.integers(0, 10))
@settings(deadline=None, max_examples=60)
def test_any_surgery_leaves_each_row_as_a_plain_list_would_be(steps, capacity):
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
        elif step == "keep":
            keep_rows(cache, argument)
            expected = [expected[row] for row in argument]
        elif step == "copy":
            source, target = argument
            keep_rows(cache, [source if row == target else row for row in range(ROWS)])
            expected[target] = expected[source]
        elif step == "join":
            other, tokens = empty_cache(ROWS), new_tokens(ROWS, 3, seed=100 + number)
            append(other, tokens)
            join_rows(cache, other)
            keep_rows(cache, [ROWS + row for row in argument] + list(range(ROWS - len(argument))))
            joined = [tokens[:, :, row] for row in argument]
            expected = [*joined, *expected[: ROWS - len(argument)]]
        else:
            cache.reserve(argument)
        assert_rows(cache, expected)
