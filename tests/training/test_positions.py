"""Positions that skip through a context longer than a sequence."""

import random

import pytest
import torch

from codellama.training.positions import skipping

COUNT, LENGTH, CONTEXT = 2_000, 32, 256


def drawn(rate, context=CONTEXT, seed=0):
    return skipping(COUNT, LENGTH, context, rate, random.Random(seed))


def test_nothing_skips_at_a_rate_of_0():
    assert torch.equal(drawn(0.0), torch.arange(LENGTH).expand(COUNT, LENGTH))


def test_a_sequence_is_two_chunks_of_neighbours():
    steps = drawn(1.0).diff(dim=1)
    assert steps.min() == 1
    assert (steps > 1).sum(dim=1).max() == 1


def test_positions_start_at_0_and_stay_in_the_context():
    positions = drawn(1.0)
    assert positions[:, 0].unique().tolist() == [0]
    assert positions.max() == CONTEXT - 1


def test_a_share_of_the_sequences_skips():
    skips = (drawn(0.3)[:, -1] >= LENGTH).float().mean().item()
    assert skips == pytest.approx(0.3, abs=0.04)


def test_skips_of_every_size_come_up_at_every_place():
    steps = drawn(1.0).diff(dim=1)
    sizes, places = steps.max(dim=1)
    assert set(places[sizes > 1].tolist()) == set(range(LENGTH - 1))
    share = [((sizes - 1) // 45 == part).float().mean().item() for part in range(5)]
    assert share == pytest.approx([0.2] * 5, abs=0.04)


def test_a_sequence_as_long_as_the_context_cannot_skip():
    assert torch.equal(drawn(1.0, context=LENGTH), drawn(0.0))


def test_the_same_random_numbers_give_the_same_positions():
    assert torch.equal(drawn(0.5), drawn(0.5))
    assert not torch.equal(drawn(0.5), drawn(0.5, seed=1))
