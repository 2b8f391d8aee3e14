"""The decoder: however tokens reach it, their logits are the same."""

from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model
from torch import Tensor

from codellama import KVCache, ModelConfig, Transformer

kv_head_counts = pytest.mark.parametrize(
    "n_kv_heads", [4, 2, 1], ids=["multi", "grouped", "single"]
)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model()


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(512, shape, generator=torch.Generator().manual_seed(seed))


def in_chunks(model: Transformer, tokens: Tensor, sizes: list[int]) -> Tensor:
    """The logits of all tokens, with only `sizes` of them given at a time."""
    cache = model.new_cache(len(tokens))
    return torch.cat([model(chunk, cache) for chunk in tokens.split(sizes, dim=1)], dim=1)


def prefilled(model: Transformer, prompts: list[Tensor], capacity: int = 0) -> KVCache:
    """A cache that holds prompts of any lengths, which were padded on the right for one pass."""
    cache = model.new_cache(len(prompts), capacity)
    model(torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True), cache)
    cache.lengths = [len(prompt) for prompt in prompts]
    return cache


def loss_of(model: Transformer, tokens: Tensor) -> Tensor:
    """Cross-entropy of every next token."""
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def assert_same_logits(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


def test_parameters_have_the_names_of_metas_files():
    block = [
        "attention.wq.weight",
        "attention.wk.weight",
        "attention.wv.weight",
        "attention.wo.weight",
        "feed_forward.w1.weight",
        "feed_forward.w2.weight",
        "feed_forward.w3.weight",
        "attention_norm.weight",
        "ffn_norm.weight",
    ]
    blocks = [f"layers.{layer}.{name}" for layer in range(2) for name in block]
    assert list(Transformer(ModelConfig(64, 2, 4, 512)).state_dict()) == [
        "tok_embeddings.weight",
        *blocks,
        "norm.weight",
        "output.weight",
    ]


def test_parameters_have_the_shapes_of_metas_files():
    model = Transformer(ModelConfig(64, 1, 4, 500, n_kv_heads=2, multiple_of=64))
    shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    assert shapes == {
        "tok_embeddings.weight": (500, 64),
        "layers.0.attention.wq.weight": (64, 64),
        "layers.0.attention.wk.weight": (32, 64),
        "layers.0.attention.wv.weight": (32, 64),
        "layers.0.attention.wo.weight": (64, 64),
        "layers.0.feed_forward.w1.weight": (192, 64),
        "layers.0.feed_forward.w2.weight": (64, 192),
        "layers.0.feed_forward.w3.weight": (192, 64),
        "layers.0.attention_norm.weight": (64,),
        "layers.0.ffn_norm.weight": (64,),
        "norm.weight": (64,),
        "output.weight": (500, 64),
    }


def test_model_on_the_meta_device_allocates_nothing():
    with torch.device("meta"):
        model = Transformer(ModelConfig(8192, 2, 64, 32016, n_kv_heads=8))
    assert all(weight.is_meta for weight in model.parameters())
    assert not list(model.buffers())


@kv_head_counts
def test_gradients_reach_every_parameter(n_kv_heads):
    model = random_model(n_kv_heads=n_kv_heads)
    loss_of(model, random_tokens(2, 12)).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().sum() > 0, name


@kv_head_counts
def test_gradients_tell_how_the_loss_changes(n_kv_heads):
    model = random_model(n_kv_heads=n_kv_heads)
    tokens = random_tokens(2, 12)
    loss_of(model, tokens).backward()
    gradients = [weight.grad for weight in model.parameters()]
    steps = [0.003 * gradient / gradient.norm() for gradient in gradients]
    losses = []
    with torch.no_grad():
        for sign in (1, -2):
            for weight, step in zip(model.parameters(), steps, strict=True):
                weight += sign * step
            losses.append(loss_of(model, tokens))
    predicted = 2 * sum(
        (step * gradient).sum() for step, gradient in zip(steps, gradients, strict=True)
    )
    torch.testing.assert_close(losses[0] - losses[1], predicted, rtol=0.01, atol=0)


def test_training_step_reduces_the_loss():
    model = random_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tokens = random_tokens(2, 16)
    before = loss_of(model, tokens)
    before.backward()
    optimizer.step()
    assert loss_of(model, tokens) < before


@torch.inference_mode()
def test_logits_are_those_of_the_hidden_states(model):
    tokens = random_tokens(2, 9)
    hidden = model.hidden(tokens)
    assert hidden.shape == (2, 9, 64)
    assert_same_logits(model.logits(hidden[:, -1:]), model(tokens)[:, -1:])


class Moved(KVCache):
    """A cache whose next tokens are `offset` positions further on than their number says."""

    offset = 0

    def next_positions(self, seq: int) -> Tensor:
        return super().next_positions(seq) + self.offset


def at_offsets(model: Transformer, tokens: Tensor, offsets: list[tuple[int, int]]) -> Tensor:
    """The logits of tokens of which so many at a time are moved by an offset."""
    model.cache_type = Moved
    cache, logits, start = model.new_cache(len(tokens)), [], 0
    for count, cache.offset in offsets:
        logits.append(model(tokens[:, start : start + count], cache))
        start += count
    return torch.cat(logits, dim=1)


@torch.inference_mode()
def test_only_distances_between_positions_matter():
    model, tokens = random_model(), random_tokens(2, 12)
    expected = model(tokens)
    together = at_offsets(model, tokens, [(12, 0)])
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=0)
    together = at_offsets(model, tokens, [(12, 500)])
    torch.testing.assert_close(together, expected, atol=1e-4, rtol=0)
    apart = at_offsets(model, tokens, [(6, 0), *[(1, 500)] * 6])  # singly, so that none is masked
    torch.testing.assert_close(apart[:, :6], expected[:, :6], atol=1e-5, rtol=0)
    assert not torch.isclose(apart[:, 6:], expected[:, 6:], atol=1e-2).all()


