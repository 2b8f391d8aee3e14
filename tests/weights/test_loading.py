"""Options of loading, and the hook through which a parameter is placed."""

import json
import shutil

import pytest
import torch
from shared_data import shared
from torch import nn

from codellama import CheckpointError, LoadOptions, RequestError, load_model
from codellama.weights.loading import (
    default_weight_loader,
    load_tokenizer,
    torch_device,
    torch_dtype,
    weight_bytes,
)


@pytest.mark.parametrize("name", ["nonsense", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_a_mistake(name):
    for ask in (torch_device, LoadOptions):
        with pytest.raises(RequestError, match=f"device is '{name}': .*; expected cpu, cuda"):
            ask(name)


def test_devices_and_dtypes_by_name():
    assert torch_device(None) is None
    assert torch_device("cpu") == torch_device(torch.device("cpu")) == torch.device("cpu")
    assert torch_dtype("bf16") == torch_dtype("bfloat16") == torch.bfloat16
    assert torch_dtype(torch.float16) == torch_dtype("fp16") == torch.float16
    assert torch_dtype(torch.float64) == torch.float64  # for research
    assert torch_dtype(None) is None


@pytest.mark.parametrize("name", ["int8", "int3", "", torch.int8])
def test_a_dtype_that_models_do_not_compute_in_is_a_mistake(name):
    for ask in (torch_dtype, lambda dtype: LoadOptions(dtype=dtype)):
        with pytest.raises(RequestError, match=f"dtype is '{name}'; expected one of float32"):
            ask(name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quantize": "int3"}, "quantize is 'int3'; expected one of int8, int4"),
        ({"kv_dtype": "int4"}, "kv_dtype is 'int4'; expected one of int8"),
    ],
)
def test_other_ways_to_hold_a_model_are_refused(options, says):
    with pytest.raises(RequestError, match=says):
        LoadOptions(**options)


def test_a_place_is_asked_for_every_parameter_once_and_may_read_a_part_of_it(checkpoint):
    placed = {}

    def place(model, name, read, /):
        placed[name] = read()
        assert torch.equal(read((slice(1, 3),)), placed[name][1:3])
        default_weight_loader(model, name, lambda: placed[name])

    model = load_model(checkpoint, "cpu", torch.bfloat16, weight_loader=place)
    plain = load_model(checkpoint, "cpu", torch.bfloat16)
    assert list(placed) == [name for name, _ in plain.named_parameters()]
    for name, weight in plain.named_parameters():
        assert torch.equal(model.get_parameter(name), weight)
        assert placed[name].dtype == torch.bfloat16


def test_a_place_may_keep_something_else_than_a_parameter(checkpoint):
    def place(model, name, read, /):
        if name == "output.weight":
            model.output = nn.Linear(3, 2)
        else:
            default_weight_loader(model, name, read)

    assert load_model(checkpoint, "cpu", weight_loader=place).output.in_features == 3


def test_weight_bytes_count_parameters_buffers_and_what_modules_say(checkpoint):
    model = load_model(checkpoint, "cpu")
    assert weight_bytes(model) == 4 * model.config.parameter_count
    model.register_buffer("more", torch.zeros(3, dtype=torch.int8))
    model.norm.weight_bytes = 100
    assert weight_bytes(model) == 4 * model.config.parameter_count + 103


@pytest.mark.parametrize("rows", [511, 512 + 257, 32_000])
def test_a_tokenizer_of_another_model_is_refused(checkpoint, rows):
    with pytest.raises(CheckpointError, match=f"has 512 ids, but the model has {rows}"):
        load_tokenizer(checkpoint, rows)


def test_the_tokenizer_of_another_variant_is_no_padded_one(tmp_path):
    shutil.copy(shared("tokenizers/llama2.model"), tmp_path / "tokenizer.model")
    assert load_tokenizer(tmp_path, 32_008).vocab_size == 32_000
    with pytest.raises(CheckpointError, match="has 32000 ids, but the model has 32016"):
        load_tokenizer(tmp_path, 32_016)


FINE_TUNES = {
    "added_tokens.json": ({"added_tokens.json": {"<|im_end|>": 512, "[PAD]": 514}}, set(), {2}),
    "a decoder": (
        {
            "tokenizer_config.json": {
                "eos_token": "<|im_end|>",
                "added_tokens_decoder": {
                    "2": {"content": "</s>", "special": True},
                    "512": {"content": "<|im_end|>", "special": True},
                    "514": {"content": "[PAD]", "special": False},
                    "9999": {"content": "beyond the embedding", "special": True},
                },
            },
        },
        {512},
        {2, 512},
    ),
    "configs": (
        {
            "added_tokens.json": {"<|im_end|>": 512, "[PAD]": 514},
            "generation_config.json": {"eos_token_id": [2, 512]},
            "config.json": {"eos_token_id": 514},
        },
        set(),
        {2, 512, 514},
    ),
}


@pytest.mark.parametrize("kind", FINE_TUNES)
def test_the_tokens_of_a_fine_tune_are_taken_from_its_files(checkpoint, tmp_path, kind):
    files, special, ends = FINE_TUNES[kind]
    shutil.copy(checkpoint / "tokenizer.model", tmp_path)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path, 520)
    assert tokenizer.vocab_size == 515
    assert tokenizer.added == {512: "<|im_end|>", 514: "[PAD]"}
    assert tokenizer.control_ids >= special and tokenizer.eos_ids == ends
    assert tokenizer.decode(tokenizer.encode("a<|im_end|>")) == ("a" if special else "a<|im_end|>")
    assert set(tokenizer.files) == {"tokenizer.model", *files} - {"config.json"}


