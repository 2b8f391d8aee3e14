import importlib
import inspect
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from typing import get_type_hints

import commands
import pytest
import torch

from codellama import cli
from codellama.errors import RequestError


def call(monkeypatch, capsys, command, *arguments):
    """Exit code and error output of a command run inside this process."""
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(command)
    return exit_.value.code, capsys.readouterr().err


@dataclass(frozen=True)
class Group:
    text: str | None = None
    count: int = 3
    share: float = 0.5
    flag: bool = False
    many: tuple[str, ...] = ()


@pytest.fixture
def received():
    return {}


@pytest.fixture
def command(received):
    def command(group: Group) -> None:
        """Do something."""
        received.update(vars(group))

    return command


@pytest.mark.parametrize(
    "text",
    [
        *("123", "[1]", "{'a': 1}", "None", "True", "1e5", "0x10", "'quoted'", "(1, 2)", ""),
        *("--flag", "--count=3", "-", "--", "-x", "a=b", " spaces ", "two\nlines", "☺", "# no"),
    ],
)
@pytest.mark.parametrize("joined", [True, False])
def test_a_text_stays_exactly_as_typed(monkeypatch, capsys, command, received, text, joined):
    arguments = [f"--text={text}"] if joined else ["--text", text]
    assert call(monkeypatch, capsys, command, *arguments) == (0, "")
    assert received["text"] == text


def test_values_of_all_types_arrive(monkeypatch, capsys, command, received):
    arguments = ["--count", "7", "--share=1e-5", "--flag", "--many", "1", "--many=[2]"]
    assert call(monkeypatch, capsys, command, *arguments) == (0, "")
    values = {"text": None, "count": 7, "share": 1e-5, "flag": True, "many": ("1", "[2]")}
    assert received == values


def test_a_mistake_gets_one_sentence_and_exit_code_2(monkeypatch, capsys, command):
    code, errors = call(monkeypatch, capsys, command, "--count", "many")
    assert (code, errors) == (2, "error: --count is 'many'; expected a whole number\n")


def raising(error: BaseException):
    def command() -> None:
        """Fail."""
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (RequestError("what, expected, do"), 2, "error: what, expected, do\n"),
        (FileNotFoundError(2, "No such file", "x.py"), 2, "error: x.py: No such file\n"),
        (OSError(28, "No space left on device"), 2, "error: output: No space left on device\n"),
        (OSError(5, "Input/output error"), 2, "error: the system: Input/output error\n"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 2, "not enough memory"),
        (RuntimeError("MPS backend out of memory (MPS"), 2, "not enough memory; take"),
        (RuntimeError("not enough memory: you tried to allocate 9"), 2, "not enough memory; take"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), 2, "not enough memory"),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_failures_outside_the_program_have_exit_codes(monkeypatch, capsys, error, code, says):
    found, errors = call(monkeypatch, capsys, raising(error))
    assert found == code
    assert says in errors


def test_what_was_printed_before_a_failure_is_not_lost():
    script = "from codellama import cli; cli.run(lambda: print('so far') or open('/absent'))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "so far\n")
    assert done.stderr == "error: /absent: No such file or directory\n"


def test_a_defect_is_not_hidden(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(RuntimeError, match="a defect"):
        cli.run(raising(RuntimeError("a defect")))


def test_warnings_become_one_line(monkeypatch, capsys):
    def command() -> None:
        """Warn."""
        import warnings

        warnings.warn("be careful", stacklevel=1)

    with monkeypatch.context() as patch:
        patch.setattr("warnings.showwarning", None)
        code, errors = call(patch, capsys, command)
    assert (code, errors) == (0, "warning: be careful\n")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--count", "2", "--help"]])
def test_help_names_the_options(monkeypatch, capsys, command, arguments):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.run(command)
    output = capsys.readouterr().out
    assert exit_.value.code == 0
    assert "--text" in output
    assert "Do something" in output


COMMANDS = ["generate", "describe", "convert", "benchmark"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_every_word_about_an_option(name):
    command = getattr(importlib.import_module(f"codellama.{name}"), name)
    shown = " ".join(commands.run(name, "--help").stdout.split())
    hints = get_type_hints(command)
    groups = [kind for parameter, kind in hints.items() if parameter != "return"]
    for group in groups:
        _, section = inspect.getdoc(group).split("Args:\n")
        options = re.split(r"\n(?=\S)", section)[0]  # what follows is another section
        for option in re.split(r"\n    (?=\w[\w, ]*:)", options):
            description = " ".join(option.partition(":")[2].split())
            assert description in shown
        assert all(f"--{field.name}" in shown for field in fields(group))


@pytest.mark.parametrize("name", [*COMMANDS, "train", "evaluate"])
def test_every_option_is_explained_once(name):
    command = getattr(importlib.import_module(f"codellama.{name}"), name)
    for one in command.values() if isinstance(command, dict) else [command]:
        assert all(option.help for option in _options(one).values())
        names = [field.name for group in _groups(one).values() for field in fields(group)]
        assert len(names) == len(set(names))


@pytest.fixture
def several(command):
    return {"one": command, "other": command}


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_lists_the_commands_where_there_are_several(monkeypatch, capsys, several, flag):
    monkeypatch.setattr(sys, "argv", ["command", flag])
    with pytest.raises(SystemExit) as exit_:
        cli.run(several)
    output = capsys.readouterr().out
    assert exit_.value.code == 0
    assert all(f"{name} " in output for name in several) and output.count("Do something.") == 2


def test_peak_memory_is_at_least_what_was_held():
    held = torch.ones(30_000_000)
    assert cli.peak_memory_bytes(torch.device("cpu")) > held.numel() * 4
