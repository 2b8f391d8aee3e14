import signal
from pathlib import Path

import pytest
import torch
from commands import anonymous_bytes
from random_models import random_model
from safetensors.torch import load_file, save_file

from codellama import CheckpointError, CodeLlama, load_model, save_checkpoint
from codellama.weights.checkpoint import differences, new_directory, reader
from codellama.weights.huggingface_writing import write_huggingface
from codellama.weights.loading import open_checkpoint
from codellama.weights.meta import write_meta

SAVERS = [write_meta, write_huggingface]


def write(save, directory: Path, cast=lambda name, weight: weight, **changes):
    """A model, saved after a change to each weight."""
    model = random_model(**changes)
    weights = {name: cast(name, weight) for name, weight in model.state_dict().items()}
    save(directory, model.config, reader(weights))
    return weights


def test_a_directory_appears_when_all_of_it_is_written(tmp_path):
    with new_directory(tmp_path / "deep" / "new") as temporary:
        (temporary / "file").write_text("content")
        assert not (tmp_path / "deep" / "new").exists()
    assert (tmp_path / "deep" / "new" / "file").read_text() == "content"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_directory_that_was_not_finished_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_directory(tmp_path / "deep" / "new") as temporary:
        (temporary / "file").write_text("content")
        raise error
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("save", SAVERS)
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, save):
    resource = pytest.importorskip("resource")
    model = random_model()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written"):
            save(tmp_path / "new", model.config, reader(model.state_dict()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["link", "dangling", "."])
def test_a_path_is_followed_to_the_place_that_it_means(tmp_path, monkeypatch, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("absent")
    monkeypatch.chdir(tmp_path / "empty")
    place = (Path() if name == "." else tmp_path / name).resolve()
    with new_directory(Path() if name == "." else tmp_path / name) as temporary:
        (temporary / "file").write_text("content")
    assert [path.name for path in place.iterdir()] == ["file"]


def test_a_taken_name_is_refused_and_an_empty_directory_taken_over(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="exists"), new_directory(tmp_path / "file"):
        pass
    (tmp_path / "empty").mkdir()
    with new_directory(tmp_path / "empty") as temporary:
        (temporary / "file").write_text("content")
    assert (tmp_path / "empty" / "file").exists()


def test_differences_are_counted_by_kind():
    found = {"a": torch.ones(2), "b": torch.ones(3), "x": torch.ones(1)}
    problems = differences({"a": [2], "b": [2], "c": [1]}, found, " here")
    assert problems == [
        "1 missing here: c",
        "1 unexpected here: x",
        "1 mis-shaped here: b [3] instead of [2]",
    ]
    assert differences({"a": [2]}, {"a": torch.ones(2)}) == []
    assert differences({name: [2] for name in "abcde"}, {}) == ["5 missing: a, b, c and 2 more"]


@pytest.mark.parametrize("save", SAVERS)
def test_weights_of_several_dtypes_are_rounded_only_if_one_is_asked_for(tmp_path, save):
    def cast(name, weight):
        return weight.bfloat16() if name == "tok_embeddings.weight" else weight

    weights = write(save, tmp_path / "new", cast)
    says = "of bfloat16 and float32; choose one dtype for all: float32, bfloat16 or float16"
    with pytest.raises(CheckpointError, match=says):
        load_model(tmp_path / "new", "cpu")
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load_model(tmp_path / "new", "cpu", dtype)
        assert all(torch.equal(loaded.state_dict()[n], w.to(dtype)) for n, w in weights.items())


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn])
def test_dtypes_that_models_do_not_compute_in_are_converted_if_asked_for(tmp_path, save, dtype):
    weights = write(save, tmp_path / "new", lambda _, weight: weight.to(dtype))
    with pytest.raises(CheckpointError, match="has weights of float"):
        load_model(tmp_path / "new", "cpu")
    norm = load_model(tmp_path / "new", "cpu", torch.float32).norm.weight
    assert torch.equal(norm, weights["norm.weight"].float())


