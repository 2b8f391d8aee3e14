import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from commands import run
from random_checkpoint import Shape, random_checkpoint, tokenizer_model
from shared_data import shared

from codellama import load_model
from codellama.weights.downloads import verify_checklist
from codellama.weights.loading import open_checkpoint


def convert(src: Path, dst: Path, *options: object) -> None:
    done = run("convert", "--src", src, "--dst", dst, *options)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_model(directory, device="cpu").state_dict()


def same(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("original")
    random_checkpoint(Shape(str(directory), n_heads=8, n_kv_heads=4, shards=2))
    return directory


@pytest.fixture
def source(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "source")


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_resharding_keeps_every_bit(source, tmp_path, shards):
    convert(source, tmp_path / "new", "--to", "meta", "--shards", shards)
    assert len(list((tmp_path / "new").glob("consolidated.*.pth"))) == shards
    assert same(source, tmp_path / "new")
    convert(tmp_path / "new", tmp_path / "back", "--to", "meta", "--shards", 2)
    for path in source.glob("consolidated.*.pth"):
        old, new = (torch.load(p, weights_only=True) for p in (path, tmp_path / "back" / path.name))
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_there_and_back_keeps_every_bit_and_the_params(source, tmp_path):
    convert(source, tmp_path / "hf", "--to", "hf")
    convert(tmp_path / "hf", tmp_path / "meta", "--to", "meta", "--shards", 2)
    assert same(source, tmp_path / "hf")
    assert same(source, tmp_path / "meta")
    assert json.loads((tmp_path / "meta" / "params.json").read_text()) == json.loads(
        (source / "params.json").read_text()
    )


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_rounded_checkpoint_gives_the_text_of_rounding_while_loading(source, tmp_path, mode):
    convert(source, tmp_path / "rounded", "--to", mode)
    options = ("--prompt", "def", "--temperature", 0, "--max_new_tokens", 16, "--quiet")
    there = run("generate", "--ckpt", tmp_path / "rounded", *options)
    fresh = run("generate", "--ckpt", source, "--quantize", mode, *options)
    assert there.stdout == fresh.stdout != ""
    assert (
        f"format                     {mode}"
        in run("describe", "--ckpt", tmp_path / "rounded").stdout
    )


def test_a_rounded_checkpoint_is_not_rounded_again(source, tmp_path):
    convert(source, tmp_path / "rounded", "--to", "int8")
    done = run("convert", "--src", tmp_path / "rounded", "--dst", tmp_path / "new", "--to", "int4")
    assert done.returncode == 2
    assert "is quantized to int8 already" in done.stderr
    assert not (tmp_path / "new").exists()


def test_a_rounded_checkpoint_turns_back_into_the_numbers_that_it_stands_for(source, tmp_path):
    convert(source, tmp_path / "rounded", "--to", "int8")
    convert(tmp_path / "rounded", tmp_path / "meta", "--to", "meta")
    exact, back = weights(source), weights(tmp_path / "meta")
    assert exact.keys() == back.keys()
    for name in exact:
        step = exact[name].float().abs().amax(-1, keepdim=True) / 127
        assert ((back[name].float() - exact[name].float()).abs() <= 0.6 * step).all()


def test_the_same_text_comes_from_every_format(tmp_path):
    source = shared("checkpoints/stories260K")
    convert(source, tmp_path / "hf", "--to", "hf")
    convert(tmp_path / "hf", tmp_path / "meta", "--to", "meta", "--shards", 4)
    options = ("--prompt", "", "--temperature", 0, "--max_new_tokens", 64, "--quiet")
    first, *others = (
        run("generate", "--ckpt", directory, *options).stdout
        for directory in (source, tmp_path / "hf", tmp_path / "meta")
    )
    assert first.startswith("Once upon a time")
    assert others == [first, first]


def test_metas_form_keeps_its_number_of_shards_and_gets_checksums(source, tmp_path):
    convert(source, tmp_path / "new", "--to", "meta")
    verdicts = verify_checklist(tmp_path / "new")
    files = {"consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"}
    assert verdicts == dict.fromkeys(files, "ok")
    (tmp_path / "new" / "params.json").write_text("{}")
    assert verify_checklist(tmp_path / "new")["params.json"] == "differs"


def test_a_dtype_can_be_chosen(source, tmp_path):
    convert(source, tmp_path / "new", "--to", "hf", "--dtype", "bfloat16")
    old, new = weights(source), weights(tmp_path / "new")
    assert all(torch.equal(new[name], old[name].bfloat16()) for name in old)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_dtype_can_be_chosen_for_what_is_not_rounded(source, tmp_path, mode):
    convert(source, tmp_path / "new", "--to", mode, "--dtype", "bfloat16")
    new = open_checkpoint(tmp_path / "new")
    assert new.dtype == torch.bfloat16
    embedding = weights(source)["tok_embeddings.weight"]
    assert torch.equal(new.read("tok_embeddings.weight"), embedding.bfloat16())


def test_a_tokenizer_that_does_not_fit_is_refused_and_a_missing_one_told(source, tmp_path):
    path = source / "tokenizer.model"
    path.write_bytes(tokenizer_model(600))
    options = ("--src", source, "--dst", tmp_path / "new", "--to", "hf")
    done = run("convert", *options)
    assert done.returncode == 2
    assert "has 600 ids, but the model has 512" in done.stderr
    assert not (tmp_path / "new").exists()
    path.unlink()
    assert "has no tokenizer.model to copy" in run("convert", *options).stderr


def test_a_home_directory_is_found(source, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    convert(Path("~/source"), Path("~/deep/new"), "--to", "hf")
    assert same(source, tmp_path / "deep" / "new")


@pytest.mark.parametrize(("to", "unit", "count"), [("meta", "file", 2), ("hf", "tensor", 21)])
def test_progress_counts_what_it_says(source, tmp_path, monkeypatch, to, unit, count):
    seen = {}

    @contextlib.contextmanager
    def progress_bar(title, quiet=False, unit="B"):
        yield lambda *state: seen.update({unit: state})

    monkeypatch.setattr("codellama.convert.progress_bar", progress_bar)
    convert(source, tmp_path / "new", "--to", to)
    assert seen[unit] == (count, count)


def test_an_existing_directory_is_left_alone(source, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("years of work")
    done = run("convert", "--src", source, "--dst", tmp_path / "taken", "--to", "hf")
    assert done.returncode == 2
    assert "exists; choose a new directory" in done.stderr
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--to", "gguf"], "--to is 'gguf'; expected one of meta, hf, int8, int4"),
        (["--to", "hf", "--shards", "2"], "--shards counts Meta's files"),
        (["--to", "meta", "--shards", "3"], "3 equal slices"),
        (["--to", "meta", "--shards", "0"], "0 equal slices"),
        (["--to", "hf", "--dtype", "int8"], "dtype is 'int8'; expected one of float32"),
        ([], "--to is missing"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(source, tmp_path, options, says):
    done = run("convert", "--src", source, "--dst", tmp_path / "deep" / "new", *options)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