def test_the_sampling_that_a_fine_tune_recommends_is_not_followed_but_told(checkpoint, tmp_path):
    shutil.copy(checkpoint / "tokenizer.model", tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"do_sample": True, "temperature": 0.6, "top_p": 0.9}))
    with pytest.warns(UserWarning, match=r"sampling \(temperature 0\.6, top_p 0\.9\)"):
        load_tokenizer(tmp_path, 512)


@pytest.mark.parametrize(
    "content",
    ['{"added_tokens_decoder": []}', '{"added_tokens_decoder": {"x": {}}}', '{"eos_token": {}}'],
)
def test_files_of_added_tokens_that_make_no_sense_are_refused(checkpoint, tmp_path, content):
    shutil.copy(checkpoint / "tokenizer.model", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(CheckpointError, match="is not as transformers writes it"):
        load_tokenizer(tmp_path, 512)


def test_vocabularies_in_other_formats_are_recognised(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json is not read: copy tokenizer\.model"
    ):
        load_tokenizer(tmp_path, 32_000)
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\nIw== 2\n")
    with pytest.raises(CheckpointError, match="is Llama 3's vocabulary"):
        load_tokenizer(tmp_path, 128_256)


@pytest.mark.parametrize("trained", [False, True])
def test_the_file_that_a_model_was_loaded_from_can_be_written_anew(checkpoint, tmp_path, trained):
    directory = shutil.copytree(checkpoint, tmp_path / "mine")
    path = directory / "consolidated.00.pth"
    torch.save({n: w.bfloat16() for n, w in torch.load(path).items()}, path)
    model = load_model(directory, "cpu")
    other = load_model(directory, "cpu")
    if trained:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.tensor([[1, 2, 3]])).logsumexp(-1).mean().backward()
        optimizer.step()
    torch.save(model.state_dict(), path)
    again = load_model(directory, "cpu")
    for name, weight in model.named_parameters():
        assert torch.equal(again.get_parameter(name), weight)
    assert trained != torch.equal(model.norm.weight, other.norm.weight)
    path.write_bytes(b"")  # and the file of a model in use can be replaced
    assert other(torch.tensor([[1, 2, 3]])).isfinite().all()
