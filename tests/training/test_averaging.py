"""Weights between two models."""

import pytest
import torch
from random_models import random_model

from codellama.training.averaging import mix
from codellama.training.documents import DataError


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_weight_moves_by_a_share_of_the_way(share):
    model, start, end = random_model(0), random_model(0), random_model(1)
    mix(model, end, share)
    for found, one, other in zip(
        model.parameters(), start.parameters(), end.parameters(), strict=True
    ):
        assert torch.allclose(found, one + share * (other - one), atol=1e-6)


@pytest.mark.parametrize("shape", [{"n_layers": 3}, {"dim": 32}, {"vocab_size": 100}])
def test_models_of_other_shapes_are_refused(shape):
    with pytest.raises(DataError, match="expected the same shape"):
        mix(random_model(), random_model(**shape), 0.5)
