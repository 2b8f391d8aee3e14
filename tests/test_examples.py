import runpy
import sys

import pytest
from commands import ROOT

from codellama import CodeLlama


def output_of(monkeypatch, capsys, name: str, *arguments: object) -> str:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


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
