"""Products with matrices in the order of a processor's library, against products in float64."""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from codellama import CheckpointError, CodeLlama, load_model
from codellama.fast import prepacked
from codellama.fast.acceleration import accelerate
from codellama.fast.int8 import Int8Linear, quantize_rows
from codellama.fast.prepacked import (
    LARGEST,
    FbgemmInt8Linear,
    FbgemmLinear,
    OneDnnLinear,
    PrepackedLinear,
    can_prepack,
    join_products,
    multiplies_bfloat16,
    split_activations,
)
from codellama.fast.quantized_checkpoint import quantizing_weight_loader
from codellama.weights.loading import weight_bytes

pytestmark = pytest.mark.skipif(
    not can_prepack(torch.device("cpu")), reason="this PyTorch has no library for this processor"
)
onednn = pytest.param(
    OneDnnLinear,
    marks=pytest.mark.skipif(
        not multiplies_bfloat16(), reason="oneDNN has no bfloat16 for this processor"
    ),
)


def fbgemm_int8(weight):
    return FbgemmInt8Linear(*quantize_rows(weight))


def assert_product(multiply, weight, x):
    """That `multiply` rounds once, from products that are exact enough for it."""
    exact = F.linear(x.double(), weight.double())
    found = multiply(x)
    assert found.dtype == x.dtype
    error = (found.double() - exact).abs() / exact.abs().max()
    assert error.max() < torch.finfo(x.dtype).eps


@pytest.mark.parametrize("pack", [FbgemmLinear, onednn])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 65])
@pytest.mark.parametrize("shape", [(33, 20), (192, 96), (64, 256)])
def test_any_number_of_rows_gives_the_product_with_the_weight(shape, rows, pack):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).bfloat16()
    x = torch.randn(rows, shape[1], generator=generator).bfloat16()
    assert_product(pack(weight), weight, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_both_dtypes_of_16_bits_have_a_library(dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator).to(dtype)
    x = torch.randn(2, 3, 64, generator=generator).to(dtype)
    assert_product(PrepackedLinear.from_weight(weight), weight, x)


def test_float16_keeps_small_bfloat16_weights_nearly():
    weight = torch.tensor([[1e-3, 6.2e-5, 3e-6, 2e-8, 0.0, -1e-7, 1e-30, 5e-5]]).bfloat16()
    found = FbgemmLinear(weight.expand(16, -1).contiguous())(torch.eye(8)).T
    moved = (found[0] - weight[0].float()).abs()
    assert (moved[:2] == 0).all()
    assert (moved <= 3e-8).all()


def test_weights_that_float16_does_not_hold_are_refused():
    with pytest.raises(CheckpointError, match=r"9\.98e\+04"):
        FbgemmLinear(torch.full((4, 4), 1e5).bfloat16())


@given(
    numbers=st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=40).filter(any),
    exponent=st.integers(-20, 20),
)
def test_two_parts_round_to_the_scale_and_keep_large_bfloat16_numbers(numbers, exponent):
    x = torch.tensor([numbers]).bfloat16().float() * 2.0**exponent
    parts, scales = split_activations(x)
    assert parts.abs().max() <= LARGEST and torch.equal(parts, parts.round())
    found = join_products(parts.double(), scales.double())
    assert ((found - x).abs() <= scales * 0.51).all()
    large = x.abs() * LARGEST**2 > 128 * x.abs().max()
    assert torch.equal(found.bfloat16()[large], x.bfloat16()[large])


def test_a_row_of_zeros_has_two_parts_of_zero():
    parts, scales = split_activations(torch.zeros(2, 8))
    assert not parts.any() and (scales > 0).all()


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("shape", [(33, 20), (192, 96)])
def test_8_bits_are_those_of_the_plain_layer(shape, rows):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).bfloat16()
    x = torch.randn(rows, shape[1], generator=generator).bfloat16()
    assert_product(fbgemm_int8(weight), Int8Linear.from_weight(weight).dequantize(), x)


def test_the_largest_integers_do_not_overflow():
    weight = torch.cat([torch.ones(8, 64), -torch.ones(8, 64)])
    for x in (torch.ones(1, 64), -torch.ones(1, 64)):
        assert_product(fbgemm_int8(weight), weight, x.bfloat16())


