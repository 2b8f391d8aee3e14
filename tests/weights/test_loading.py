"""Options of loading, and the hook through which a parameter is placed."""

import shutil

import pytest
import torch
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
        ({"quantize": "int3"}, "quantize is 'int3'; expected int8 or int4"),
        ({"kv_dtype": "int4"}, "kv_dtype is 'int4'; expected int8"),
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


def test_a_tokenizer_of_another_size_is_refused(checkpoint):
    assert load_tokenizer(checkpoint, 512).vocab_size == 512
    with pytest.raises(CheckpointError, match="has 512 ids, but the model has 513"):
        load_tokenizer(checkpoint, 513)


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