@pytest.mark.parametrize("save", SAVERS)
def test_numbers_that_float16_cannot_hold_are_not_made_infinite(tmp_path, save):
    write(save, tmp_path / "new", lambda name, weight: weight * 1e5 if name[0] == "n" else weight)
    with pytest.raises(CheckpointError, match=r"norm.weight has numbers beyond .* 65,504"):
        load_model(tmp_path / "new", "cpu", torch.float16)
    assert load_model(tmp_path / "new", "cpu", torch.bfloat16).norm.weight.isfinite().all()


def tied_meta(directory: Path) -> None:
    write(write_meta, directory)
    path = directory / "consolidated.00.pth"
    tensors = torch.load(path, weights_only=True)
    torch.save({**tensors, "output.weight": tensors["tok_embeddings.weight"]}, path)


def tied_huggingface(directory: Path) -> None:
    write(write_huggingface, directory)
    tensors = load_file(directory / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, directory / "model.safetensors")
    settings = (directory / "config.json").read_text()
    tied = settings.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
    (directory / "config.json").write_text(tied)


@pytest.mark.parametrize("write_tied", [tied_meta, tied_huggingface])
def test_tied_weights_are_trained_and_written_apart(tmp_path, write_tied):
    write_tied(tmp_path / "tied")
    source = open_checkpoint(tmp_path / "tied")
    write_huggingface(tmp_path / "hf", source.config, source.read)
    for directory in (tmp_path / "tied", tmp_path / "hf"):
        model = load_model(directory, "cpu")
        assert torch.equal(model.output.weight, model.tok_embeddings.weight)
        with torch.no_grad():
            model.output.weight.zero_()
        assert model.tok_embeddings.weight.any()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "save",
    [
        lambda *arguments: write_meta(*arguments, shards=4),
        lambda *arguments: write_huggingface(*arguments, file_bytes=2**24),
    ],
    ids=["meta", "huggingface"],
)
def test_writing_takes_the_memory_of_a_file_at_most(tmp_path, save):
    model = random_model(dim=512, n_layers=4, n_heads=8, n_kv_heads=4)
    write_meta(tmp_path / "source", model.config, reader(model.state_dict()))
    whole = 4 * model.config.parameter_count
    del model
    source = open_checkpoint(tmp_path / "source")
    before, peak = anonymous_bytes(), 0

    def read(name, slices=None):
        nonlocal peak
        peak = max(peak, anonymous_bytes())
        return source.read(name, slices)

    save(tmp_path / "new", source.config, read)
    assert len([*(tmp_path / "new").glob("*.pth"), *(tmp_path / "new").glob("*.safetensors")]) >= 3
    assert peak - before < 0.4 * whole + 4e6


def test_a_model_is_saved_with_its_vocabulary_and_read_back(checkpoint, tmp_path):
    llm = CodeLlama.load(checkpoint, "cpu", fast=False)
    save_checkpoint(tmp_path / "new", llm.model, llm.tokenizer)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "params.json",
        "consolidated.00.pth",
        "tokenizer.model",
    }
    again = CodeLlama.load(tmp_path / "new", "cpu")
    assert again.model.config == llm.model.config
    for name, weight in llm.model.named_parameters():
        assert torch.equal(again.model.get_parameter(name), weight)
    assert again.tokenizer.encode("def f") == llm.tokenizer.encode("def f")
    with pytest.raises(CheckpointError, match="exists; choose a new directory"):
        save_checkpoint(tmp_path / "new", llm.model)


def test_a_compiled_model_is_saved_under_plain_names(tmp_path):
    model = random_model()
    with pytest.warns(UserWarning, match="leaving out _orig_mod"):
        save_checkpoint(tmp_path / "new", torch.compile(model))
    assert torch.equal(load_model(tmp_path / "new", "cpu").output.weight, model.output.weight)


def test_a_model_with_other_layers_is_not_saved(tmp_path):
    model = random_model()
    model.output = torch.nn.Sequential(model.output)
    with pytest.raises(CheckpointError, match=r"missing: output.weight.*; merge or undo"):
        save_checkpoint(tmp_path / "new", model)
    assert not list(tmp_path.iterdir())
