"""The command that completes, infills and chats: `python -m codellama.generate`."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from dataclasses import asdict, dataclass, replace

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
ESCAPES = {"n": "\n", "t": "\t", "\\": "\\"}


@dataclass(frozen=True)
class GenerateArguments:
    """What to generate from.

    Args:
        prompt: the text to continue, or to fill in where <FILL_ME> stands in it. Without --prompt
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
        """Raises RequestError for options that exclude each other."""
        texts = [text for text in (self.prompt, self.file) if text is not None]
        is_batch = source.json or options.echo or options.num_samples > 1
        for is_so, sentence in (
            (self.chat and texts, "--chat is a conversation; leave out --prompt and --file"),
            (self.chat and is_batch, "--chat excludes --json, --echo and --num_samples"),
            (self.chat and options.heal, "--chat excludes --heal: messages are whole"),
            (len(texts) > 1, "--prompt and --file both name a prompt; give one of them"),
            (self.system and not self.chat, "--system begins a chat; give --chat as well"),
            (self.draft_ckpt and not options.speculate, "--draft_ckpt needs --speculate"),
            (options.logprobs and not source.json, "--logprobs needs --json"),
        ):
            if is_so:
                raise RequestError(sentence)


@dataclass(frozen=True)
class PromptText:
    """A prompt.

    Attributes:
        text: what the model reads; of a file, without byte order mark, and with LF line ends.
        source: what is printed of it, as it stands in its file.
        place: begins the sentence of an error; empty for a single prompt.
    """

    text: str
    source: str
    place: str = ""

    @classmethod
    def from_file(cls, name: str, content: bytes) -> PromptText:
        """The prompt that is all of a file. Raises RequestError if that is not UTF-8."""
        try:
            source = content.decode()
        except UnicodeDecodeError as error:
            raise RequestError(
                f"{name} is not UTF-8 text: byte {error.start} does not fit"
            ) from None
        return cls(source.removeprefix("\ufeff").replace("\r\n", "\n"), source)

    def as_source(self, text: str) -> str:
        """A text with the line ends of most lines of the source."""
        changed = self.source.count("\r\n") - self.text.count("\r\n")
        return text.replace("\n", "\r\n") if 2 * changed > self.source.count("\n") else text


def generate(
    arguments: GenerateArguments,
    options: Options,
    loading: LoadOptions,
    source: CheckpointArguments,
) -> None:
    r"""Continue a text, fill it in at <FILL_ME>, or chat.

        python -m codellama.generate --prompt "def fib(n):"
        python -m codellama.generate --prompt $'def add(a, b):\n    <FILL_ME>\n    return total\n'
        python -m codellama.generate --ckpt CodeLlama-7b-Instruct --chat --temperature 0.2

    Infilling prints the whole text, completion only what comes after the prompt. Text goes to
    stdout as it comes, everything else to stderr.

    A prompt is taken as typed: \n in it stays two characters, unless the shell reads it as $'\n'.
    In --stop, \n, \t and \\ are a line feed, a tab and a backslash; a list is '["a", "b"]'.
    """
    arguments.check(options, source)
    stop = (re.sub(r"\\([nt\\])", lambda found: ESCAPES[found[1]], one) for one in options.stop)
    options = replace(options, stop=tuple(stop))
    mesh = init_mesh(torch_device(loading.device))
    prompts = [] if arguments.chat else _prompts(arguments)
    longest = _longest(prompts, arguments, source)
    if arguments.draft_ckpt is not None:
        open_checkpoint(user_path(arguments.draft_ckpt))  # mistakes show before anything is loaded
    rows = min(options.batch_size, max(1, len(prompts)) * options.num_samples)
    context = source.checkpoint.config.max_seq_len
    started = time.perf_counter()
    llm = source.load(loading, rows * min(longest + options.max_new_tokens, context))
    if arguments.draft_ckpt is not None:
        llm.load_draft(user_path(arguments.draft_ckpt), fast=not source.plain)
    if not source.quiet:
        log(_summary(llm, time.perf_counter() - started, mesh))
        if loading.compile:
            log("compiling before the second token: minutes at first, seconds once it is cached")
    if arguments.chat:
        Chat(llm, arguments.system, options, quiet=source.quiet).run()
        completions: list[Completion] = []
    elif source.json or len(prompts) > 1 or options.num_samples > 1:
        completions = _print_batches(llm, prompts, arguments, options, as_json=source.json)
    else:
        completions = [_print_stream(llm, prompts[0], arguments, options)]
    cut = [one.tokens for one in completions if one.finish_reason == "length"]
    if source.quiet:
        return
    if cut and options.max_new_tokens:
        log(cut_note(longest, options, context))
    if options.temperature == 0 and any(map(_repeats, cut)):
        log("note: the text repeats itself; --temperature 0.8 often helps")
    log(_report(llm))


