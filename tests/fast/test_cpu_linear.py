"""Linear layers of 16 bits on a CPU, against products in float64."""

import copy
import gc
import warnings

import pytest
import torch
import torch.nn.functional as F

from codellama import CheckpointError, CodeLlama, CodeLlamaError, load_model
from codellama.fast import cpu_linear
from codellama.fast.cpu_linear import (
    MAX_ROWS,
    FrozenLinear,
    PrepackedLinear,
    SingleRowLinear,
    can_prepack,
    has_operators,
    multiplies_bfloat16,
    prepack,
    prepack_for_fbgemm,
    prepack_for_onednn,
)
from codellama.fast.quantization import PackedInt8Linear, quantize_rows
from codellama.weights.loading import weight_bytes

prepacks = pytest.mark.skipif(
    not can_prepack(torch.device("cpu")), reason="this PyTorch has no library for this processor"
)
onednn = pytest.param(
    prepack_for_onednn,
    marks=pytest.mark.skipif(
        not multiplies_bfloat16(), reason="oneDNN has no bfloat16 for this processor"
    ),
)


def packed_int8(weight):
    return PackedInt8Linear(*quantize_rows(weight))


def layer_of(dtype):
    return SingleRowLinear(torch.nn.Linear(48, 20, bias=False, dtype=dtype).weight)


@pytest.mark.parametrize("amx", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 48), (48,), (1, 3, 48), (2, 1, 48)])
def test_one_row_gives_the_product_of_many_on_any_processor(amx, shape, monkeypatch):
    monkeypatch.setattr("codellama.fast.cpu_linear.has_amx", lambda: amx)
    linear = layer_of(torch.bfloat16)
    x = torch.randn(shape).bfloat16()
    expected = F.linear(x.double(), linear.weight.double())
    with torch.no_grad():
        found = linear(x)
    assert found.shape == expected.shape
    assert torch.allclose(found.double(), expected, atol=0.01, rtol=0.01)


@pytest.mark.parametrize("enabled", [True, False])
def test_one_row_leaves_onednn_as_it_was(enabled, monkeypatch):
    monkeypatch.setattr("codellama.fast.cpu_linear.has_amx", lambda: False)
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
    monkeypatch.setattr(cpu_linear, "product_dtype", lambda *_: torch.float32)
    monkeypatch.setattr(cpu_linear, "SLICE", 8)  # 20 outputs are then three slices


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


def assert_product(multiply, weight, x):
    """That `multiply` rounds once, from products that are exact enough for it."""
    exact = F.linear(x.double(), weight.double())
    found = multiply(x)
    assert found.dtype == x.dtype
    error = (found.double() - exact).abs() / exact.abs().max()
    assert error.max() < torch.finfo(x.dtype).eps


@prepacks
@pytest.mark.parametrize("pack", [prepack_for_fbgemm, onednn])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 65])
@pytest.mark.parametrize("shape", [(33, 20), (192, 96), (64, 256)])
def test_any_number_of_rows_gives_the_product_with_the_weight(shape, rows, pack):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).bfloat16()
    x = torch.randn(rows, shape[1], generator=generator).bfloat16()
    assert_product(pack(weight), weight, x)


@prepacks
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_both_dtypes_of_16_bits_have_a_library(dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator).to(dtype)
    x = torch.randn(2, 3, 64, generator=generator).to(dtype)
    assert_product(prepack(weight), weight, x)


@prepacks
def test_float16_keeps_small_bfloat16_weights_nearly():
    weight = torch.tensor([[1e-3, 6.2e-5, 3e-6, 2e-8, 0.0, -1e-7, 1e-30, 5e-5]]).bfloat16()
    found = prepack_for_fbgemm(weight.expand(16, -1).contiguous())(torch.eye(8)).T
    moved = (found[0] - weight[0].float()).abs()
    assert (moved[:2] == 0).all()
    assert (moved <= 3e-8).all()


@prepacks
def test_weights_that_float16_does_not_hold_are_refused():
    with pytest.raises(CheckpointError, match=r"9\.98e\+04"):
        prepack_for_fbgemm(torch.full((4, 4), 1e5).bfloat16())


