"""Matrices in the order of a processor's library, against products in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from codellama import CheckpointError, CodeLlama, RequestError, load_model
from codellama.weights.loading import weight_bytes
from codellama.weights.packing import (
    BASE,
    Reordered,
    ReorderedInt8Linear,
    ReorderedLinear,
    can_pack,
    fbgemm_product,
    int8_product,
    onednn_product,
    two_digits,
)
from codellama.weights.quantize import Int8Linear

pytestmark = pytest.mark.skipif(
    not can_pack(torch.device("cpu")), reason="this PyTorch has no library for this processor"
)
onednn = pytest.param(
    onednn_product,
    marks=pytest.mark.skipif(
        not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        reason="oneDNN has no bfloat16 for this processor",
    ),
)

vnni = pytest.mark.skipif(
    not can_pack(torch.device("cpu"), "int8"), reason="the processor has no products of 8 bits"
)


def packed(weight):
    layer = ReorderedLinear(*reversed(weight.shape))
    layer.pack(weight)
    return layer


def assert_product(multiply, weight, x):
    """That `multiply` rounds once, from products that are exact enough for it."""
    exact = F.linear(x.double(), weight.double())
    found = multiply(x)
    assert found.dtype == x.dtype
    error = (found.double() - exact).abs() / exact.abs().max()
    assert error.max() < torch.finfo(x.dtype).eps


@pytest.mark.parametrize("pack", [fbgemm_product, onednn])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 65])
@pytest.mark.parametrize("shape", [(33, 20), (192, 96), (64, 256)])
def test_any_number_of_rows_gives_the_product_with_the_weight(shape, rows, pack):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).bfloat16()
    x = torch.randn(rows, shape[1], generator=generator).bfloat16()
    assert_product(pack(weight), weight, x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_takes_both_dtypes_of_16_bits(dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator).to(dtype)
    x = torch.randn(2, 3, 64, generator=generator).to(dtype)
    assert_product(packed(weight), weight, x)


def test_float16_keeps_small_bfloat16_weights_nearly():
    weight = torch.tensor([[1e-3, 6.2e-5, 3e-6, 2e-8, 0.0, -1e-7, 1e-30, 5e-5]]).bfloat16()
    found = fbgemm_product(weight.expand(16, -1).contiguous())(torch.eye(8)).T
    moved = (found[0] - weight[0].float()).abs()
    assert (moved[:2] == 0).all()
    assert (moved <= 3e-8).all()


def test_a_packed_weight_is_of_memory_of_its_own():
    weight = torch.randn(32, 16).bfloat16()
    layer, x = packed(weight), torch.randn(4, 16).bfloat16()
    before = layer(x)
    weight.zero_()
    assert torch.equal(layer(x), before)


def test_weights_that_a_library_does_not_hold_are_refused():
    with pytest.raises(CheckpointError, match=r"torch\.float32"):
        packed(torch.ones(4, 4))
    with pytest.raises(CheckpointError, match=r"9\.98e\+04"):
        fbgemm_product(torch.full((4, 4), 1e5).bfloat16())


@given(
    st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=40).filter(any),
    st.integers(-20, 20),
)
def test_two_digits_round_to_the_unit_and_keep_large_bfloat16_numbers(numbers, exponent):
    x = torch.tensor([numbers]).bfloat16().float() * 2.0**exponent
    digits, units = two_digits(x)
    high, low = digits.double().chunk(2)
    assert digits.dtype == torch.int8 and digits.min() >= -127
    found = (high * BASE + low) * units
    assert ((found - x).abs() <= units * 0.51).all()
    large = x.abs() * 126 > x.abs().max()
    assert torch.equal(found.bfloat16()[large], x.bfloat16()[large])


def test_a_row_of_zeros_has_two_digits_of_zero():
    digits, units = two_digits(torch.zeros(2, 8))
    assert not digits.any() and (units > 0).all()


@vnni
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("shape", [(33, 20), (192, 96)])
def test_8_bits_are_those_of_the_plain_layer(shape, rows):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).bfloat16()
    x = torch.randn(rows, shape[1], generator=generator).bfloat16()
    plain = Int8Linear(*reversed(shape))
    plain.pack(weight)
    assert_product(int8_product(weight), plain.expanded(), x)


@vnni
def test_a_model_of_8_bits_loads_packed_and_predicts_as_unpacked(checkpoint):
    plain = CodeLlama.load(checkpoint, "cpu", torch.bfloat16, quantize="int8").model
    other = CodeLlama.load(checkpoint, "cpu", torch.bfloat16, quantize="int8", pack=True).model
    assert isinstance(other.output, ReorderedInt8Linear)
    assert weight_bytes(other) == pytest.approx(weight_bytes(plain), rel=0.02)
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        both = torch.stack([model(tokens).flatten() for model in (plain, other)])
    assert torch.corrcoef(both)[0, 1] > 0.999


def test_a_model_loads_packed_and_predicts_nearly_the_same(checkpoint):
    plain = load_model(checkpoint, "cpu", torch.bfloat16)
    other = load_model(checkpoint, "cpu", torch.bfloat16, layout=Reordered())
    assert not any("weight" in name for name, _ in other.layers[0].attention.named_parameters())
    assert weight_bytes(other) == weight_bytes(plain)
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        both = torch.stack([model(tokens).flatten() for model in (plain, other)])
    assert torch.corrcoef(both)[0, 1] > 0.999


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"quantize": "int4"}, "leave out pack"),
        ({"device": "meta"}, "x86"),
        ({"device": "meta", "quantize": "int8"}, "x86 processors with VNNI"),
        ({"mesh": object()}, "leave out the mesh"),
    ],
)
def test_what_cannot_be_packed_is_refused_before_anything_is_read(checkpoint, options, refusal):
    with pytest.raises(RequestError, match=refusal):
        CodeLlama.load(checkpoint, **{"device": "cpu", **options}, pack=True)


def test_what_torch_compile_cannot_look_into_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr("codellama.weights.packing.multiplies_bfloat16", lambda: False)
    with pytest.raises(CheckpointError, match="leave out pack or compile"):
        CodeLlama.load(checkpoint, "cpu", torch.bfloat16, pack=True, compile=True)


@vnni
@pytest.mark.parametrize("pack", [int8_product, onednn])
@pytest.mark.parametrize("rows", [1, 3])
def test_torch_compile_takes_packed_products_as_they_are(pack, rows):
    multiply = pack(torch.randn(96, 64).bfloat16())
    compiled = torch.compile(multiply, fullgraph=True)
    x = torch.randn(rows, 64).bfloat16()
    if rows > 1:
        torch._dynamo.mark_dynamic(x, 0)
    with torch.no_grad():
        assert torch.allclose(compiled(x), multiply(x), rtol=0.01)


def test_float32_weights_are_refused_by_name(checkpoint):
    with pytest.raises(CheckpointError, match=r"torch\.float32.*load it unpacked"):
        CodeLlama.load(checkpoint, "cpu", torch.float32, pack=True)