def _prompts(arguments: GenerateArguments) -> list[PromptText]:
    """The prompts that the arguments name, or the one on stdin."""
    if arguments.prompt is not None:
        return [PromptText(arguments.prompt, arguments.prompt)]
    if arguments.file is None:
        return [broadcast(_standard_input)]
    path = user_path(arguments.file)
    whole = PromptText.from_file(str(path), path.read_bytes())
    if path.suffix.lower() != ".jsonl":
        return [whole]
    prompts = []
    for number, line in enumerate(whole.text.split("\n"), 1):  # others may stand inside a string
        if line.strip():
            place, prompt = f"{path}, line {number}: ", None
            with contextlib.suppress(ValueError, RecursionError):
                prompt = json.loads(line)
            if not isinstance(prompt, str):
                raise RequestError(f"{place}expected a JSON string, got {line[:40]!r}")
            prompts.append(PromptText(prompt, prompt, place))
    if not prompts:
        raise RequestError(f"{path} holds no prompt")
    return prompts


def _standard_input() -> PromptText:
    if sys.stdin.isatty():
        raise RequestError("no prompt; give --prompt or --file, or pipe a text in")
    return PromptText.from_file("standard input", sys.stdin.buffer.read())


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
                parts = split_fill(prompt.text)
                ids = formats.infilling(tokenizer, *parts, arguments.suffix_first)
            else:
                ids = tokenizer.encode(prompt.text, bos=True)
        except CodeLlamaError as error:
            raise RequestError(f"{prompt.place}{error}") from None
        check_length(ids, config.max_seq_len, prompt.place)
        longest = max(longest, len(ids))
    return longest


def _print_stream(
    llm: CodeLlama, prompt: PromptText, arguments: GenerateArguments, options: Options
) -> Completion:
    before, after, end = prompt.source if options.echo else "", "", "\n"
    if FILL in prompt.text:
        parts, (before, after) = split_fill(prompt.text), split_fill(prompt.source)
        end = end if arguments.prompt is not None else ""  # a file ends as it did
        stream = llm.stream_infill(*parts, arguments.suffix_first, **vars(options))
    else:
        stream = llm.stream(prompt.text, **vars(replace(options, echo=False)))
    print(before, end="", flush=True)
    for piece in stream:
        print(prompt.as_source(piece), end="", flush=True)
    print(after, end=end)
    return stream.completion


def _print_batches(
    llm: CodeLlama,
    prompts: list[PromptText],
    arguments: GenerateArguments,
    options: Options,
    *,
    as_json: bool,
) -> list[Completion]:
    completions: list[Completion] = []
    texts = [prompt.text for prompt in prompts]
    for completion in llm.each(texts, arguments.suffix_first, **vars(options)):
        prompt = prompts[len(completions) // options.num_samples]
        shown, filled = prompt.as_source(completion.text), {}
        if FILL in prompt.text:
            shown = prompt.source.replace(FILL, shown)
            filled = {"filled": shown}
        if as_json:
            result = {"prompt": prompt.text, **asdict(completion), **filled}
            shown = json.dumps(result, ensure_ascii=False)
        elif completions:
            print(SEPARATOR)
        print(shown, flush=True)
        completions.append(completion)
    return completions


def _repeats(tokens: list[int]) -> bool:
    """Whether a text ends in the same 8 to 256 tokens four times over."""
    return any(
        tokens[-4 * n :] == 4 * tokens[-n:] for n in range(8, min(len(tokens) // 4, 256) + 1)
    )


def _summary(llm: CodeLlama, seconds: float, mesh: DeviceMesh | None) -> str:
    config, weight = llm.model.config, llm.model.tok_embeddings.weight
    device = f"{mesh.size()} x {weight.device.type}" if mesh else weight.device
    names = " or ".join(variant.name for variant in matching(config)) or "unpublished model"
    cache = human_bytes(1000 * llm.model.new_cache().bytes_per_token)
    return (
        f"{names}: {config.parameter_count:,} parameters in {str(weight.dtype)[6:]} on {device}, "
        f"θ = {config.rope_theta:,.0f}, context {config.max_seq_len:,}; loaded in {seconds:.2f} s\n"
        f"weights {human_bytes(weight_bytes(llm.model))}, KV cache {cache} for 1,000 tokens"
    )


def _report(llm: CodeLlama) -> str:
    timing, parts = llm.timing, list[str]()
    for name, tokens, seconds in (
        ("prefill", timing.prompt_tokens, timing.prefill_seconds),
        ("decode", timing.decoded_tokens, timing.decode_seconds),
    ):
        rate = f" at {tokens / seconds:,.1f} tokens/s" if seconds else ""
        parts.append(f"{name} {tokens:,} tokens{rate}")
    if peak := peak_memory_bytes(llm.model.tok_embeddings.weight.device):
        parts.append(f"peak memory {human_bytes(peak)}")
    return ", ".join(parts)


if __name__ == "__main__":
    run(generate)
