"""What the commands share: options by fire, errors in one sentence, exit codes, loading, progress.

A command is a function whose parameters are dataclasses. Their fields are its options; names,
types, ranges, defaults and help come from the dataclasses, where Python callers find them too.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import json
import os
import re
import signal
import sys
import textwrap
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import fire
import torch
from torch.distributed.device_mesh import DeviceMesh
from tqdm import tqdm

from codellama.distributed import is_launched, shutdown
from codellama.errors import CodeLlamaError, RequestError, check_fields, number, types_in
from codellama.inference.codellama import CodeLlama
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.downloads import OUT_OF_MEMORY, Progress
from codellama.weights.loading import LoadOptions, open_checkpoint
from codellama.weights.memory import check_memory
from codellama.weights.variants import EMBEDDED

HELP = ("--help", "-h")
SMALL_MODEL = 20_000_000
"""Parameters below which one thread decodes faster than several."""

Command = Callable[..., None]


@dataclass(frozen=True)
class CheckpointArguments:
    """The checkpoint of a command, and what the command prints.

    Args:
        ckpt: checkpoint directory; without it, the embedded model, whose weights are stored in
            bfloat16 and run in float32.
        json: print a JSON object for each result.
        quiet: print nothing to stderr but errors.
        plain: run the plain model on one device, without codellama/fast.
        threads: threads of the CPU; without it, one for a model below 20 million parameters, and
            PyTorch's choice for others.
        force: load the model even if memory seems too small.
    """

    ckpt: str | None = None
    json: bool = False
    quiet: bool = False
    plain: bool = False
    threads: int | None = number(None, least=1)
    force: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

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
        """Loads the model behind a progress bar, if there is memory for it and for so many `tokens`
        in its KV cache. Sets the process's number of threads."""
        if self.ckpt is None and options.dtype is None:
            options = replace(options, dtype="float32")
        is_small = self.checkpoint.config.parameter_count < SMALL_MODEL
        if self.threads or (is_small and mesh is None):
            torch.set_num_threads(self.threads or 1)
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


def run(command: Command | Mapping[str, Any], first: str | None = None) -> NoReturn:
    """Calls `command` with the options on the command line, and ends the process. Of a mapping the
    first word on the command line picks one.

    Exit codes: 0; 2 after a user's mistake, told in one sentence; 130 after Ctrl-C; 141 when
    whoever reads the output has closed it; 143 after SIGTERM.

    Args:
        first: the option whose value the first word may be.
    """
    if is_launched():
        sys.stdout = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # Gloo greets on stdout before PyTorch 2.13
        if os.environ["RANK"] != "0":  # the first process speaks for all
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
            sys.excepthook = lambda *error: traceback.print_exception(*error, file=sys.__stderr__)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # what models write fits no smaller alphabet
    words = sys.argv[1:]
    if first and words and not _names_option(words[0]):
        words = [f"--{first}", *words]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: log(f"warning: {message}")
        if not is_launched():  # torchrun's processes end at once
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        code = _exit_code(command, words)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is left is the interpreter's clean-up
    if is_launched():
        shutdown(code)
    sys.exit(code)


def _exit_code(command: Command | Mapping[str, Any], words: list[str]) -> int:
    try:
        while isinstance(command, Mapping):
            name, *words = words or ["--help"]
            if name in HELP:
                print(_help_text(_fire_function(command)))
                return 0
            if name not in command:
                raise RequestError(f"expected one of {', '.join(command)} first, found {name!r}")
            command = command[name]
        if any(word in HELP for word in words):
            print(_help_text(_fire_function(command)))
        else:
            groups = parse(command, words)
            if any(getattr(group, "quiet", False) for group in groups.values()):
                warnings.simplefilter("ignore")
            command(**groups)
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


def parse(command: Command, words: Sequence[str]) -> dict[str, Any]:
    """The dataclasses that `command` takes, by parameter, filled from the command line by fire.

    Raises:
        RequestError: a word is no option; or an option is repeated, without its value or missing.
        CodeLlamaError: a dataclass refuses a value.
    """
    options = _options(command)
    _check_words(words, options)
    parsers = {name: partial(_parse_value, kinds) for name, (kinds, _, _) in options.items()}
    build = fire.decorators.SetParseFns(**parsers)(_fire_function(command))
    silence = io.StringIO()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        try:
            groups = fire.Fire(build, [*words], serialize=lambda _: None)
        except fire.core.FireExit as exit_:
            says = re.sub("[{}']", "", exit_.trace.elements[-1].ErrorAsStr())
            raise RequestError(f"{says}; --help lists the options") from None
    for group in groups.values():
        check_fields(group, where="--")
    return groups


