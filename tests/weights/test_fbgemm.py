"""Matrices in FBGEMM's order, against products in float64."""

import pytest
import torch
import torch.nn.functional as F

from codellama import CheckpointError, CodeLlama, RequestError, load_model
from codellama.weights.fbgemm import Fbgemm, FbgemmLinear, has_fbgemm
from codellama.weights.loading import weight_bytes

pytestmark = pytest.mark.skipif(
    not has_fbgemm(torch.device("cpu")), reason="this PyTorch has no FBGEMM for this processor"
)


def packed(weight):
    layer = FbgemmLinear(*reversed(weight.shape))
    layer.pack(weight)
    return layer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 2, 7, 16, 65])
@pytest.mark.parametrize("shape", [(33, 20), (192, 96), (64, 256)])
def test_any_number_of_rows_gives_the_product_with_the_weight(shape, rows, dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).to(dtype)
    x = torch.randn(rows, shape[1], generator=generator).to(dtype)
    exact = F.linear(x.double(), weight.double())
    found = packed(weight)(x)
    assert found.dtype == dtype
    error = (found.double() - exact).abs() / exact.abs().max()
    assert error.max() < torch.finfo(dtype).eps


def test_small_bfloat16_weights_move_by_less_than_their_neighbours_are_rounded_by():
    weight = torch.tensor([[1e-3, 6.2e-5, 3e-6, 2e-8, 0.0, -1e-7, 1e-30, 5e-5]]).bfloat16()
    found = packed(weight.expand(16, -1).contiguous())(torch.eye(8)).T
    moved = (found[0] - weight[0].float()).abs()
    assert (moved[:2] == 0).all()
    assert (moved <= 3e-8).all()


def test_leading_dimensions_are_kept():
    layer = packed(torch.randn(12, 8).bfloat16())
    assert layer(torch.randn(2, 3, 8).bfloat16()).shape == (2, 3, 12)


@pytest.mark.parametrize(
    ("weight", "found"),
    [(torch.ones(4, 4), "torch.float32"), (torch.full((4, 4), 1e5).bfloat16(), r"9\.98e\+04")],
)
def test_weights_that_float16_does_not_hold_are_refused(weight, found):
    with pytest.raises(CheckpointError, match=found):
        packed(weight)


def test_a_model_loads_packed_and_predicts_nearly_the_same(checkpoint):
    plain = load_model(checkpoint, "cpu", torch.bfloat16)
    other = load_model(checkpoint, "cpu", torch.bfloat16, layout=Fbgemm())
    assert not any("weight" in name for name, _ in other.layers[0].attention.named_parameters())
    assert weight_bytes(other) == weight_bytes(plain)
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        both = torch.stack([model(tokens).flatten() for model in (plain, other)])
    assert torch.corrcoef(both)[0, 1] > 0.999


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"quantize": "int8"}, "leave out pack"),
        ({"compile": True}, "leave out pack"),
        ({"device": "meta"}, "x86"),
        ({"mesh": object()}, "leave out the mesh"),
    ],
)
def test_what_cannot_be_packed_is_refused_before_anything_is_read(checkpoint, options, refusal):
    with pytest.raises(RequestError, match=refusal):
        CodeLlama.load(checkpoint, **{"device": "cpu", **options}, pack=True)


def test_float32_weights_are_refused_by_name(checkpoint):
    with pytest.raises(CheckpointError, match=r"torch\.float32.*load it unpacked"):
        CodeLlama.load(checkpoint, "cpu", torch.float32, pack=True)