@torch.inference_mode()
def test_each_row_of_a_batch_has_the_logits_it_has_alone(model):
    tokens = random_tokens(3, 9)
    alone = torch.cat([model(row[None]) for row in tokens])
    assert alone.shape == (3, 9, 512)
    assert_same_logits(model(tokens), alone)


@kv_head_counts
@pytest.mark.parametrize("changed", [0, 1, 7, 11])
@torch.inference_mode()
def test_changed_token_changes_no_earlier_logits(changed, n_kv_heads):
    model = random_model(n_kv_heads=n_kv_heads)
    tokens = random_tokens(1, 12)
    other = tokens.clone()
    other[0, changed] = (other[0, changed] + 1) % 512
    before, after = model(tokens)[0], model(other)[0]
    assert_same_logits(after[:changed], before[:changed])
    assert ((after - before).abs().amax(-1)[changed:] > 1e-3).all()


@kv_head_counts
@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("size", [1, 2, 5, 12, 23, 24])
@torch.inference_mode()
def test_chunks_of_any_size_have_the_logits_of_one_pass(size, theta, n_kv_heads):
    model = random_model(n_kv_heads=n_kv_heads, rope_theta=theta)
    tokens = random_tokens(2, 24)
    assert_same_logits(in_chunks(model, tokens, size), model(tokens))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8), rows=st.integers(1, 3))
@settings(deadline=None, max_examples=25)
@torch.inference_mode()
def test_ragged_chunks_have_the_logits_of_one_pass(model, sizes, rows):
    tokens = random_tokens(rows, sum(sizes), seed=len(sizes))
    assert_same_logits(in_chunks(model, tokens, sizes), model(tokens))


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
)
@settings(deadline=None, max_examples=25)
@torch.inference_mode()
def test_prompts_of_different_lengths_continue_as_each_does_alone(model, lengths, sizes):
    rows = [random_tokens(length + sum(sizes), seed=row) for row, length in enumerate(lengths)]
    cache = prefilled(model, [row[:length] for row, length in zip(rows, lengths, strict=True)])
    expected = [model(row[None])[0] for row in rows]
    for end, size in zip(accumulate(sizes), sizes, strict=True):
        news = [slice(length + end - size, length + end) for length in lengths]
        logits = model(torch.stack([row[new] for row, new in zip(rows, news, strict=True)]), cache)
        alone = torch.stack([row[new] for row, new in zip(expected, news, strict=True)])
        assert_same_logits(logits, alone)
    assert cache.lengths == [len(row) for row in rows]


