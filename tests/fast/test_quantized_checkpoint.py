"""Rounded checkpoints on disk."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from codellama import CheckpointError, CodeLlama, RequestError, load_model
from codellama.fast import int4, quantized_checkpoint
from codellama.fast.quantized_checkpoint import MODES, quantizing_weight_loader, save_checkpoint
from codellama.weights.loading import QUANTIZED, open_checkpoint

TOKENS = torch.tensor([[1, 300, 7, 9, 40, 41]])


@pytest.fixture(scope="module", params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def rounded(checkpoint, mode, tmp_path):
    model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader(mode))
    save_checkpoint(tmp_path / "rounded", model, mode)
    shutil.copy(checkpoint / "tokenizer.model", tmp_path / "rounded")
    return tmp_path / "rounded"


def rewrite(directory, change=None, **about):
    """Writes the tensors anew after a change, with other facts about them."""
    found = open_checkpoint(directory)
    tensors = load_file(directory / QUANTIZED)
    if change:
        change(tensors)
    order = ",".join(map(str, range(found.block)))
    save_file(tensors, directory / QUANTIZED, {"mode": found.mode, "block_order": order, **about})


def load_rounded(directory):
    """The model with the layers of integers."""
    checkpoint = open_checkpoint(directory)
    place = checkpoint.place(torch.device("cpu"), checkpoint.dtype)
    return load_model(directory, "cpu", weight_loader=place)


def test_the_model_is_the_same_to_the_last_bit(checkpoint, rounded, mode):
    saved = load_rounded(rounded)
    fresh = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader(mode))
    with torch.no_grad():
        assert torch.equal(saved(TOKENS), fresh(TOKENS))
        assert torch.equal(saved(TOKENS[:, :1]), fresh(TOKENS[:, :1]))


def test_it_says_what_it_is_and_how_large(rounded, mode):
    found = open_checkpoint(rounded)
    assert (found.format, found.dtype, found.file_count) == (mode, torch.float32, 1)
    assert found.weight_bytes < 0.6 * found.config.parameter_count * found.dtype.itemsize


def test_its_parameters_read_as_what_the_integers_stand_for(checkpoint, rounded, mode):
    found = open_checkpoint(rounded)
    model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader(mode))
    name = "layers.0.feed_forward.w1"
    expected = model.get_submodule(name).dequantize()
    assert torch.equal(found.read(f"{name}.weight"), expected)
    assert torch.equal(found.read(f"{name}.weight", (slice(3, 9),)), expected[3:9])
    assert torch.equal(found.read("norm.weight"), model.norm.weight)


def test_the_models_layers_are_laid_out_once(rounded, monkeypatch):
    found = open_checkpoint(rounded)
    monkeypatch.setattr(quantized_checkpoint, "Transformer", None)
    for _ in range(2):
        assert found.read("layers.0.feed_forward.w1.weight").isfinite().all()


@pytest.mark.parametrize("block", [32, 64])
def test_nibbles_for_another_processor_are_packed_anew(checkpoint, tmp_path, monkeypatch, block):
    expected = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader("int4"))
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(int4, "block_rows", lambda _: block)
        model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader("int4"))
        save_checkpoint(tmp_path / "rounded", model, "int4")
    assert open_checkpoint(tmp_path / "rounded").block == block
    with torch.no_grad():
        found = load_rounded(tmp_path / "rounded")
        assert torch.equal(found(TOKENS), expected(TOKENS))
        assert torch.equal(found(TOKENS[:, :1]), expected(TOKENS[:, :1]))


def test_it_loads_as_ordinary_layers_too(rounded, checkpoint, mode):
    plain = load_model(rounded, "cpu")
    assert type(plain.output) is torch.nn.Linear
    rounded_model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader(mode))
    with torch.no_grad():
        assert torch.allclose(plain(TOKENS), rounded_model(TOKENS), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("norm.weight"), "1 missing: norm.weight"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "1 unexpected: more"),
        (
            lambda tensors: tensors.update({"norm.weight": torch.ones(3)}),
            r"norm.weight \[3\] instead of",
        ),
        (
            lambda tensors: tensors.update({"tok_embeddings.weight": torch.ones(())}),
            r"tok_embeddings.weight \[\] instead of",
        ),
        (
            lambda tensors: tensors.update({"output.values": tensors["output.values"].long()}),
            "output.values holds torch.int64",
        ),
    ],
)
def test_tensors_of_another_model_are_refused(rounded, change, message):
    rewrite(rounded, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(rounded, "cpu")


@pytest.mark.parametrize(
    "about",
    [
        {"mode": "int3"},
        *({"block_order": order} for order in ("", "x", "0", "0,0", "0,1,2")),
        *({"block_order": ",".join(map(str, range(size)))} for size in (100, 128)),
    ],
)
def test_a_file_that_does_not_say_how_it_is_rounded_is_refused(rounded, about):
    rewrite(rounded, **about)
    with pytest.raises(CheckpointError, match="does not say how it is rounded"):
        load_model(rounded, "cpu")


def test_params_of_another_model_are_refused(rounded):
    params = json.loads((rounded / "params.json").read_text())
    (rounded / "params.json").write_text(json.dumps({**params, "n_layers": 1}))
    with pytest.raises(CheckpointError, match=r"unexpected: layers\.1"):
        load_model(rounded, "cpu")


def test_it_is_not_rounded_another_way(rounded, mode):
    [other] = set(MODES) - {mode}
    with pytest.raises(RequestError, match=f"is rounded to {mode} already"):
        CodeLlama.load(rounded, "cpu", quantize=other)
    CodeLlama.load(rounded, "cpu", quantize=mode)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_another_dtype_it_predicts_nearly_the_same(rounded, dtype):
    own, other = CodeLlama.load(rounded, "cpu"), CodeLlama.load(rounded, "cpu", dtype)
    for tokens in (TOKENS, TOKENS[:, :1], TOKENS.repeat(1, 10)):
        with torch.no_grad():
            both = torch.stack([llm.model(tokens).flatten() for llm in (own, other)])
        assert torch.corrcoef(both)[0, 1] > 0.999


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_plain_model_has_the_weights_that_the_integers_stand_for(rounded, dtype):
    plain = load_model(rounded, "cpu", dtype)
    integers = load_rounded(rounded)
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert type(module) is torch.nn.Linear
            expected = integers.get_submodule(name).dequantize().to(dtype)
            assert torch.equal(module.weight, expected)
