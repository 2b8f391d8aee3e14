"""What the commands share: options by fire, errors in one sentence, exit codes, loading, progress.

A command is a function whose parameters are dataclasses. Their fields are its options; names,
types, ranges, defaults and help come from the dataclasses, where Python callers find them too.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import os
import re
import signal
import sys
import textwrap
import traceback
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NoReturn

import fire
import torch
from tqdm import tqdm

from codellama.distributed import init_mesh, is_first, is_launched, shutdown
from codellama.errors import CodeLlamaError, RequestError, check_fields, number, types_in
from codellama.inference.codellama import CodeLlama
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.downloads import OUT_OF_MEMORY, Progress
from codellama.weights.loading import LoadOptions, open_checkpoint, torch_device
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

    def load(self, options: LoadOptions, tokens: int = 0) -> CodeLlama:
        """Loads the model behind a progress bar, if there is memory for it and for so many `tokens`
        in its KV cache. Sets the process's number of threads, and joins those of torchrun."""
        mesh = init_mesh(torch_device(options.device))
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
    first word picks one. Otherwise a first word may be the value of the option `first`.

    Exit codes: 0; 2 after a user's mistake, told in one sentence; 130 after Ctrl-C; 141 when
    whoever reads the output has closed it; 143 after SIGTERM.
    """
    if is_launched():
        sys.stdout = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # Gloo greets on stdout before PyTorch 2.13
        if not is_first():
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
            sys.excepthook = lambda *error: traceback.print_exception(*error, file=sys.__stderr__)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # what models write fits no smaller alphabet
    words = sys.argv[1:]
    if first and words and not _is_option(words[0]):
        words.insert(0, f"--{first}")
    with warnings.catch_warnings():
        once = cache(partial(log, file=sys.stderr))  # which is redirected while fire runs
        warnings.showwarning = lambda message, *_: once(f"warning: {message}")
        if not is_launched():  # torchrun's processes end at once
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a script may have it ignored
        code = _exit_code(command, words)
        signal.signal(signal.SIGINT, lambda *_: None)  # what is left is Python's own clean-up
    if is_launched():
        shutdown(code)
    sys.exit(code)


def _exit_code(command: Command | Mapping[str, Any], words: list[str]) -> int:
    try:
        while isinstance(command, Mapping) and not (words and words[0] in HELP):
            name, *words = words or ["nothing"]
            if name not in command:
                raise RequestError(f"expected one of {', '.join(command)} first, found {name}")
            command = command[name]
        if isinstance(command, Mapping) or any(word in HELP for word in words):
            print(_help_text(_fire_function(command)))
        else:
            if "--quiet" in words:
                warnings.simplefilter("ignore")
            command(**parse(command, words))
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
    build, silence = _fire_function(command), io.StringIO()
    kinds = {name: option.annotation for name, option in build.__signature__.parameters.items()}
    _check_words(words, kinds)
    parsers = {name: partial(_parse_value, kinds[name]) for name in kinds}
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        try:
            fire.decorators.SetParseFns(**parsers)(build)
            groups = fire.Fire(build, [*words], serialize=lambda _: None)
        except fire.core.FireExit as exit_:  # it tells what is required; the rest is checked
            says = exit_.trace.elements[-1].ErrorAsStr()
            missing = ", ".join(f"--{name}" for name in kinds if f"'{name}'" in says)
            raise RequestError(f"{missing} is missing; --help lists the options") from None
    for group in groups.values():
        check_fields(group, where="--")
    return groups


def _fire_function(command: Any) -> Any:
    """What fire calls before it has seen every word: a function that returns the dataclasses and
    runs nothing. Its parameters are their fields, annotated with sets of types; its help is theirs.
    Of a mapping, such a function for each command."""
    if isinstance(command, Mapping):
        return {name: _fire_function(one) for name, one in command.items()}
    groups = typing.get_type_hints(command)
    groups.pop("return", None)

    def build(**values: Any) -> dict[str, Any]:
        return {
            name: group(
                **{one.name: values[one.name] for one in fields(group) if one.name in values}
            )
            for name, group in groups.items()
        }

    parameters, helps = [], ["Args:"]
    for group in groups.values():
        hints, keyword = typing.get_type_hints(group), inspect.Parameter.KEYWORD_ONLY
        for name, option in inspect.signature(group).parameters.items():
            parameters.append(option.replace(kind=keyword, annotation=types_in(hints[name])))
        text = re.sub(r"\n {8,}", " ", inspect.getdoc(group) or "")
        for names, help in re.findall(r"(?m)^    (\w[\w, ]*): (.*)", text):
            helps += [f"    {name}: {help}" for name in names.split(", ")]
    build.__name__ = command.__name__
    build.__doc__ = "\n".join([inspect.getdoc(command) or "", "", *helps])
    build.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return build


def _parse_value(kinds: set[Any], text: Any) -> Any:
    """The value of these types that a text stands for; `check_fields` refuses any other text. A
    tuple is one text, or a list in Python's or JSON's form."""
    if tuple in kinds:
        found = None
        with contextlib.suppress(ValueError, SyntaxError):
            found = ast.literal_eval(text)
        parts = found if found and isinstance(found, list) else [text]
        return tuple(_parse_value(kinds - {tuple}, part) for part in parts)
    if bool in kinds:
        return {"true": True, "false": False}.get(str(text).lower(), text)
    with contextlib.suppress(ValueError, TypeError):
        return text if str in kinds else int(text) if int in kinds else float(text)
    return text


def _check_words(words: Sequence[str], kinds: Mapping[str, Any]) -> None:
    """Refuses what fire reads otherwise: it takes an option without its value as "True", looks up
    leftover words as attributes, and has uses of its own for `-`, `--` and `--no…`."""
    seen = set()
    for before, word, after in zip(["=", *words], words, [*words[1:], "--"], strict=False):
        option, equals, _ = word.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not _is_option(word):
            if word == "-" or "=" in before or not _is_option(before):
                raise RequestError(f"unexpected {word!r}; write values as --option=VALUE")
        elif name not in kinds:
            raise RequestError(f"unknown option {option}; --help lists the options")
        elif name in seen:
            raise RequestError(f'{option} is given twice; a list is one value: \'["a", "b"]\'')
        elif not equals and _is_option(after) and bool not in kinds[name]:
            raise RequestError(f"{option} needs a value: {option}=VALUE")
        else:
            seen.add(name)


def _is_option(word: str) -> bool:
    """Whether fire takes a word for an option, not for a value."""
    return re.match("--|-[a-zA-Z]", word) is not None


def _help_text(component: Any) -> str:
    """fire's help without types and one-letter names; defaults behind the names, lines wrapped."""
    trace = fire.trace.FireTrace(component, name=Path(sys.argv[0]).stem)
    shown = fire.helptext.HelpText(component, trace=trace)
    for pattern, new in (
        (r"\n +Type: .*", ""),
        (r"\n +Default: (None|\(\))(?=\n)", ""),
        (r"=\w+\n +Default: False", ""),
        (r"\n +Default: (.*)", r" (default \1)"),
        (r"(?m)^( +)-\w, --", r"\1--"),
    ):
        shown = re.sub(pattern, new, shown)
    wrap = partial(textwrap.fill, width=100, break_on_hyphens=False)
    return re.sub(r"(?m)^( *)\S.*", lambda line: wrap(line[0], subsequent_indent=line[1]), shown)


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


def log(text: str, end: str = "\n", file: typing.TextIO | None = None) -> None:
    """Prints to stderr, or `file`; results come all the same where that is full."""
    with contextlib.suppress(OSError):
        print(text, end=end, file=file or sys.stderr, flush=True)


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
