"""What the commands share: errors in one sentence and exit codes, loading, progress, memory."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import torch
from torch.distributed.device_mesh import DeviceMesh
from tqdm import tqdm

from codellama.arguments import HELP, Command, help_text, parse
from codellama.distributed import is_launched, shutdown
from codellama.errors import CodeLlamaError, RequestError
from codellama.inference.codellama import CodeLlama
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.downloads import OUT_OF_MEMORY, Progress
from codellama.weights.loading import LoadOptions, open_checkpoint
from codellama.weights.memory import check_memory

PACKAGE = Path(__file__).parent
EMBEDDED_CHECKPOINTS = (
    PACKAGE / "checkpoints" / "tiny",  # installed from a wheel
    PACKAGE.parent / "checkpoints" / "tiny",  # in a checkout
)


@dataclass(frozen=True)
class Source:
    """The checkpoint of a command, and how it speaks.

    Args:
        ckpt: checkpoint directory; without it, the package's own small one, in float32.
        plain: run the plain model without codellama/fast: not rounded or compiled, one process.
        json: print one JSON object for each result.
        quiet: print nothing to stderr but errors.
        force: load the model even if memory seems too small.
    """

    ckpt: str | None = None
    plain: bool = False
    json: bool = False
    quiet: bool = False
    force: bool = False

    @property
    def directory(self) -> Path:
        """The directory of the checkpoint."""
        return checkpoint_directory(self.ckpt)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, of which the headers have been read."""
        return open_checkpoint(self.directory)

    def load(
        self, options: LoadOptions, mesh: DeviceMesh | None = None, tokens: int = 0
    ) -> CodeLlama:
        """The model, loaded behind a progress bar, if there is memory for it and for so many
        `tokens` in its KV cache."""
        if self.ckpt is None and options.dtype is None:
            options = replace(options, dtype="float32")
        if not self.force:
            try:
                processes = mesh.size() if mesh else 1
                check_memory(self.checkpoint, options, tokens, processes, fast=not self.plain)
            except RequestError as error:
                raise RequestError(f"{error}; --force tries all the same") from None
        with progress_bar("loading", self.quiet) as progress:
            return CodeLlama.load(
                self.directory, fast=not self.plain, progress=progress, mesh=mesh, **vars(options)
            )


CheckpointArguments = Source


def run(command: Command | Mapping[str, Command]) -> NoReturn:
    """Calls `command` with the options on the command line, as `arguments.parse` finds them, and
    ends the process. Of several commands the first word on the command line picks one.

    Exit codes: 0; 2 after a user's mistake, told in one sentence; 130 after Ctrl-C; 141 when
    whoever reads the output has closed it; 143 after SIGTERM.
    """
    if is_launched():
        sys.stdout = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # Gloo greets on stdout before PyTorch 2.13
        if os.environ["RANK"] != "0":  # the first process speaks for all
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
            sys.excepthook = lambda *error: traceback.print_exception(*error, file=sys.__stderr__)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # what models write fits no smaller alphabet
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: log(f"warning: {message}")
        if not is_launched():  # torchrun's processes end at once
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = _exit_code(command, sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is the interpreter's clean-up
    if is_launched():
        shutdown(code)
    sys.exit(code)


def _exit_code(command: Command | Mapping[str, Command], arguments: list[str]) -> int:
    try:
        if isinstance(command, Mapping):
            name, *arguments = arguments or ["nothing"]
            if name in HELP:
                print("First comes one of these; each has a --help of its own.")
                for name, one in command.items():
                    print(f"  {name:<14} {(one.__doc__ or '').splitlines()[0]}")
                return 0
            if name not in command:
                raise RequestError(f"expected one of {', '.join(command)} first, found {name}")
            command = command[name]
        if (options := parse(arguments, command)) is not None:
            if any(getattr(group, "quiet", False) for group in options.values()):
                warnings.simplefilter("ignore")
            command(**options)
        else:
            print(help_text(command))
        sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return 141
    except KeyboardInterrupt:
        log("")
        return 130
    except (CodeLlamaError, OSError, RuntimeError, MemoryError) as error:
        log(f"error: {_sentence(error)}")
        return 2
    return 0


def _sentence(error: Exception) -> str:
    """What a user did, or the system refuses; anything else is a defect of ours."""
    if isinstance(error, CodeLlamaError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            _forget_output()
        is_output = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EBADF)
        where = error.filename or ("output" if is_output else "the system")
        return f"{where}: {error.strerror}"
    if "by peer" in str(error):  # Gloo has no type of its own for it
        return "another process of this run has ended, so this one ends"
    is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if is_memory or OUT_OF_MEMORY.search(str(error)):
        return (
            "not enough memory; take a smaller model or dtype, shorter prompts or sequences, or a "
            "smaller batch"
        )
    raise error


def log(text: str, end: str = "\n") -> None:
    """Prints to stderr; results come all the same where that is closed or full."""
    with contextlib.suppress(OSError, ValueError):
        print(text, end=end, file=sys.stderr, flush=True)


def _forget_output() -> None:
    """Python flushes stdout once more at exit, which would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def checkpoint_directory(ckpt: str | None) -> Path:
    """The directory that `ckpt` names, or the checkpoint that comes with the package."""
    if ckpt is not None:
        return user_path(ckpt)
    for directory in EMBEDDED_CHECKPOINTS:
        if directory.is_dir():
            return directory
    raise RequestError("no checkpoint given; name a directory with --ckpt")


def user_path(text: str) -> Path:
    """A path as typed, with `~` for a home directory."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise RequestError(f"{text}: there is no such user; write the path out") from None


@contextlib.contextmanager
def progress_bar(title: str, quiet: bool = False, unit: str = "B") -> Iterator[Progress]:
    """A bar on stderr, if that is a terminal, for work that takes longer than half a second."""
    hide = True if quiet else None
    scale = unit == "B"
    with tqdm(desc=title, unit=unit, unit_scale=scale, delay=0.5, leave=False, disable=hide) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most memory that this process has held, on the GPU if the model is there; None where the
    system does not say. On a CPU it includes pages of mapped files, which the system can drop."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