def _fire_function(command: Any) -> Any:
    """What fire calls before it has seen every word: a function that returns the dataclasses and
    runs nothing. Of a mapping, such a function for each command."""
    if isinstance(command, Mapping):
        return {name: _fire_function(one) for name, one in command.items()}
    groups, options = _groups(command), _options(command)

    def build(**values: Any) -> dict[str, Any]:
        return {
            parameter: group(**{f.name: values[f.name] for f in fields(group) if f.name in values})
            for parameter, group in groups.items()
        }

    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, (_, default, _) in options.items()
    ]
    helps = [f"    {name}: {help}" for name, (_, _, help) in options.items()]
    build.__name__ = command.__name__
    build.__doc__ = "\n".join([inspect.getdoc(command) or "", "", "Args:", *helps])
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return build


def _groups(command: Command) -> dict[str, Any]:
    hints = typing.get_type_hints(command)
    return {name: kind for name, kind in hints.items() if name != "return"}


def _options(command: Command) -> dict[str, tuple[set[Any], Any, str]]:
    """The types, the default and the help of each option."""
    options = {}
    for group in _groups(command).values():
        hints, doc = typing.get_type_hints(group), inspect.getdoc(group) or ""
        entries = re.findall(r"^    (\w[\w, ]*): (.*)", re.sub(r"\n {8,}", " ", doc), re.MULTILINE)
        helps = {name: help for names, help in entries for name in names.split(", ")}
        for field in fields(group):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            options[field.name] = types_in(hints[field.name]), default, helps.get(field.name, "")
    return options


def _parse_value(kinds: set[Any], text: Any) -> Any:
    """The value of these types that a text stands for; `check_fields` refuses any other text. A
    tuple is one text, or a list in JSON's or Python's form."""
    if tuple in kinds:
        parts = None
        for read in (json.loads, ast.literal_eval) if text.startswith("[") else ():
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                parts = parts or read(text)
        return tuple(_parse_value(kinds - {tuple}, part) for part in parts or [text])
    if bool in kinds:
        return {"true": True, "false": False}.get(str(text).lower(), text)
    with contextlib.suppress(ValueError, TypeError):
        return text if str in kinds else int(text) if int in kinds else float(text)
    return text


def _check_words(words: Sequence[str], options: Mapping[str, Any]) -> None:
    """Refuses what fire reads otherwise: it takes an option without its value as "True", looks up
    leftover words as attributes, and has uses of its own for `-` and `--`."""
    seen, is_value = set(), False
    for word, after in zip(words, [*words[1:], "--"], strict=False):
        if not _names_option(word):
            if not is_value or word == "-":
                raise RequestError(f"unexpected {word!r}; every value follows an option")
            is_value = False
            continue
        option, equals, _ = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        is_value = not equals and not _names_option(after)
        if not equals and not is_value and name.removeprefix("no") in options:
            name = name.removeprefix("no")
        if name not in options:
            raise RequestError(f"unknown option {option}; --help lists the options")
        if name in seen:
            raise RequestError(f'{option} is given twice; a list is one value: \'["a", "b"]\'')
        if not equals and not is_value and bool not in options[name][0]:
            raise RequestError(f"{option} needs a value; one that begins with - follows a =")
        seen.add(name)


def _names_option(word: str) -> bool:
    """Whether fire takes a word for an option, not for a value."""
    return re.match("--|-[a-zA-Z]", word) is not None


def _help_text(component: Any) -> str:
    """fire's help: without types, which defaults and texts tell; defaults behind their names, one-
    letter names left out, and lines wrapped."""
    trace = fire.trace.FireTrace(component, name=Path(sys.argv[0]).stem)
    shown = fire.helptext.HelpText(component, trace=trace)
    for pattern, new in (
        (r"\n +Type: .*", ""),
        (r"\n +Default: (None|\(\))(?=\n)", ""),
        (r"=\w+\n +Default: False", ""),
        (r"\n +Default: (.*)", r" (default \1)"),
        (r"\n( +)-\w, --", r"\n\1--"),
    ):
        shown = re.sub(pattern, new, shown)
    lines = []
    for line in shown.splitlines():
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(line, 100, subsequent_indent=indent, break_on_hyphens=False) or [""]
    return "\n".join(lines)


def _sentence(error: Exception) -> str:
    """What a user did, or the system refuses; anything else is a defect of ours."""
    if isinstance(error, CodeLlamaError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None:
            _forget_output()
        return f"{error.filename or 'output'}: {error.strerror}"
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
    """Prints to stderr; results come all the same where that is full."""
    with contextlib.suppress(OSError):
        print(text, end=end, file=sys.stderr, flush=True)


def _forget_output() -> None:
    """Python flushes stdout once more at exit, which would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def checkpoint_directory(ckpt: str | None) -> Path:
    """The directory that `ckpt` names, or the embedded checkpoint's."""
    return EMBEDDED if ckpt is None else user_path(ckpt)


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
