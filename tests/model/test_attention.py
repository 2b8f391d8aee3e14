"""Attention against a loop over every query, in float64."""

from itertools import product

import pytest
import torch
from torch import Tensor

from codellama.model.attention import Attention, causal_mask, grouped_query_attention

HEADS, HEAD_DIM = 4, 8

kv_head_counts = pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["multi", "grouped", "single"])


def one_by_one(queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
    """The softmax written out; `visible` is (batch, seq, key_count)."""
    batch, heads, seq, head_dim = queries.shape
    queries, keys, values = queries.double(), keys.double(), values.double()
    attended = torch.empty_like(queries)
    for row, head, place in product(range(batch), range(heads), range(seq)):
        seen = visible[row, place]
        shared = head // (heads // keys.shape[1])
        scores = keys[row, shared, seen] @ queries[row, head, place] / head_dim**0.5
        weights = scores.exp() / scores.exp().sum()
        attended[row, head, place] = weights @ values[row, shared, seen]
    return attended


def random_inputs(seq: int, key_count: int, kv_heads: int, batch: int = 2) -> list[Tensor]:
    """Queries, keys, values."""
    generator = torch.Generator().manual_seed(seq + key_count)
    shapes = [(HEADS, seq), (kv_heads, key_count), (kv_heads, key_count)]
    return [torch.randn(batch, *shape, HEAD_DIM, generator=generator) for shape in shapes]


@kv_head_counts
@pytest.mark.parametrize("seq", [2, 7])
def test_without_a_mask_each_query_looks_back(seq, kv_heads):
    inputs = random_inputs(seq, seq, kv_heads)
    visible = torch.ones(seq, seq, dtype=torch.bool).tril().expand(2, seq, seq)
    attended = grouped_query_attention(*inputs).double()
    torch.testing.assert_close(attended, one_by_one(*inputs, visible), rtol=0, atol=1e-5)


@kv_head_counts
@pytest.mark.parametrize("key_count", [1, 9])
def test_without_a_mask_one_query_sees_every_key(key_count, kv_heads):
    inputs = random_inputs(1, key_count, kv_heads)
    visible = torch.ones(2, 1, key_count, dtype=torch.bool)
    attended = grouped_query_attention(*inputs).double()
    torch.testing.assert_close(attended, one_by_one(*inputs, visible), rtol=0, atol=1e-5)


@kv_head_counts
@pytest.mark.parametrize("seq", [1, 3])
@pytest.mark.parametrize("rows", [1, 2], ids=["one mask for all rows", "a mask a row"])
def test_mask_is_true_where_a_query_may_look(rows, seq, kv_heads):
    inputs = random_inputs(seq, 9, kv_heads)
    visible = torch.rand(rows, seq, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    visible[..., 0] = True
    attended = grouped_query_attention(*inputs, visible[:, None]).double()
    expected = one_by_one(*inputs, visible.expand(2, seq, 9))
    torch.testing.assert_close(attended, expected, rtol=0, atol=1e-5)


@kv_head_counts
@pytest.mark.parametrize("seq", [1, 3])
def test_keys_behind_the_mask_do_not_matter_however_large(seq, kv_heads):
    queries, keys, values = random_inputs(seq, 9, kv_heads)
    mask = causal_mask(torch.arange(4, 4 + seq)[None], 9)
    before = grouped_query_attention(queries, keys, values, mask)
    keys[:, :, 4 + seq :] = 1e30
    values[:, :, 4 + seq :] = -1e30
    assert torch.equal(grouped_query_attention(queries, keys, values, mask), before)


@pytest.mark.parametrize("seq", [1, 3])
def test_scores_too_large_for_a_plain_exponential_stay_finite(seq):
    queries, keys, values = random_inputs(seq, seq, HEADS)
    attended = grouped_query_attention(1e3 * queries, keys, values)
    assert attended.isfinite().all()


@kv_head_counts
@pytest.mark.parametrize("seq", [1, 8])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_scores_are_not_rounded_to_low_precision(dtype, seq, kv_heads):
    queries, keys, values = (x.to(dtype) for x in random_inputs(seq, 64, kv_heads))
    queries *= 16
    mask = causal_mask(torch.arange(64 - seq, 64)[None], 64)
    attended = grouped_query_attention(queries, keys, values, mask)
    assert attended.dtype == dtype
    expected = one_by_one(queries, keys, values, mask[:, 0].expand(2, seq, 64))
    rounding = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(attended.double(), expected, rtol=0, atol=rounding)


def test_causal_mask_lets_a_query_see_itself_and_what_came_before():
    positions = torch.tensor([[0, 1, 2], [2, 3, 4]])
    expected = [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]],
        [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    ]
    mask = causal_mask(positions, 5)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, torch.tensor(expected).bool()[:, None])


@kv_head_counts
@torch.inference_mode()
def test_layer_projects_to_heads_attends_and_projects_back(kv_heads):
    generator = torch.Generator().manual_seed(0)
    dim, seq = HEADS * HEAD_DIM, 5
    layer = Attention(dim, HEADS, kv_heads)
    for weight in layer.parameters():
        weight.normal_(std=dim**-0.5, generator=generator)
    x = torch.randn(2, seq, dim, generator=generator)
    unturned = torch.ones(1, seq, 1, HEAD_DIM // 2), torch.zeros(1, seq, 1, HEAD_DIM // 2)
    queries, keys, values = (
        (x @ linear.weight.T).view(2, seq, -1, HEAD_DIM).transpose(1, 2)
        for linear in (layer.wq, layer.wk, layer.wv)
    )
    visible = torch.ones(seq, seq, dtype=torch.bool).tril().expand(2, seq, seq)
    heads = one_by_one(queries, keys, values, visible)
    expected = torch.einsum("bhsc,dhc->bsd", heads, layer.wo.weight.view(dim, HEADS, -1).double())
    torch.testing.assert_close(layer(x, *unturned).double(), expected, rtol=0, atol=1e-5)
