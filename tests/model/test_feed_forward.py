"""SwiGLU against its formula in float64."""

import pytest
import torch
from torch import Tensor

from codellama.model.feed_forward import FeedForward


def formula(layer: FeedForward, x: Tensor) -> Tensor:
    w1, w2, w3 = (linear.weight.double() for linear in (layer.w1, layer.w2, layer.w3))
    gate = x.double() @ w1.T
    return (gate / (1 + (-gate).exp()) * (x.double() @ w3.T)) @ w2.T


@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24)])
@torch.inference_mode()
def test_each_vector_follows_the_formula(shape):
    generator = torch.Generator().manual_seed(0)
    layer = FeedForward(24, 56)
    for weight in layer.parameters():
        weight.normal_(generator=generator)
    x = torch.randn(shape, generator=generator)
    expected = formula(layer, x)
    assert expected.abs().mean() > 1
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-4, atol=1e-3)


def test_layers_have_no_bias():
    shapes = {name: tuple(weight.shape) for name, weight in FeedForward(24, 56).named_parameters()}
    assert shapes == {"w1.weight": (56, 24), "w2.weight": (24, 56), "w3.weight": (56, 24)}
