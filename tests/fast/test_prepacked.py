"""Products with prepacked weights, against products in float64."""

import gc

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from codellama import CheckpointError
from codellama.fast.int8 import Int8Linear, quantize_rows
from codellama.fast.prepacked import (
    LARGEST,
    PrepackedLinear,
    _objects,
    can_prepack,
    fbgemm_int8_product,
    fbgemm_product,
    join_products,
    multiplies_bfloat16,
    onednn_product,
    split_activations,
)
from codellama.weights.loading import weight_bytes

pytestmark = pytest.mark.skipif(
    not can_prepack(torch.device("cpu")), reason="this PyTorch has no library for this processor"
)
onednn = pytest.param(
    onednn_product,
    marks=pytest.mark.skipif(
        not multiplies_bfloat16(),
        reason="oneDNN has no bfloat16 for this processor",
    ),
)


def from_int8(weight):
    return PrepackedLinear.from_int8(Int8Linear.from_weight(weight))


def fbgemm_int8(weight):
    return fbgemm_int8_product(*quantize_rows(weight))


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
def test_both_dtypes_of_16_bits_have_a_library(dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(96, 64, generator=generator).to(dtype)
    x = torch.randn(2, 3, 64, generator=generator).to(dtype)
    assert_product(PrepackedLinear.from_weight(weight), weight, x)


def test_float16_keeps_small_bfloat16_weights_nearly():
    weight = torch.tensor([[1e-3, 6.2e-5, 3e-6, 2e-8, 0.0, -1e-7, 1e-30, 5e-5]]).bfloat16()
    found = fbgemm_product(weight.expand(16, -1).contiguous())(torch.eye(8)).T
    moved = (found[0] - weight[0].float()).abs()
    assert (moved[:2] == 0).all()
    assert (moved <= 3e-8).all()


def test_weights_that_float16_does_not_hold_are_refused():
    with pytest.raises(CheckpointError, match=r"9\.98e\+04"):
        fbgemm_product(torch.full((4, 4), 1e5).bfloat16())


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


def test_rows_are_split_by_scales_of_their_own_and_stay_in_order():
    x = torch.tensor([[1.0, -2.0], [1000.0, 4.0], [0.0, 0.0]])
    parts, scales = split_activations(x)
    assert (parts.shape, scales.shape) == ((6, 2), (3, 1))
    assert torch.allclose(join_products(parts.double(), scales.double()).float(), x, atol=0.1)


def test_a_row_of_zeros_has_two_parts_of_zero():
    parts, scales = split_activations(torch.zeros(2, 8))
    assert not parts.any() and (scales > 0).all()


@pytest.mark.parametrize("pack", [from_int8, fbgemm_int8])
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("shape", [(33, 20), (192, 96)])
def test_8_bits_are_those_of_the_plain_layer(shape, rows, pack):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).bfloat16()
    x = torch.randn(rows, shape[1], generator=generator).bfloat16()
    assert_product(pack(weight), Int8Linear.from_weight(weight).expanded(), x)


def test_the_largest_integers_do_not_overflow():
    weight = torch.cat([torch.ones(8, 64), -torch.ones(8, 64)])
    for x in (torch.ones(1, 64), -torch.ones(1, 64)):
        assert_product(fbgemm_int8(weight), weight, x.bfloat16())


@pytest.mark.parametrize("pack", [fbgemm_product, fbgemm_int8, onednn])
@pytest.mark.parametrize("rows", [1, 3])
def test_torch_compile_takes_prepacked_products_as_they_are(pack, rows):
    multiply = pack(torch.randn(96, 64).bfloat16())
    compiled = torch.compile(multiply, fullgraph=True)
    x = torch.randn(rows, 64).bfloat16()
    if rows > 1:
        torch._dynamo.mark_dynamic(x, 0)
    with torch.no_grad():
        assert torch.allclose(compiled(x), multiply(x), rtol=0.01)


def test_a_matrix_goes_with_its_product():
    before = len(_objects)
    products = [fbgemm_product(torch.ones(16, 8).bfloat16()), fbgemm_int8(torch.ones(16, 8))]
    assert len(_objects) == before + 2
    products.clear()
    gc.collect()
    assert len(_objects) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_prepacked_weight_has_memory_of_its_own(dtype):
    weight = torch.randn(32, 16).to(dtype)
    layer, x = PrepackedLinear.from_weight(weight), torch.randn(4, 16).to(dtype)
    before = layer(x)
    weight.zero_()
    assert torch.equal(layer(x), before)


def test_a_layer_says_what_its_prepacked_weight_takes():
    weight = torch.randn(32, 16).bfloat16()
    assert weight_bytes(PrepackedLinear.from_weight(weight)) == 2 * 32 * 16
    assert weight_bytes(from_int8(weight)) == 32 * 16


def test_float32_weights_are_refused_by_name():
    with pytest.raises(CheckpointError, match=r"torch\.float32.*load it as bfloat16"):
        PrepackedLinear.from_weight(torch.ones(4, 4))
