import runpy
import sys

import pytest
from commands import ROOT

from codellama import CodeLlama


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
