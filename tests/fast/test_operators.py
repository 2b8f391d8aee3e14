"""What happens where PyTorch lacks an operator, or a gradient."""

import warnings

import pytest
import torch

from codellama import CodeLlama, CodeLlamaError
from codellama.fast import int4, int8, operators, prepacked

TOKENS = torch.tensor([[1, 5, 7, 9, 300]])


def test_an_operator_that_is_missing_is_warned_of():
    with pytest.warns(UserWarning, match=r"has no torch\.ops\.aten\.no_such_thing: .* slower"):
        assert not operators.has_operators("relu", "ops.aten.no_such_thing")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert operators.has_operators("relu", "ops.aten.mm")


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_without_private_operators_the_logits_are_the_same(checkpoint, monkeypatch, mode):
    def logits():
        with torch.no_grad():
            return CodeLlama.load(checkpoint, "cpu", quantize=mode).model(TOKENS)

    expected = logits()
    monkeypatch.setattr(prepacked, "HAS_FBGEMM", False)
    monkeypatch.setattr(int8, "HAS_KERNEL", False)
    monkeypatch.setattr(int4, "HAS_KERNEL", False)
    assert torch.allclose(logits(), expected, atol=0.02)


@pytest.mark.parametrize("length", [1, 100])
@pytest.mark.parametrize(
    "options", [{"quantize": "int8"}, {"quantize": "int4"}, {"dtype": "bfloat16", "compile": True}]
)
def test_gradients_of_rounded_and_prepacked_layers_are_refused(
    checkpoint, monkeypatch, options, length
):
    monkeypatch.setattr("codellama.fast.acceleration.check_compiler", lambda _: None)
    model = CodeLlama.load(checkpoint, "cpu", **options).model
    if not any(isinstance(one, LAYERS) for one in model.modules()):
        pytest.skip("this processor has no library for prepacked weights")
    logits = model(torch.arange(length)[None])  # as under no_grad
    with torch.no_grad():
        assert torch.equal(model(torch.arange(length)[None]), logits)
    with pytest.raises(CodeLlamaError, match="have no gradients"):
        logits.sum().backward()


LAYERS = (int8.Int8Linear, int4.Int4Linear, prepacked.PrepackedLinear)
