"""Distributions small enough to be worked out by hand."""

import pytest
import torch

from codellama.inference.sampling import sample, token_probabilities

PROBABILITIES = torch.tensor([0.15, 0.5, 0.05, 0.3])
LOGITS = PROBABILITIES.log() + 3.0


def renormalized(kept):
    weights = torch.zeros(4)
    weights[kept] = PROBABILITIES[kept]
    return weights / weights.sum()


def test_without_options_the_distribution_is_the_models():
    torch.testing.assert_close(token_probabilities(LOGITS), PROBABILITIES)


@pytest.mark.parametrize(
    ("temperature", "weights"), [(0.5, PROBABILITIES**2), (2.0, PROBABILITIES**0.5)]
)
def test_temperature_is_a_power_of_the_probabilities(temperature, weights):
    found = token_probabilities(LOGITS, temperature=temperature)
    torch.testing.assert_close(found, weights / weights.sum())


def test_temperature_zero_leaves_the_most_likely_token_alone():
    assert token_probabilities(LOGITS, temperature=0).tolist() == [0, 1, 0, 0]
    generator = torch.Generator().manual_seed(0)
    assert {int(sample(LOGITS, temperature=0, generator=generator)) for _ in range(20)} == {1}


@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-46])
@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_a_tiny_temperature_does_not_overflow(temperature, scale):
    found = token_probabilities(LOGITS * scale, temperature=temperature)
    assert found.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("top_k", "kept"), [(1, [1]), (2, [1, 3]), (3, [0, 1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_top_k_keeps_that_many_of_the_most_likely(top_k, kept):
    torch.testing.assert_close(token_probabilities(LOGITS, top_k=top_k), renormalized(kept))


@pytest.mark.parametrize("top_k", [1, 2])
def test_top_k_keeps_no_more_among_equals(top_k):
    found = token_probabilities(torch.tensor([0.0, 1.0, 1.0, 1.0]), top_k=top_k)
    assert found.count_nonzero() == top_k


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1e-9, [1]),
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.79, [1, 3]),
        (0.81, [0, 1, 3]),
        (0.94, [0, 1, 3]),
        (0.96, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_the_nucleus_is_the_fewest_tokens_that_reach_top_p(top_p, kept):
    torch.testing.assert_close(token_probabilities(LOGITS, top_p=top_p), renormalized(kept))


@pytest.mark.parametrize(("top_p", "size"), [(0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4)])
def test_a_nucleus_that_reaches_top_p_exactly_takes_no_further_token(top_p, size):
    assert token_probabilities(torch.zeros(4), top_p=top_p).count_nonzero() == size


def test_the_nucleus_is_one_of_what_top_k_has_left():
    # Of two tokens the first has 0.625 of the probability; of all four it has 0.5.
    found = token_probabilities(LOGITS, top_k=2, top_p=0.6)
    assert found.tolist() == [0, 1, 0, 0]


def test_the_nucleus_is_one_of_the_distribution_at_the_temperature():
    assert token_probabilities(LOGITS, temperature=0.5, top_p=0.6).tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0}, {"temperature": 0.7, "top_k": 5, "top_p": 0.8}]
)
def test_each_row_of_a_batch_has_its_own_distribution(options):
    logits = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0)) * 2
    rows = [token_probabilities(row, **options) for row in logits.flatten(0, 1)]
    found = token_probabilities(logits, **options)
    assert found.shape == logits.shape
    torch.testing.assert_close(found.flatten(0, 1), torch.stack(rows))


def draws(count, seed, **options):
    generator = torch.Generator().manual_seed(seed)
    return [int(sample(LOGITS, generator=generator, **options)) for _ in range(count)]


def test_the_same_seed_draws_the_same_tokens():
    assert draws(50, seed=1) == draws(50, seed=1)
    assert draws(50, seed=1) != draws(50, seed=2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBABILITIES),
        ({"temperature": 2.0}, PROBABILITIES**0.5 / (PROBABILITIES**0.5).sum()),
        ({"top_k": 2}, renormalized([1, 3])),
        ({"top_p": 0.9}, renormalized([0, 1, 3])),
    ],
    ids=str,
)
def test_drawn_frequencies_are_the_probabilities(options, expected):
    count = 3000
    found = torch.bincount(torch.tensor(draws(count, seed=0, **options)), minlength=4) / count
    standard_deviations = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() <= 4 * standard_deviations).all()


@pytest.mark.parametrize("size", [2, 300])
def test_draws_are_those_of_multinomial(size):
    logits = torch.randn(size, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.Generator().manual_seed(1) for _ in range(2))
    for _ in range(50):
        expected = torch.multinomial(logits.softmax(-1), 1, generator=theirs)
        assert int(sample(logits, generator=ours)) == int(expected)
