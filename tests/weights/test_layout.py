"""The ways to hold a model."""

import pytest
import torch
import torch.nn.functional as F

from codellama.weights import layout
from codellama.weights.layout import RowLinear


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 48), (48,), (1, 3, 48), (2, 1, 48)])
def test_one_row_gives_the_product_of_many_on_any_processor(tiles, shape, monkeypatch):
    monkeypatch.setattr(layout, "_has_tiles", lambda: tiles)
    linear = RowLinear(48, 20, bias=False)
    x = torch.randn(shape)
    assert torch.allclose(linear(x), F.linear(x, linear.weight), atol=1e-6)
