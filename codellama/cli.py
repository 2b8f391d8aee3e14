"""What the commands share: options taken as typed, errors in one sentence, progress, exit codes."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import os
import re
import sys
import types
import typing
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import fire
import torch
from fire.decorators import SetParseFns
from tqdm import tqdm

from codellama.inference.requests import RequestError
from codellama.model.config import ConfigError
from codellama.text.prompts import PromptError
from codellama.text.tokenizer import TokenizerError
from codellama.weights.downloads import CheckpointError, Progress

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

EMBEDDED_CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "tiny"
T = TypeVar("T")
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


class UsageError(ValueError):
    """Options that a command cannot follow."""


USER_ERRORS = (
    CheckpointError,
    ConfigError,
    PromptError,
    RequestError,
    TokenizerError,
    UsageError,
)


def run(command: Callable[..., None]) -> NoReturn:
    """Calls `command` with the options on the command line, and ends the process.

    `command` takes keyword arguments alone. Each is an option, which takes the next argument
    exactly as typed and converts it to the annotated type; a `tuple[str, ...]` collects
    repetitions.

    Exit codes: 0; 2 after a user's mistake, told in one sentence; 130 after Ctrl-C; 141 when
    whoever reads the output has closed it.
    """
    if int(os.environ.get("RANK", "0")) > 0:  # of the processes of one run, the first speaks
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        sys.exit(_exit_code(command, sys.argv[1:]))


def _exit_code(command: Callable[..., None], arguments: list[str]) -> int:
    try:
        options = _options(command)
        if {"--help", "-h"} & set(arguments[:1]):
            flags = ["--help"]
        else:
            values = _split(arguments, options)
            if missing := [name for name in _required(command) if name not in values]:
                raise UsageError(f"--{missing[0]} is missing; --help lists the options")
            flags = [f"--{name}={value}" for name, value in values.items()]
        converters = {name: _converter(name, kind) for name, kind in options.items()}
        fire.Fire(SetParseFns(**converters)(command), command=flags, name=command.__module__)
        sys.stdout.flush()
    except USER_ERRORS as error:
        return _fail(str(error))
    except (OSError, torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        return _system_failure(error)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def _fail(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def _system_failure(error: BaseException) -> int:
    """Turns what the system refuses into a sentence; anything else is a defect of ours."""
    if isinstance(error, BrokenPipeError):
        # Python flushes stdout once more at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, OSError) and error.filename:
        return _fail(f"{error.filename}: {error.strerror}")
    if "by peer" in str(error):
        print("error: another process of this run has ended, so this one ends", file=sys.stderr)
        return 1
    if "out of memory" in str(error) or "allocate memory" in str(error):
        return _fail(
            "not enough memory for the model and its KV cache; take a smaller model, dtype, prompt "
            "or batch"
        )
    raise error


def _options(command: Callable[..., None]) -> dict[str, Any]:
    hints = typing.get_type_hints(command)
    return {name: hints[name] for name in inspect.signature(command).parameters}


def _split(arguments: list[str], options: dict[str, Any]) -> dict[str, str]:
    """Pairs options with their values; a value may look like anything, an option too."""
    values: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not argument.startswith("--") or name not in options:
            raise UsageError(_unknown(argument, name, options))
        if not equals:
            value = "True" if options[name] is bool else next(rest, None)  # type: ignore[assignment]
            if value is None:
                raise UsageError(f"--{name} needs a value")
        if _is_repeatable(options[name]):
            value = json.dumps([*json.loads(values.get(name, "[]")), value])
        values[name] = value
    return values


def _required(command: Callable[..., None]) -> list[str]:
    parameters = inspect.signature(command).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is parameter.empty]


def _unknown(argument: str, name: str, options: dict[str, Any]) -> str:
    known = ", ".join(f"--{option}" for option in options)
    if not argument.startswith("--"):
        return f"unexpected {argument!r}; every value follows an option: {known}"
    close = difflib.get_close_matches(name, options, n=1)
    return f"unknown option --{name}; " + (
        f"did you mean --{close[0]}?" if close else f"take {known}"
    )


def _is_repeatable(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _converter(name: str, kind: Any) -> Callable[[str], Any]:
    """Turns an option's text into the annotated type, so that fire does not guess one."""
    if _is_repeatable(kind):
        return lambda text: tuple(json.loads(text))
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        kind = next(member for member in typing.get_args(kind) if member is not type(None))
    if kind is str:
        return str
    expected = {int: "a whole number", float: "a number", bool: "True or False"}[kind]

    def convert(text: str) -> Any:
        try:
            return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (ValueError, KeyError):
            raise UsageError(f"--{name} is {text!r}; expected {expected}") from None

    return convert


def checkpoint_directory(ckpt: str | None) -> Path:
    """The directory that `--ckpt` names, or the checkpoint that comes with the package."""
    if ckpt is not None:
        return Path(ckpt).expanduser()
    if not EMBEDDED_CHECKPOINT.is_dir():
        raise UsageError("no checkpoint given; name a directory with --ckpt")
    return EMBEDDED_CHECKPOINT


def torch_device(name: str | None) -> torch.device | None:
    """The device that `--device` names, if this machine has it."""
    if name is None:
        return None
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"[\n.]", str(error))[0]
        raise UsageError(f"--device {name}: {reason}; expected cpu, cuda, cuda:1, mps") from None


def launched_mesh(device: torch.device | None) -> DeviceMesh | None:
    """The processes that torchrun started, joined; None for a process that stands alone."""
    if "RANK" not in os.environ:
        return None
    from codellama.inference import parallel

    return parallel.launched_mesh(device)


def read_once(read: Callable[[], T], mesh: DeviceMesh | None) -> T:
    """What `read` returns; of several processes the first alone calls it, and tells the others."""
    if mesh is None:
        return read()
    from codellama.inference import parallel

    return parallel.from_first_rank(read, mesh)


def torch_dtype(name: str | None) -> torch.dtype | None:
    """The dtype that `--dtype` names."""
    if name is not None and name not in DTYPES:
        raise UsageError(f"--dtype is {name!r}; expected one of {', '.join(DTYPES)}")
    return None if name is None else DTYPES[name]


@contextlib.contextmanager
def progress_bar(title: str, quiet: bool = False, unit: str = "B") -> Iterator[Progress]:
    """A bar on stderr that appears when the work takes longer than half a second."""
    scale = unit == "B"
    with tqdm(
        desc=title, unit=unit, unit_scale=scale, delay=0.5, leave=False, disable=quiet
    ) as bar:

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


def human_bytes(count: int) -> str:
    """A number of bytes to three digits or so: `13.5 GB`."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
