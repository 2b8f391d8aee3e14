import re
import runpy
import sys

import pytest
import torch
from commands import ROOT

from codellama import CodeLlama, load_model

EMBEDDED = ROOT / "checkpoints" / "tiny"


def outcome(monkeypatch, capsys, name: str, *arguments: object) -> tuple[int, str, str]:
    """The exit code of an example, and what it printed to stdout and stderr."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    code = 0
    try:
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    except SystemExit as exit_:
        code = exit_.code
    return code, *capsys.readouterr()


def output_of(*call: object) -> str:
    code, out, err = outcome(*call)
    assert code == 0, err
    return out


@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("completion", "def fibonacci(n):"),
        ("infilling", "▁<PRE>"),
        ("chat", "> Reverse a string."),
    ],
)
def test_an_example_runs_on_a_checkpoint(monkeypatch, capsys, checkpoint, name, shows):
    assert shows in output_of(monkeypatch, capsys, name, checkpoint)


@pytest.mark.parametrize("name", ["completion", "infilling"])
def test_an_example_runs_on_the_embedded_checkpoint(monkeypatch, capsys, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    assert output_of(monkeypatch, capsys, name)


def test_the_anatomy_of_a_block_agrees_with_the_modules(monkeypatch, capsys):
    last_line = output_of(monkeypatch, capsys, "anatomy").splitlines()[-1]
    assert float(last_line.split()[-1].rstrip(".")) < 1e-5


def test_training_in_miniature_shows_samples_and_leaves_a_checkpoint(monkeypatch, capsys, tmp_path):
    run = tmp_path / "run"
    source = ROOT / "codellama"
    options = ["--minutes", "0.001", "--data", source, "--vocab_size", "480"]
    shown = output_of(monkeypatch, capsys, "train_tiny", run, *options)
    assert shown.count("== step") >= 2
    assert CodeLlama.load(run / "model", device="cpu").complete(["x"], max_new_tokens=2)


def test_low_rank_changes_are_merged_into_a_plain_checkpoint(monkeypatch, capsys, tmp_path):
    out = tmp_path / "adapted"
    source = ROOT / "codellama" / "training"
    options = ["--data", source, "--tokens", "4096", "--learning_rate", "0.01"]
    shown = output_of(monkeypatch, capsys, "lora", out, *options)
    before, after = map(float, re.findall(r": (\d+\.\d+)", shown))
    assert after < before
    start, adapted = (load_model(path, "cpu", torch.float32) for path in (EMBEDDED, out))
    weights = start.state_dict()
    for name, weight in adapted.named_parameters():
        changed = name.split(".")[-2] in ("wq", "wv", "w2")
        assert torch.equal(weight, weights[name]) == (not changed), name
        if changed:
            singular = torch.linalg.svdvals(weight.detach() - weights[name])
            assert singular[8] < 0.1 * singular[0]  # rank 8, but for rounding to bfloat16
    assert CodeLlama.load(out, device="cpu").complete(["x"], max_new_tokens=2)


def test_a_directory_may_be_called_as_a_number_is(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    output_of(monkeypatch, capsys, "random_checkpoint", "2024")
    assert CodeLlama.load("2024", device="cpu").complete(["x"], max_new_tokens=2)


def test_the_chat_asks_for_a_checkpoint(monkeypatch, capsys):
    assert outcome(monkeypatch, capsys, "chat")[0] == "usage: python examples/chat.py DIR"


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("random_checkpoint", ("new", "--dim", 65), "dim 65"),
        ("random_checkpoint", ("new", "--vocab_size", 10**6), "vocabulary of 1000000 ids"),
        ("train_tiny", ("new", "--minuets", 9), "did you mean --minutes?"),
        ("train_tiny", ("taken",), "taken exists"),
        ("lora", ("taken",), "taken"),
        ("lora", ("new", "--data", "absent"), "absent is no directory"),
        ("lora", ("new", "--layers", "wx"), "no linear layer"),
    ],
)
def test_a_mistake_gets_one_sentence_before_anything_is_done(
    monkeypatch, capsys, tmp_path, name, arguments, says
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("codellama.training.run.Run.train", None)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    code, out, err = outcome(monkeypatch, capsys, name, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not (tmp_path / "new").exists()
