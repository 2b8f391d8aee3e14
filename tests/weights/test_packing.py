"""Models whose matrices are in the order of a processor's library."""

import pytest
import torch
from codellama.weights.packing import Reordered, ReorderedInt8Linear, ReorderedLinear, can_pack

from codellama import CheckpointError, CodeLlama, RequestError, load_model
from codellama.weights.loading import weight_bytes

pytestmark = pytest.mark.skipif(
    not can_pack(torch.device("cpu")), reason="this PyTorch has no library for this processor"
)


def packed(weight):
    layer = ReorderedLinear(*reversed(weight.shape))
    layer.pack(weight)
    return layer


def test_a_packed_weight_is_of_memory_of_its_own():
    weight = torch.randn(32, 16).bfloat16()
    layer, x = packed(weight), torch.randn(4, 16).bfloat16()
    before = layer(x)
    weight.zero_()
    assert torch.equal(layer(x), before)


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
        ({"device": "meta", "quantize": "int8"}, "x86"),
        ({"mesh": object()}, "leave out the mesh"),
    ],
)
def test_what_cannot_be_packed_is_refused_before_anything_is_read(checkpoint, options, refusal):
    with pytest.raises(RequestError, match=refusal):
        CodeLlama.load(checkpoint, **{"device": "cpu", **options}, pack=True)


def test_float32_weights_are_refused_by_name(checkpoint):
    with pytest.raises(CheckpointError, match=r"torch\.float32.*load it unpacked"):
        CodeLlama.load(checkpoint, "cpu", torch.float32, pack=True)
