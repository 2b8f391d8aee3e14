"""Linear layers of 16 bits on a CPU."""

import pytest
import torch
import torch.nn.functional as F

from codellama.fast import single_row_linear
from codellama.fast.single_row_linear import MAX_ROWS, SingleRowLinear


def layer_of(dtype):
    return SingleRowLinear(torch.nn.Linear(48, 20, bias=False, dtype=dtype).weight)


@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 48), (48,), (1, 3, 48), (2, 1, 48)])
def test_one_row_gives_the_product_of_many_on_any_processor(tiles, shape, monkeypatch):
    monkeypatch.setattr("codellama.fast.single_row_linear.has_amx", lambda: tiles)
    linear = layer_of(torch.bfloat16)
    x = torch.randn(shape).bfloat16()
    expected = F.linear(x.double(), linear.weight.double())
    with torch.no_grad():
        found = linear(x)
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("enabled", [True, False])
def test_one_row_leaves_onednn_as_it_was(enabled, monkeypatch):
    monkeypatch.setattr("codellama.fast.single_row_linear.has_amx", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    seen = []
    linear = layer_of(torch.bfloat16)
    monkeypatch.setattr(
        torch.nn.Linear, "forward", lambda *_: seen.append(torch.backends.mkldnn.enabled)
    )
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", enabled)
    with torch.no_grad():
        linear(torch.randn(1, 48).bfloat16())
        linear(torch.randn(2, 48).bfloat16())
        linear(torch.randn(1, 48))
        assert torch.backends.mkldnn.enabled == enabled
    assert seen == [False, enabled, enabled]


@pytest.fixture
def widened(monkeypatch):
    """Any processor takes the way of those that do not multiply numbers of 16 bits."""
    monkeypatch.setattr(single_row_linear, "product_dtype", lambda *_: torch.float32)
    monkeypatch.setattr(single_row_linear, "SLICE", 8)  # 20 outputs are then three slices


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(MAX_ROWS + 1, 48), (3, 9, 48), (2, 48)])
def test_widened_products_are_as_close_as_products_of_16_bits(widened, dtype, shape):
    linear = layer_of(dtype)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        y = linear(x)
        exact = F.linear(x.double(), linear.weight.double())
    assert y.dtype == dtype
    assert (y - exact).abs().max() <= torch.finfo(dtype).eps * exact.abs().max()


def test_a_layer_that_learns_is_not_widened(widened):
    linear = layer_of(torch.bfloat16)
    linear(torch.randn(20, 48).bfloat16()).sum().backward()
    assert linear.weight.grad is not None


def test_a_layer_that_learns_is_compiled_in_one_piece():
    linear = torch.compile(layer_of(torch.float32), fullgraph=True, backend="eager")
    linear(torch.randn(20, 48)).sum().backward()


def test_it_shares_the_parameter_of_the_layer_that_it_stands_for():
    linear = torch.nn.Linear(48, 20, bias=False, dtype=torch.bfloat16)
    layer = SingleRowLinear(linear.weight)
    assert layer.weight is linear.weight
    assert (layer.in_features, layer.out_features, layer.bias) == (48, 20, None)


@pytest.mark.parametrize(
    ("dtype", "suits"), [(torch.bfloat16, True), (torch.float16, True), (torch.float32, False)]
)
def test_weights_of_16_bits_on_a_cpu_suit_it(dtype, suits):
    assert SingleRowLinear.suits(torch.nn.Parameter(torch.ones(2, 2, dtype=dtype))) == suits
    elsewhere = torch.nn.Parameter(torch.ones(2, 2, dtype=dtype, device="meta"))
    assert not SingleRowLinear.suits(elsewhere)
