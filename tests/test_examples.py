import runpy
import sys

import pytest
from commands import ROOT


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


def test_the_anatomy_of_a_block_agrees_with_the_modules(monkeypatch, capsys):
    last_line = output_of(monkeypatch, capsys, "anatomy").splitlines()[-1]
    assert float(last_line.split()[-1].rstrip(".")) < 1e-5