@pytest.mark.parametrize("lengths", [[6, 6], [6, 2], [0, 6]], ids=["uniform", "ragged", "unused"])
@pytest.mark.parametrize("seq", [1, 3])
@torch.inference_mode()
def test_what_lies_behind_a_rows_length_does_not_matter(model, seq, lengths):
    tokens, following = random_tokens(2, 6), random_tokens(2, seq, seed=1)
    logits = []
    for behind in (0.0, 1e30):
        cache = model.new_cache(2, capacity=16)
        model(tokens, cache)
        cache.lengths = list(lengths)
        for buffer in cache.keys + cache.values:
            for row, length in enumerate(lengths):
                buffer[row, :, length:] = behind
        logits.append(model(following, cache))
    assert torch.equal(*logits)


@pytest.mark.parametrize("seq", [1, 4])
@torch.inference_mode()
def test_rows_of_one_length_do_not_notice_a_row_of_another(model, seq):
    prompts = [random_tokens(length, seed=row) for row, length in enumerate([5, 5, 9])]
    following = random_tokens(3, seq, seed=9)
    uniform = model(following[:2], prefilled(model, prompts[:2]))
    ragged = model(following, prefilled(model, prompts))
    assert_same_logits(ragged[:2], uniform)


@pytest.mark.parametrize("lengths", [[4, 4], [4, 1]], ids=["uniform", "ragged"])
@torch.inference_mode()
def test_shortened_row_continues_as_if_the_rest_had_never_been(model, lengths):
    cache = model.new_cache(2)
    tokens, following = random_tokens(2, 8), random_tokens(2, 3, seed=1)
    model(tokens, cache)
    cache.lengths = list(lengths)
    logits = model(following, cache)
    for row, length in enumerate(lengths):
        alone = model(torch.cat((tokens[row, :length], following[row]))[None])[0, length:]
        assert_same_logits(logits[row], alone)


@torch.inference_mode()
def test_rows_may_leave_and_join_while_others_go_on(model):
    rows = [random_tokens(12, seed=row) for row in range(3)]
    expected = [model(row[None])[0] for row in rows]
    cache = prefilled(model, [rows[0][:7], rows[1][:4]], capacity=12)
    cache.copy_row(1, 0, 4)
    newcomer = cache.rows(1, 2)
    newcomer.lengths = [0]
    model(rows[2][None, :9], newcomer)
    cache.lengths = [4, 9]
    logits = model(torch.stack((rows[1][4:7], rows[2][9:12])), cache)
    assert_same_logits(logits, torch.stack((expected[1][4:7], expected[2][9:12])))


@torch.inference_mode()
def test_no_table_ends_the_context_at_16384_tokens():
    model = random_model(dim=16, n_layers=1, n_heads=1, n_kv_heads=1, vocab_size=512)
    tokens = random_tokens(1, 16_400)
    cache = model.new_cache(1, capacity=16_400)
    model.hidden(tokens[:, :-20], cache)
    assert_same_logits(model(tokens[:, -20:], cache), model.logits(model.hidden(tokens)[:, -20:]))


def test_cache_grows_while_gradients_are_recorded(model):
    tokens = random_tokens(1, 8)
    assert_same_logits(in_chunks(model, tokens, 2), model(tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_logits_are_float32_whatever_the_weights_are(dtype):
    model = random_model().to(dtype)
    cache = model.new_cache(2)
    assert {buffer.dtype for buffer in cache.keys + cache.values} == {dtype}
    tokens = random_tokens(2, 12)
    exact = random_model()
    exact.load_state_dict(model.state_dict())
    for read in (lambda model: model(tokens), lambda model: in_chunks(model, tokens, [7, 1, 4])):
        logits = read(model)
        assert logits.dtype == torch.float32
        assert (logits - read(exact)).abs().mean() < 2 * torch.finfo(dtype).eps


@torch.no_grad()
def test_the_process_default_dtype_does_not_round_positions(model):
    tokens, default = random_tokens(1, 300), torch.get_default_dtype()
    expected = model(tokens)
    try:
        torch.set_default_dtype(torch.bfloat16)
        found = model(tokens)
    finally:
        torch.set_default_dtype(default)
    assert_same_logits(found, expected)
