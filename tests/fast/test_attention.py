"""Attention of a single query, against the attention of any number of them."""

import pytest
import torch

from codellama.fast.attention import single_query_attention
from codellama.model.attention import grouped_query_attention

HEADS, HEAD_DIM = 4, 8


def random_inputs(kv_heads, seq=1, key_count=9):
    """Queries, keys, values, and a mask that hides about half of the keys."""
    generator = torch.Generator().manual_seed(kv_heads)
    shapes = [(HEADS, seq), (kv_heads, key_count), (kv_heads, key_count)]
    tensors = [torch.randn(2, *shape, HEAD_DIM, generator=generator) for shape in shapes]
    mask = torch.rand(2, 1, seq, key_count, generator=generator) < 0.5
    mask[..., 0] = True
    return *tensors, mask


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("seq", [1, 3])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
def test_it_is_the_attention_that_it_stands_for(kv_heads, seq, masked, compiled):
    *inputs, mask = random_inputs(kv_heads, seq, key_count=9 if masked or seq == 1 else seq)
    mask = mask if masked else None
    torch._dynamo.reset()
    attend = torch.compile(single_query_attention, backend="eager", fullgraph=True)
    found = (attend if compiled else single_query_attention)(*inputs, mask)
    torch.testing.assert_close(found, grouped_query_attention(*inputs, mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize("twice", [False, True])
def test_a_row_of_bfloat16_that_is_asked_for_twice_is_the_same(monkeypatch, twice):
    monkeypatch.setattr("codellama.fast.attention.has_amx", lambda: not twice)
    *inputs, mask = random_inputs(HEADS)
    found = single_query_attention(*(tensor.bfloat16() for tensor in inputs), mask)
    expected = grouped_query_attention(*inputs, mask)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=2e-2)