@prepacks
@pytest.mark.parametrize("pack", [prepack_for_fbgemm, packed_int8, onednn])
@pytest.mark.parametrize("rows", [1, 3])
def test_torch_compile_takes_packed_products_as_they_are(pack, rows):
    multiply = pack(torch.randn(96, 64).bfloat16())
    compiled = torch.compile(multiply, fullgraph=True)
    x = torch.randn(rows, 64).bfloat16()
    if rows > 1:
        torch._dynamo.mark_dynamic(x, 0)
    with torch.no_grad():
        assert torch.allclose(compiled(x), multiply(x), rtol=0.01)


@prepacks
def test_a_matrix_goes_with_its_layer():
    gc.collect()
    before = len(cpu_linear._products)
    layers = [prepack_for_fbgemm(torch.ones(16, 8).bfloat16()), packed_int8(torch.ones(16, 8))]
    assert len(cpu_linear._products) == before + 2
    layers.clear()
    gc.collect()
    assert len(cpu_linear._products) == before


@prepacks
def test_a_prepacked_weight_has_memory_of_its_own():
    weight = torch.randn(32, 16).bfloat16()
    layer, x = prepack(weight), torch.randn(4, 16).bfloat16()
    before = layer(x)
    weight.zero_()
    assert torch.equal(layer(x), before)


def assert_predicts_nearly_as(model, other):
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        both = torch.stack([one(tokens).flatten() for one in (model, other)])
    assert torch.corrcoef(both)[0, 1] > 0.999


@prepacks
def test_a_model_loads_prepacked_to_be_compiled_and_predicts_nearly_the_same(
    checkpoint, monkeypatch
):
    monkeypatch.setattr("codellama.fast.acceleration.has_amx", lambda: False)
    plain = load_model(checkpoint, "cpu", torch.bfloat16)
    other = CodeLlama.load(checkpoint, "cpu", torch.bfloat16, compile=True).model
    assert isinstance(other.output, PrepackedLinear)
    assert not any("weight" in name for name, _ in other.layers[0].attention.named_parameters())
    assert weight_bytes(other) == weight_bytes(plain)
    assert_predicts_nearly_as(other, plain)


@prepacks
def test_a_layer_says_what_its_prepacked_weight_takes():
    weight = torch.randn(32, 16).bfloat16()
    assert weight_bytes(prepack(weight)) == 2 * 32 * 16
    assert weight_bytes(packed_int8(weight)) == 32 * 16


@prepacks
@pytest.mark.parametrize("pack", [prepack_for_fbgemm, packed_int8, onednn])
def test_a_copy_is_a_layer_of_its_own(pack):
    layer, x = pack(torch.randn(96, 192).bfloat16()), torch.randn(2, 192).bfloat16()
    expected, copied = layer(x), copy.deepcopy(layer)
    del layer
    gc.collect()
    assert torch.equal(copied(x), expected)
    assert torch.equal(copied(x[0]), copied(x[:1])[0])
    assert copied(x[:0]).shape == (0, 96)


def test_an_operator_that_is_missing_is_warned_of():
    with pytest.warns(UserWarning, match="has no no_such_thing: .* slower"):
        assert not has_operators(torch.ops.aten, "mm", "no_such_thing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert has_operators(torch.ops.aten, "relu", "mm")


@pytest.mark.parametrize("length", [1, 100])
@pytest.mark.parametrize(
    "options", [{"quantize": "int8"}, {"quantize": "int4"}, {"dtype": "bfloat16", "compile": True}]
)
def test_gradients_of_quantized_and_prepacked_layers_are_refused(
    checkpoint, monkeypatch, options, length
):
    monkeypatch.setattr("codellama.fast.acceleration.check_compiler", lambda _: None)
    model = CodeLlama.load(checkpoint, "cpu", **options).model
    if not any(isinstance(one, FrozenLinear) for one in model.modules()):
        pytest.skip("this processor has no library for prepacked weights")
    logits = model(torch.arange(length)[None])  # as under no_grad
    with torch.no_grad():
        assert torch.equal(model(torch.arange(length)[None]), logits)
    with pytest.raises(CodeLlamaError, match="have no gradients"):
        logits.sum().backward()