@pytest.mark.parametrize("pack", [FbgemmLinear, fbgemm_int8, onednn])
@pytest.mark.parametrize("rows", [1, 3])
def test_torch_compile_takes_packed_products_as_they_are(pack, rows):
    multiply = pack(torch.randn(96, 64).bfloat16())
    compiled = torch.compile(multiply, fullgraph=True)
    x = torch.randn(rows, 64).bfloat16()
    if rows > 1:
        torch._dynamo.mark_dynamic(x, 0)
    with torch.no_grad():
        assert torch.allclose(compiled(x), multiply(x), rtol=0.01)


def test_a_matrix_goes_with_its_layer():
    gc.collect()
    before = len(prepacked._layers)
    layers = [FbgemmLinear(torch.ones(16, 8).bfloat16()), fbgemm_int8(torch.ones(16, 8))]
    assert len(prepacked._layers) == before + 2
    layers.clear()
    gc.collect()
    assert len(prepacked._layers) == before


def test_a_prepacked_weight_has_memory_of_its_own():
    weight = torch.randn(32, 16).bfloat16()
    layer, x = PrepackedLinear.from_weight(weight), torch.randn(4, 16).bfloat16()
    before = layer(x)
    weight.zero_()
    assert torch.equal(layer(x), before)


def assert_predicts_nearly_as(model, other):
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        both = torch.stack([one(tokens).flatten() for one in (model, other)])
    assert torch.corrcoef(both)[0, 1] > 0.999


def test_a_model_of_8_bits_loads_prepacked_and_predicts_nearly_the_same(checkpoint):
    plain = load_model(
        checkpoint, "cpu", torch.bfloat16, weight_loader=quantizing_weight_loader("int8")
    )
    other = CodeLlama.load(checkpoint, "cpu", torch.bfloat16, quantize="int8").model
    assert isinstance(other.output, FbgemmInt8Linear)
    assert weight_bytes(other) == pytest.approx(weight_bytes(plain), rel=0.02)
    assert_predicts_nearly_as(other, plain)


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


def test_a_model_in_memory_is_prepacked_too(checkpoint):
    plain = load_model(
        checkpoint, "cpu", torch.bfloat16, weight_loader=quantizing_weight_loader("int8")
    )
    other = load_model(
        checkpoint, "cpu", torch.bfloat16, weight_loader=quantizing_weight_loader("int8")
    )
    assert isinstance(accelerate(other).output, FbgemmInt8Linear)
    assert_predicts_nearly_as(other, plain)


def test_float32_weights_are_not_prepacked(checkpoint):
    model = CodeLlama.load(checkpoint, "cpu", torch.float32, compile=True).model
    assert type(model.output) is torch.nn.Linear


def test_rows_are_split_by_scales_of_their_own_and_stay_in_order():
    x = torch.tensor([[1.0, -2.0], [1000.0, 4.0], [0.0, 0.0]])
    parts, scales = split_activations(x)
    assert (parts.shape, scales.shape) == ((6, 2), (3, 1))
    assert torch.allclose(join_products(parts.double(), scales.double()).float(), x, atol=0.1)


def test_a_layer_says_what_its_prepacked_weight_takes():
    weight = torch.randn(32, 16).bfloat16()
    assert weight_bytes(PrepackedLinear.from_weight(weight)) == 2 * 32 * 16
    assert weight_bytes(fbgemm_int8(weight)) == 32 * 16


def test_float32_weights_are_refused_by_name():
    with pytest.raises(CheckpointError, match=r"torch\.float32.*load it as bfloat16"):
        PrepackedLinear.from_weight(torch.ones(4, 4))


@pytest.mark.parametrize("pack", [FbgemmLinear, fbgemm_int8, onednn])
def test_a_copy_is_a_layer_of_its_own(pack):
    layer, x = pack(torch.randn(96, 192).bfloat16()), torch.randn(2, 192).bfloat16()
    expected, copied = layer(x), copy.deepcopy(layer)
    del layer
    gc.collect()
    assert torch.equal(copied(x), expected)
    assert torch.equal(copied(x[0]), copied(x[:1])[0])
    assert copied(x[:0]).shape == (0, 96)
