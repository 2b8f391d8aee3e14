"""Runs the project's commands as a user would."""

import contextlib
import importlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

from codellama import cli

ROOT = Path(__file__).parents[1]


def run(name: str, *options: object, stdin: str | bytes = "") -> subprocess.CompletedProcess[str]:
    """Output and exit code of one command, run inside this process, which saves its start."""
    module = importlib.import_module(f"codellama.{name}")
    arguments = [f"codellama.{name}", *map(str, options)]
    content = io.BytesIO(stdin.encode() if isinstance(stdin, str) else stdin)
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", arguments),
        mock.patch.object(signal, "signal"),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(content, "utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.run(getattr(module, name))
        except SystemExit as exit_:
            code = exit_.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def assert_one_sentence(done, *says: str) -> None:
    """A refused command says why in one sentence, with these words in it."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for words in says:
        assert words in done.stderr


def start(name: str, *options: object, **pipes) -> subprocess.Popen[bytes]:
    """One command in a process of its own, for signals, pipes and terminals."""
    arguments = [sys.executable, "-m", f"codellama.{name}", *map(os.fspath, map(_text, options))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, **pipes}
    return subprocess.Popen(arguments, **pipes)


def _text(option: object) -> str | bytes:
    return option if isinstance(option, bytes) else str(option)


def anonymous_bytes() -> int:
    """Memory of this process that no file backs (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "RssAnon" in line)
