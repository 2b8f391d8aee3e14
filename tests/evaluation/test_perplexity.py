"""How well a model predicts text, against plain loops over whole windows."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from random_models import random_model

from codellama import CodeLlama
from codellama.errors import DataError
from codellama.evaluation import perplexity as module
from codellama.evaluation.perplexity import losses_by_position, token_losses

TEXTS = ["def f(x):\n    return x + 1\n", "# é 生 🦙\n", "", "x = [1, 2, 3]\n" * 3]


@pytest.fixture(scope="module")
def model():
    return random_model()


def perplexity(model, tokenizer, texts, context=0, **options) -> SimpleNamespace:
    named = {str(number): text for number, text in enumerate(texts)}
    found = module.perplexity(CodeLlama(model, tokenizer), named, context, **options)
    return SimpleNamespace(**found, nats=found["loss"] * found["tokens"])


def loss_by_position(model, tokenizer, text, edges, sequences, **options):
    """The mean over sequences, and how many they are."""
    llm = CodeLlama(model, tokenizer)
    losses = losses_by_position(llm, text, edges, sequences, **options)
    return torch.tensor(losses).mean(0).tolist(), len(losses)


def ids_of(count: int) -> list[int]:
    return torch.randint(3, 512, (count,), generator=torch.Generator().manual_seed(0)).tolist()


@torch.no_grad()
def whole_pass(model, ids) -> torch.Tensor:
    """Negative log-probability of each id but the first, from one pass without a cache."""
    logprobs = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    return torch.tensor([-logprobs[place, id] for place, id in enumerate(ids[1:])])


def naive_nats(model, ids, context: int) -> tuple[float, list[int]]:
    """The losses of all ids but the first, and how many ids each was predicted from.

    The first window begins with the text; every other begins half a context before the first id
    that is not yet predicted.
    """
    nats, seen, window = 0.0, [], ids[:context]
    losses = whole_pass(model, window)
    nats += losses.sum().item()
    seen += range(1, len(window))
    while 1 + len(seen) < len(ids):
        start = 1 + len(seen) - context // 2
        window = ids[start : start + context]
        losses = whole_pass(model, window)[context // 2 - 1 :]
        nats += losses.sum().item()
        seen += range(context // 2, len(window))
    return nats, seen


@pytest.mark.parametrize("count", [2, 7, 8, 9, 17, 40])
@pytest.mark.parametrize("chunk", [1, 8, 512])
def test_losses_read_in_chunks_are_those_of_one_pass(model, monkeypatch, count, chunk):
    monkeypatch.setattr(module, "PREFILL_CHUNK", chunk)
    ids = ids_of(count)
    losses = token_losses(model, ids)
    assert losses.shape == (count - 1,)
    assert losses.dtype == torch.float32
    assert not losses.requires_grad
    torch.testing.assert_close(losses, whole_pass(model, ids), atol=1e-4, rtol=1e-4)


def test_a_loss_depends_on_what_comes_before_alone(model):
    ids = ids_of(20)
    changed = [*ids[:12], *reversed(ids[12:])]
    one, other = token_losses(model, ids), token_losses(model, changed)
    torch.testing.assert_close(one[:11], other[:11])
    assert not torch.isclose(one[11:], other[11:]).all()


def test_texts_that_fit_are_predicted_whole_and_each_on_its_own(model, tokenizer):
    result = perplexity(model, tokenizer, TEXTS)
    encoded = [tokenizer.encode(text, bos=True) for text in TEXTS]
    expected = sum(whole_pass(model, ids).sum().item() for ids in encoded if len(ids) > 1)
    assert result.nats == pytest.approx(expected, rel=1e-5)
    assert result.files == len(TEXTS)
    assert result.tokens == sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert result.bytes == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("context", [2, 3, 8, 15, 16, 1_000])
def test_every_token_of_a_long_text_is_predicted_once_from_half_a_context(
    model, tokenizer, context
):
    text = "".join(f"x{number} = {number * number}\n" for number in range(12))
    ids = tokenizer.encode(text, bos=True)
    nats, seen = naive_nats(model, ids, context)
    result = perplexity(model, tokenizer, [text], context)
    assert result.tokens == len(seen) == len(ids) - 1
    assert min(seen[context - 1 :], default=context) >= context // 2
    assert max(seen) < context
    assert result.nats == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("extra", [-1, 0, 1, 2])
@pytest.mark.parametrize("context", [8, 9])
def test_texts_about_as_long_as_the_windows_lose_no_token(
    model, tokenizer, monkeypatch, context, extra
):
    for windows in (0, 1, 2):
        ids = ids_of(context + windows * (context - context // 2) + extra)
        monkeypatch.setattr(tokenizer, "encode", lambda text, bos, ids=ids: ids)
        nats, seen = naive_nats(model, ids, context)
        result = perplexity(model, tokenizer, ["text"], context)
        assert result.tokens == len(seen) == len(ids) - 1
        assert result.nats == pytest.approx(nats, rel=1e-5)


def test_a_context_beyond_the_models_is_the_models(tokenizer):
    model = random_model(max_seq_len=16)
    results = [perplexity(model, tokenizer, TEXTS, context) for context in (0, 16, 10_000)]
    assert results[0] == results[1] == results[2]
    assert results[0].nats != perplexity(model, tokenizer, TEXTS, 8).nats


def test_loss_perplexity_and_bits_per_byte_are_the_same_in_other_units(model, tokenizer):
    result = perplexity(model, tokenizer, TEXTS)
    assert result.perplexity == pytest.approx(math.exp(result.loss))
    assert result.bits_per_byte == pytest.approx(result.nats / math.log(2) / result.bytes)


def test_an_even_guess_is_as_hard_as_the_vocabulary_is_large(tokenizer):
    model = random_model()
    torch.nn.init.zeros_(model.output.weight)
    result = perplexity(model, tokenizer, TEXTS)
    assert result.perplexity == pytest.approx(512)
    assert result.bits_per_byte == pytest.approx(9 * result.tokens / result.bytes)


def test_an_even_guess_is_as_bad_at_every_position(tokenizer):
    model = random_model()
    torch.nn.init.zeros_(model.output.weight)
    losses, sequences = loss_by_position(model, tokenizer, "x = 1\n" * 20, [0, 4, 8, 24], 2)
    assert losses == pytest.approx([math.log(512)] * 3)
    assert sequences == 2


def mean_losses(model, tokenizer, sequences, edges) -> torch.Tensor:
    """The mean over sequences of the mean loss in each range of positions."""
    means = []
    for ids in sequences:
        losses = whole_pass(model, [tokenizer.bos_id, *ids])
        means.append(torch.stack([losses[start:end].mean() for start, end in pairwise(edges)]))
    return torch.stack(means).mean(0)


@pytest.mark.parametrize("edges", [[0, 4, 8, 16], [4, 16], [0, 3]])
def test_losses_are_the_means_over_each_range_of_positions(model, tokenizer, edges):
    text = "".join(f"a_{number} = {number}\n" for number in range(12))
    ids, length = tokenizer.encode(text), edges[-1]
    sequences = [
        ids[start : start + length] for start in range(0, len(ids) // length * length, length)
    ]
    losses, count = loss_by_position(model, tokenizer, text, edges, 1_000)
    assert count == len(sequences) > 3
    expected = mean_losses(model, tokenizer, sequences, edges)
    torch.testing.assert_close(torch.tensor(losses), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 12])
def test_few_sequences_are_spread_over_the_text(model, tokenizer, count):
    text = "".join(f"a_{number} = {number}\n" for number in range(12))
    ids, edges = tokenizer.encode(text), [0, 2, 5]
    text = tokenizer.decode(ids[: 12 * 5 + 2])
    starts = range(0, 12 * 5, 12 // count * 5)
    losses, found = loss_by_position(model, tokenizer, text, edges, count)
    assert found == count == len(starts)
    expected = mean_losses(model, tokenizer, [ids[start : start + 5] for start in starts], edges)
    torch.testing.assert_close(torch.tensor(losses), expected, atol=1e-4, rtol=1e-4)


def test_a_text_shorter_than_the_last_edge_has_no_sequence(model, tokenizer):
    text = "x = 1\n"
    length = len(tokenizer.encode(text))
    assert loss_by_position(model, tokenizer, text, [0, length], 4)[1] == 1
    assert loss_by_position(model, tokenizer, text, [0, 1, length + 1], 4)[1] == 0


@pytest.mark.parametrize("texts", [{}, {"a": ""}])
def test_without_text_there_is_nothing_to_measure(llm, texts):
    with pytest.raises(DataError, match="no text to predict"):
        module.perplexity(llm, texts)
