"""Quantized checkpoints on disk."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from codellama import CheckpointError, CodeLlama, RequestError, load_model
from codellama.fast import quantization, quantized_checkpoint
from codellama.fast.quantization import quantizing_weight_loader
from codellama.fast.quantized_checkpoint import MODES, save_checkpoint
from codellama.weights.loading import QUANTIZED, open_checkpoint

TOKENS = torch.tensor([[1, 300, 7, 9, 40, 41]])


@pytest.fixture(scope="module", params=MODES)
def mode(request):
    return request.param


@pytest.fixture
def quantized(checkpoint, mode, tmp_path):
    model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader(mode))
    save_checkpoint(tmp_path / "quantized", model, mode)
    shutil.copy(checkpoint / "tokenizer.model", tmp_path / "quantized")
    return tmp_path / "quantized"


def rewrite(directory, change=None, **about):
    """Writes the tensors anew after a change, with other facts about them."""
    found = open_checkpoint(directory)
    tensors = load_file(directory / QUANTIZED)
    if change:
        change(tensors)
    facts = {"mode": found.mode, "block_rows": str(found.block)} | about
    save_file(tensors, directory / QUANTIZED, facts)


def load_quantized(directory):
    """The model with the layers of integers."""
    checkpoint = open_checkpoint(directory)
    weight_loader = checkpoint.weight_loader(torch.device("cpu"), checkpoint.dtype)
    return load_model(directory, "cpu", weight_loader=weight_loader)


def test_the_model_is_the_same_to_the_last_bit(checkpoint, quantized, mode):
    saved = load_quantized(quantized)
    fresh = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader(mode))
    with torch.no_grad():
        assert torch.equal(saved(TOKENS), fresh(TOKENS))
        assert torch.equal(saved(TOKENS[:, :1]), fresh(TOKENS[:, :1]))


def test_it_says_what_it_is_and_how_large(quantized, mode):
    found = open_checkpoint(quantized)
    assert (found.format, found.dtype, found.file_count) == (mode, torch.float32, 1)
    assert found.weight_bytes < 0.6 * found.config.parameter_count * found.dtype.itemsize


def test_its_parameters_read_as_what_the_integers_stand_for(checkpoint, quantized, mode):
    found = open_checkpoint(quantized)
    model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader(mode))
    name = "layers.0.feed_forward.w1"
    expected = model.get_submodule(name).dequantize()
    assert torch.equal(found.read(f"{name}.weight"), expected)
    assert torch.equal(found.read(f"{name}.weight", (slice(3, 9),)), expected[3:9])
    assert torch.equal(found.read("norm.weight"), model.norm.weight)


def test_the_models_layers_are_laid_out_once(quantized, monkeypatch):
    found = open_checkpoint(quantized)
    monkeypatch.setattr(quantized_checkpoint, "Transformer", None)
    for _ in range(2):
        assert found.read("layers.0.feed_forward.w1.weight").isfinite().all()


@pytest.mark.parametrize("block", [32, 64])
def test_nibbles_for_another_processor_are_packed_anew(checkpoint, tmp_path, monkeypatch, block):
    expected = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader("int4"))
    with monkeypatch.context() as elsewhere:
        for module in (quantization, quantized_checkpoint):
            elsewhere.setattr(module, "block_rows", lambda _: block)
        model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader("int4"))
        save_checkpoint(tmp_path / "quantized", model, "int4")
    assert open_checkpoint(tmp_path / "quantized").block == block
    with torch.no_grad():
        found = load_quantized(tmp_path / "quantized")
        assert torch.equal(found(TOKENS), expected(TOKENS))
        assert torch.equal(found(TOKENS[:, :1]), expected(TOKENS[:, :1]))


@pytest.mark.parametrize("block", [32, 64])
def test_files_of_an_older_form_list_the_rows_that_are_packed_together(checkpoint, tmp_path, block):
    """Written by hand: a byte has a value of a row and one of the row half a block further on."""
    model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader("int4"))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    own, half = quantization.block_rows(torch.device("cpu")), block // 2
    for name in [name for name in tensors if name.endswith(".packed")]:
        values = quantization.unpack_nibbles(tensors[name], own, torch.uint8).T  # (out, in)
        by_hand = [
            values[start + row, column] + 16 * values[start + half + row, column]
            for start in range(0, len(values), block)
            for column in range(values.shape[1])
            for row in range(half)
        ]
        tensors[name] = torch.stack(by_hand).view(len(values), -1)
    order = ",".join(map(str, range(block)))
    save_file(tensors, tmp_path / QUANTIZED, {"mode": "int4", "block_order": order})
    shutil.copy(checkpoint / "params.json", tmp_path)
    assert open_checkpoint(tmp_path).block == block
    with torch.no_grad():
        assert torch.equal(load_quantized(tmp_path)(TOKENS), model(TOKENS))


def test_the_file_says_by_a_number_how_many_rows_are_packed_together(quantized, mode):
    with safe_open(quantized / QUANTIZED, "pt") as file:
        rows = quantization.block_rows(torch.device("cpu"))
        assert file.metadata() == {"mode": mode, "block_rows": str(rows)}


@pytest.mark.parametrize("shift", range(0, 64, 8))
def test_integers_may_start_anywhere_in_the_file(checkpoint, tmp_path, shift):
    quantize = quantizing_weight_loader("int8")
    model = load_model(checkpoint, "cpu", torch.bfloat16, weight_loader=quantize)
    about = {"mode": "int8", "block_rows": "64", "comment": "x" * shift}
    save_file(model.state_dict(), tmp_path / QUANTIZED, about)
    shutil.copy(checkpoint / "params.json", tmp_path)
    with torch.no_grad():
        assert torch.equal(load_quantized(tmp_path)(TOKENS), model(TOKENS))


def test_it_loads_as_ordinary_layers_too(quantized, checkpoint, mode):
    plain = load_model(quantized, "cpu")
    assert type(plain.output) is torch.nn.Linear
    quantized_model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader(mode))
    with torch.no_grad():
        assert torch.allclose(plain(TOKENS), quantized_model(TOKENS), atol=1e-4)


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
def test_tensors_of_another_model_are_refused(quantized, change, message):
    rewrite(quantized, change)
    with pytest.raises(CheckpointError, match=message):
        load_model(quantized, "cpu")


@pytest.mark.parametrize(
    "about",
    [
        {"mode": "int3"},
        *({"block_rows": text} for text in ("", "x", "0", "-64", "100", "128", "0,1,2")),
    ],
)
def test_a_file_that_does_not_say_how_it_is_quantized_is_refused(quantized, about):
    rewrite(quantized, **about)
    with pytest.raises(CheckpointError, match="does not say how it is quantized"):
        load_model(quantized, "cpu")


def test_params_of_another_model_are_refused(quantized):
    params = json.loads((quantized / "params.json").read_text())
    (quantized / "params.json").write_text(json.dumps({**params, "n_layers": 1}))
    with pytest.raises(CheckpointError, match=r"unexpected: layers\.1"):
        load_model(quantized, "cpu")


def test_it_is_not_quantized_another_way(quantized, mode):
    [other] = set(MODES) - {mode}
    with pytest.raises(RequestError, match=f"is quantized to {mode} already"):
        CodeLlama.load(quantized, "cpu", quantize=other)
    CodeLlama.load(quantized, "cpu", quantize=mode)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_another_dtype_it_predicts_nearly_the_same(quantized, dtype):
    own, other = CodeLlama.load(quantized, "cpu"), CodeLlama.load(quantized, "cpu", dtype)
    for tokens in (TOKENS, TOKENS[:, :1], TOKENS.repeat(1, 10)):
        with torch.no_grad():
            both = torch.stack([llm.model(tokens).flatten() for llm in (own, other)])
        assert torch.corrcoef(both)[0, 1] > 0.999


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_plain_model_has_the_weights_that_the_integers_stand_for(quantized, dtype):
    plain = load_model(quantized, "cpu", dtype)
    integers = load_quantized(quantized)
    for name, module in plain.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert type(module) is torch.nn.Linear
            expected = integers.get_submodule(name).dequantize().to(dtype)
            assert torch.equal(module.weight, expected)
