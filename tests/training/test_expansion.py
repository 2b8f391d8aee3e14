"""Blocks inserted into a trained model."""

import pytest
import torch
from random_models import random_model

from codellama.training.expansion import insert_blocks


def expanded(count, seed=0, **shape):
    model = random_model(**shape)
    old = list(model.layers)
    insert_blocks(model, count, torch.Generator().manual_seed(seed))
    return model, old


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_the_model_computes_what_it_did(count):
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    model, _ = expanded(count, n_layers=3)
    assert len(model.layers) == model.config.n_layers == 3 + count
    assert torch.equal(model(tokens), random_model(n_layers=3)(tokens))


@pytest.mark.parametrize(
    ("layers", "count", "places"),
    [(6, 3, [2, 5, 8]), (4, 1, [4]), (2, 2, [1, 3]), (1, 2, [1, 2]), (3, 2, [2, 4])],
)
def test_they_are_spread_evenly_and_one_is_on_top(layers, count, places):
    model, old = expanded(count, n_layers=layers)
    assert [at for at, block in enumerate(model.layers) if block not in old] == places


def test_they_can_learn():
    model, old = expanded(2)
    model(torch.tensor([[1, 300, 7, 9]])).logsumexp(-1).sum().backward()
    for block in model.layers:
        if block not in old:
            assert block.attention.wo.weight.grad.abs().sum() > 0
            assert block.feed_forward.w2.weight.grad.abs().sum() > 0
            assert block.attention.wq.weight.std() > 0


def test_the_seed_decides():
    one, same, other = (expanded(1, seed)[0].layers[-1].attention.wq.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
