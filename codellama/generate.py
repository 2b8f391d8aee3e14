"""The command that completes, infills and chats: `python -m codellama.generate`."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
import warnings
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from torch.distributed.device_mesh import DeviceMesh

from codellama.chat import Chat, cut_note
from codellama.cli import CheckpointArguments, log, peak_memory_bytes, run, user_path
from codellama.distributed import broadcast, init_mesh
from codellama.errors import CodeLlamaError, RequestError
from codellama.inference.codellama import CodeLlama
from codellama.inference.requests import Completion, Options, check_length
from codellama.text import prompts as formats
from codellama.text.prompts import FILL, split_fill
from codellama.weights.loading import (
    LoadOptions,
    load_tokenizer,
    open_checkpoint,
    torch_device,
    weight_bytes,
)
from codellama.weights.memory import human_bytes
from codellama.weights.variants import matching

SEPARATOR = "-" * 40
"""Stands between the texts of several prompts."""
BYTE_ORDER_MARK = "\ufeff"
ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


@dataclass(frozen=True)
class GenerateArguments:
    """What to generate from.

    Args:
        prompt: the text to continue; <FILL_ME> in it marks a gap to fill instead. Without --prompt
            and --file it is read from stdin.
        file: a file that holds the prompt, or, as .jsonl, a JSON string a line, each a prompt.
        chat: chat on the terminal; /help says how.
        system: system message of the chat.
        suffix_first: infill in suffix-prefix-middle order.
        draft_ckpt: a smaller model of the same vocabulary that makes the draft tokens of
            --speculate.
    """

    prompt: str | None = None
    file: str | None = None
    chat: bool = False
    system: str | None = None
    suffix_first: bool = False
    draft_ckpt: str | None = None

    def check(self, options: Options, source: CheckpointArguments) -> None:
        """Raises RequestError for options that exclude each other; warns of idle ones."""
        if self.chat and (self.prompt is not None or self.file is not None):
            raise RequestError("--chat is a conversation; leave out --prompt and --file")
        if self.chat and (source.json or options.echo or options.num_samples > 1):
            raise RequestError(
                "--chat is a conversation; leave out --json, --echo and --num_samples"
            )
        if self.chat and options.heal:
            raise RequestError("--heal is for prompts that end inside a word; leave it out")
        if self.prompt is not None and self.file is not None:
            raise RequestError("--prompt and --file both name a prompt; give one of them")
        if self.system is not None and not self.chat:
            raise RequestError("--system begins a conversation; give --chat as well")
        if self.draft_ckpt is not None and not options.speculate:
            raise RequestError("--draft_ckpt needs --speculate, the number of draft tokens")
        if options.logprobs and not source.json:
            raise RequestError("--logprobs are part of JSON objects; give --json as well")
        changed = {one.name for one in fields(options) if getattr(options, one.name) != one.default}
        idle = sorted(changed & {"num_samples", "top_p", "top_k", "seed"})
        if idle and options.temperature == 0:
            warnings.warn(
                f"--{', --'.join(idle)} without effect: at temperature 0 the text is always the "
                "same; give --temperature as well",
                stacklevel=2,
            )


@dataclass(frozen=True)
class PromptText:
    """A prompt as it stands in its source.

    Attributes:
        source: the text, with the byte order mark and the line ends of its file.
        place: where it stands, to begin the sentence of an error; empty for a single prompt.
        is_file: whether it is the whole of a file or of stdin.
    """

    source: str
    place: str = ""
    is_file: bool = False

    @property
    def text(self) -> str:
        """What the model reads: of a file, no byte order mark, and LF at the end of lines."""
        if not self.is_file:
            return self.source
        return self.source.removeprefix(BYTE_ORDER_MARK).replace("\r\n", "\n")

    def as_source(self, text: str) -> str:
        """A text with the line ends of the source."""
        is_crlf = self.is_file and 2 * self.source.count("\r\n") > self.source.count("\n")
        return text.replace("\n", "\r\n") if is_crlf else text


def generate(
    arguments: GenerateArguments,
    options: Options,
    loading: LoadOptions,
    source: CheckpointArguments,
) -> None:
    r"""Continue a text, fill a gap in it, or chat.

        python -m codellama.generate --prompt "def fib(n):"
        python -m codellama.generate --prompt $'def add(a, b):\n    <FILL_ME>\n    return total\n'
        python -m codellama.generate --ckpt CodeLlama-7b-Instruct --chat --temperature 0.2

    A continuation is printed without the prompt; a text with a gap is printed whole. Text goes to
    stdout as it comes, everything else to stderr.

    A prompt is taken as typed: \n in it stays two characters, unless the shell reads it as $'\n'.
    In --stop, \n, \t and \\ are a line feed, a tab and a backslash; several are '["a", "b"]'.
    """
    arguments.check(options, source)
    stop = (re.sub(r"\\([nt\\])", lambda found: ESCAPES[found[1]], one) for one in options.stop)
    options = replace(options, stop=tuple(stop))
    mesh = init_mesh(torch_device(loading.device))
    prompts = [] if arguments.chat else _prompts(arguments, mesh)
    longest = _longest(prompts, arguments, source)
    if arguments.draft_ckpt is not None:
        open_checkpoint(user_path(arguments.draft_ckpt))  # mistakes show before anything is loaded
    rows = min(options.batch_size, max(1, len(prompts)) * options.num_samples)
    context = source.checkpoint.config.max_seq_len
    started = time.perf_counter()
    llm = source.load(loading, mesh, rows * min(longest + options.max_new_tokens, context))
    if arguments.draft_ckpt is not None:
        llm.load_draft(user_path(arguments.draft_ckpt), fast=not source.plain)
    if not source.quiet:
        log(_summary(llm, time.perf_counter() - started, mesh))
        if llm.is_compiled:
            log("compiling before the second token: minutes at first, seconds once it is cached")
    if arguments.chat:
        Chat(llm, arguments.system, options, quiet=source.quiet, mesh=mesh).run()
        completions: list[Completion] = []
    elif source.json or len(prompts) > 1 or options.num_samples > 1:
        completions = _print_batches(llm, prompts, arguments, options, as_json=source.json)
    else:
        completions = [_print_stream(llm, prompts[0], arguments, options)]
    if not source.quiet:
        cut = [one for one in completions if one.finish_reason == "length"]
        if cut and options.max_new_tokens:
            log(cut_note(longest, options, context))
        if options.temperature == 0 and any(_repeats(one.tokens) for one in cut):
            log("note: the text repeats itself; sampling avoids that: try --temperature 0.8")
        log(_report(llm))


def _prompts(arguments: GenerateArguments, mesh: DeviceMesh | None) -> list[PromptText]:
    """The prompts that the arguments name, or the one on stdin."""
    if arguments.prompt is not None:
        return [PromptText(arguments.prompt)]
    if arguments.file is None:
        return [PromptText(broadcast(_standard_input, mesh), is_file=True)]
    path = user_path(arguments.file)
    text = _decode(str(path), path.read_bytes())
    if path.suffix.lower() == ".jsonl":
        return _json_strings(path, text.removeprefix(BYTE_ORDER_MARK))
    return [PromptText(text, is_file=True)]


def _json_strings(path: Path, text: str) -> list[PromptText]:
    """The prompts of a .jsonl file, one JSON string a line."""
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):  # others may stand inside a string
        if line.strip():
            place, prompt = f"{path}, line {number}: ", None
            with contextlib.suppress(ValueError, RecursionError):
                prompt = json.loads(line)
            if not isinstance(prompt, str):
                raise RequestError(f"{place}expected a JSON string, got {line[:40]!r}")
            prompts.append(PromptText(prompt, place))
    if not prompts:
        raise RequestError(f"{path} holds no prompt")
    return prompts


def _longest(
    prompts: list[PromptText], arguments: GenerateArguments, source: CheckpointArguments
) -> int:
    """Tokens of the longest prompt. Raises RequestError for one that the model does not take."""
    config = source.checkpoint.config
    tokenizer = load_tokenizer(source.directory, config.vocab_size)
    longest = 0
    for prompt in prompts:
        try:
            if FILL in prompt.text:
                gap = split_fill(prompt.text)
                ids = formats.infilling(tokenizer, *gap, arguments.suffix_first)
            else:
                ids = tokenizer.encode(prompt.text, bos=True)
        except CodeLlamaError as error:
            raise RequestError(f"{prompt.place}{error}") from None
        check_length(ids, config.max_seq_len, prompt.place)
        longest = max(longest, len(ids))
    return longest


def _standard_input() -> str:
    if sys.stdin.isatty():
        raise RequestError("no prompt; give --prompt or --file, or pipe a text in")
    return _decode("standard input", sys.stdin.buffer.read())


def _decode(source: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{source} is not UTF-8 text: byte {error.start} does not fit") from None


def _print_stream(
    llm: CodeLlama, prompt: PromptText, arguments: GenerateArguments, options: Options
) -> Completion:
    has_gap = FILL in prompt.text
    if has_gap:
        before, after = split_fill(prompt.source)
        gap = split_fill(prompt.text)
        stream = llm.stream_infill(*gap, arguments.suffix_first, **vars(options))
    else:
        before, after = prompt.source if options.echo else "", ""
        stream = llm.stream(prompt.text, **vars(replace(options, echo=False)))
    print(before, end="", flush=True)
    for piece in stream:
        print(prompt.as_source(piece), end="", flush=True)
    print(after, end="" if has_gap and prompt.is_file else "\n")  # a file ends as it did
    return stream.completion


def _print_batches(
    llm: CodeLlama,
    prompts: list[PromptText],
    arguments: GenerateArguments,
    options: Options,
    *,
    as_json: bool,
) -> list[Completion]:
    texts = [prompt.text for prompt in prompts]
    repeated = [prompt for prompt in prompts for _ in range(options.num_samples)]
    completions: list[Completion] = []
    for completion in llm.each(texts, arguments.suffix_first, **vars(options)):
        prompt = repeated[len(completions)]
        text = shown = prompt.as_source(completion.text)
        if FILL in prompt.text:
            shown = prompt.source.replace(FILL, text)
        if as_json:
            result = {"prompt": prompt.text, **asdict(completion)}
            result |= {"filled": shown} if FILL in prompt.text else {}
            print(json.dumps(result, ensure_ascii=False), flush=True)
        else:
            print(f"{SEPARATOR}\n" * bool(completions) + shown, flush=True)
        completions.append(completion)
    return completions


def _repeats(tokens: list[int]) -> bool:
    """Whether a text ends in the same tokens four times over, at least 32 in all."""
    return any(tokens[-4 * n :] == 4 * tokens[-n:] for n in range(8, len(tokens) // 4 + 1))


def _summary(llm: CodeLlama, seconds: float, mesh: DeviceMesh | None) -> str:
    config = llm.model.config
    weight = llm.model.tok_embeddings.weight
    device = f"{mesh.size()} x {weight.device.type}" if mesh else weight.device
    names = " or ".join(variant.name for variant in matching(config)) or "unpublished model"
    per_token = llm.model.new_cache().bytes_per_token
    weights = weight_bytes(llm.model)
    contexts = {1_000, 10_000, 100_000, config.max_seq_len}
    possible = sorted(tokens for tokens in contexts if tokens <= config.max_seq_len)
    sizes = [f"{human_bytes(weights + per_token * tokens)} at {tokens:,}" for tokens in possible]
    return (
        f"{names}: {config.parameter_count:,} parameters in {str(weight.dtype)[6:]} on {device}, "
        f"θ = {config.rope_theta:,.0f}, context {config.max_seq_len:,}; loaded in {seconds:.2f} s\n"
        f"weights and KV cache: {human_bytes(weights)}, with tokens {', '.join(sizes)}"
    )


def _report(llm: CodeLlama) -> str:
    timing = llm.timing
    parts = [f"prefill {_rate(timing.prompt_tokens, timing.prefill_seconds)}"]
    parts.append(f"decode {_rate(timing.decoded_tokens, timing.decode_seconds)}")
    if peak := peak_memory_bytes(llm.model.tok_embeddings.weight.device):
        parts.append(f"peak memory {human_bytes(peak)}")
    return ", ".join(parts)


def _rate(tokens: int, seconds: float) -> str:
    return f"{tokens:,} tokens" + (f" at {tokens / seconds:,.1f} tokens/s" if seconds else "")


if __name__ == "__main__":
    run(generate)
