"""What the commands share: errors in one sentence and exit codes, devices, progress, memory."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import torch
from fire.helptext import HelpText
from fire.trace import FireTrace
from tqdm import tqdm

from codellama.arguments import HELP, UsageError, parse
from codellama.inference.generation import CodeLlama
from codellama.inference.requests import RequestError
from codellama.model.config import ConfigError
from codellama.text.prompts import PromptError
from codellama.text.tokenizer import TokenizerError
from codellama.training.documents import DataError
from codellama.weights.downloads import CheckpointError, Progress
from codellama.weights.quantize import MODES

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

PACKAGE = Path(__file__).parent
EMBEDDED_CHECKPOINTS = (
    PACKAGE / "checkpoints" / "tiny",  # installed from a wheel
    PACKAGE.parent / "checkpoints" / "tiny",  # in a checkout
)
T = TypeVar("T")
DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


USER_ERRORS = (
    CheckpointError,
    ConfigError,
    DataError,
    PromptError,
    RequestError,
    TokenizerError,
    UsageError,
)


def run(command: Callable[..., None] | Mapping[str, Callable[..., None]]) -> NoReturn:
    """Calls `command` with the options on the command line, and ends the process.

    `command` takes keyword arguments alone; they are the options (see `arguments.parse`). Of
    several commands the first word on the command line picks one.

    Exit codes: 0; 2 after a user's mistake, told in one sentence; 130 after Ctrl-C; 141 when
    whoever reads the output has closed it.
    """
    if _is_launched() and os.environ["RANK"] != "0":  # the first process speaks for all
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # what models write fits no smaller alphabet
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
        code = _exit_code(command, sys.argv[1:])
    if _is_launched():
        from codellama.inference import parallel

        parallel.leave(code)
    sys.exit(code)


def _is_launched() -> bool:
    """Whether torchrun, or a launcher that sets the same variables, started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def _exit_code(
    command: Callable[..., None] | Mapping[str, Callable[..., None]], arguments: list[str]
) -> int:
    try:
        if isinstance(command, Mapping):
            if arguments[:1] in ([flag] for flag in HELP):
                print(_overview(command))
                return 0
            command, arguments = _pick(command, arguments)
        if (options := parse(arguments, command)) is not None:
            command(**options)
        else:
            text = HelpText(command, FireTrace(command, name=f"codellama.{command.__name__}"))
            print(text.replace("-h, --", "--"))  # which fire takes for an option
        sys.stdout.flush()
    except USER_ERRORS as error:
        return _fail(str(error))
    except (OSError, torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        return _system_failure(error)
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


def _overview(commands: Mapping[str, Callable[..., None]]) -> str:
    """A line for each of several commands."""
    lines = [
        f"  {name:<12} {(command.__doc__ or '').splitlines()[0]}"
        for name, command in commands.items()
    ]
    return "\n".join(["First comes one of these; each has a --help of its own.", *lines])


def _pick(
    commands: Mapping[str, Callable[..., None]], arguments: list[str]
) -> tuple[Callable[..., None], list[str]]:
    name = arguments[0] if arguments else "nothing"
    if name not in commands:
        raise UsageError(f"expected one of {', '.join(commands)} first, found {name}")
    return commands[name], arguments[1:]


def _fail(sentence: str) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def _system_failure(error: BaseException) -> int:
    """Turns what the system refuses into a sentence; anything else is a defect of ours."""
    if isinstance(error, BrokenPipeError):
        _forget_output()
        return 141
    if isinstance(error, OSError) and error.filename:
        return _fail(f"{error.filename}: {error.strerror}")
    if isinstance(error, OSError) and error.strerror:
        _forget_output()
        return _fail(f"output: {error.strerror}")
    if "by peer" in str(error):
        print("error: another process of this run has ended, so this one ends", file=sys.stderr)
        return 1
    if "out of memory" in str(error) or "allocate memory" in str(error):
        return _fail(
            "not enough memory for the model and its KV cache; take a smaller model, dtype, prompt "
            "or batch"
        )
    raise error


def _forget_output() -> None:
    """Python flushes stdout once more at exit, which would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def checkpoint_directory(ckpt: str | None) -> Path:
    """The directory that `--ckpt` names, or the checkpoint that comes with the package."""
    if ckpt is not None:
        return Path(ckpt).expanduser()
    for directory in EMBEDDED_CHECKPOINTS:
        if directory.is_dir():
            return directory
    raise UsageError("no checkpoint given; name a directory with --ckpt")


def load(
    ckpt: str | None,
    device: str | None,
    dtype: str | None,
    quantize: str | None,
    kv_dtype: str | None,
    quiet: bool,
    mesh: DeviceMesh | None = None,
    pack: bool = False,
    compile: bool = False,
) -> CodeLlama:
    """Loads what the options of that name ask for, behind a progress bar."""
    if quantize is not None and quantize not in MODES:
        raise UsageError(f"--quantize is {quantize!r}; expected {' or '.join(MODES)}")
    with progress_bar("loading", quiet) as progress:
        return CodeLlama.load(
            checkpoint_directory(ckpt),
            torch_device(device),
            torch_dtype(dtype),
            progress,
            mesh,
            quantize,
            kv_dtype,
            pack,
            compile,
        )


def torch_device(name: str | None) -> torch.device | None:
    """The device that `--device` names, if this machine has it."""
    if name is None:
        return None
    try:
        device = torch.empty(0, device=name).device
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("no device for models")
        return device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = re.split(r"[\n.]", str(error))[0]
        raise UsageError(f"--device {name}: {reason}; expected cpu, cuda, cuda:1, mps") from None


def launched_mesh(device: torch.device | None) -> DeviceMesh | None:
    """The processes that torchrun started, joined; None for a process that stands alone."""
    if not _is_launched():
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


def human_bytes(count: int) -> str:
    """A number of bytes to three digits or so: `13.5 GB`."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
