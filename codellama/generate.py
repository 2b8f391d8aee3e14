"""The command that completes, infills and chats: `python -m codellama.generate`."""

from __future__ import annotations

import codecs
import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.device_mesh import DeviceMesh

from codellama.chat import Conversation
from codellama.cli import Source, log, peak_memory_bytes, run, user_path
from codellama.distributed import broadcast, init_mesh
from codellama.errors import CodeLlamaError, RequestError
from codellama.inference.codellama import CodeLlama
from codellama.inference.requests import Options, check_length
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


@dataclass(frozen=True)
class Request:
    """What to generate from.

    Args:
        prompt: the text, taken exactly as given; <FILL_ME> in it marks a gap to fill. Without
            prompt and file it is read from stdin.
        file: a file that holds the prompt, or, as .jsonl, a JSON string a line, each a prompt.
        chat: hold a conversation; /reset forgets it, /exit ends it, Ctrl-C stops an answer.
        system: system message of the conversation.
        suffix_first: infill in suffix-prefix-middle order.
        draft_ckpt: a smaller model of the same vocabulary, to make the draft tokens of --speculate.
    """

    prompt: str | None = None
    file: str | None = None
    chat: bool = False
    system: str | None = None
    suffix_first: bool = False
    draft_ckpt: str | None = None

    def check(self, source: Source, options: Options) -> None:
        """Raises RequestError for options that exclude each other."""
        if self.chat and (self.prompt is not None or self.file is not None):
            raise RequestError("--chat is a conversation; leave out --prompt and --file")
        if self.chat and (source.json or options.echo or options.num_samples > 1):
            raise RequestError(
                "--chat is a conversation; leave out --json, --echo and --num_samples"
            )
        if self.chat and options.heal:
            raise RequestError(
                "--heal is for prompts that end inside a word; leave out one of both"
            )
        if self.prompt is not None and self.file is not None:
            raise RequestError("--prompt and --file both name a prompt; give one of them")
        if self.system is not None and not self.chat:
            raise RequestError("--system begins a conversation; give --chat as well")
        if self.draft_ckpt is not None and not options.speculate:
            raise RequestError("--draft_ckpt needs --speculate, the number of draft tokens")
        if options.logprobs and not source.json:
            raise RequestError("--logprobs are part of JSON objects; give --json as well")


def generate(request: Request, options: Options, source: Source, loading: LoadOptions) -> None:
    """Continue a text, fill the gap marked <FILL_ME> in it, or chat.

    Text goes to stdout as it comes, everything else to stderr.
    """
    request.check(source, options)
    mesh = init_mesh(torch_device(loading.device))
    prompts = {} if request.chat else _prompts(request, mesh)
    longest = _longest(prompts, request, source)
    if request.draft_ckpt is not None:
        open_checkpoint(user_path(request.draft_ckpt))  # a mistake shows before anything is loaded
    rows = min(options.batch_size, max(1, len(prompts)) * options.num_samples)
    started = time.perf_counter()
    most = min(longest + options.max_new_tokens, source.checkpoint.config.max_seq_len)
    llm = source.load(loading, mesh, rows * most)
    if request.draft_ckpt is not None:
        llm.load_draft(user_path(request.draft_ckpt), fast=not source.plain)
    if not source.quiet:
        log(_summary(llm, time.perf_counter() - started, mesh))
    if request.chat:
        Conversation(llm, request.system, options, quiet=source.quiet, mesh=mesh).hold()
    elif source.json or len(prompts) > 1 or options.num_samples > 1:
        _print_batches(llm, [*prompts.values()], request, options, as_json=source.json)
    else:
        [prompt] = prompts.values()
        _print_stream(llm, prompt, request, options)
    if not source.quiet:
        log(_report(llm))


def _prompts(request: Request, mesh: DeviceMesh | None) -> dict[str, str]:
    """The prompts by where they stand; a single one needs no place."""
    text = request.prompt
    if request.file is not None:
        path = user_path(request.file)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RequestError(f"{path}: {error.strerror}") from None
        text = _text(str(path), content)
        if path.suffix.lower() == ".jsonl":
            return _json_strings(path, text)
    elif text is None:
        text = broadcast(_standard_input, mesh)
    return {"": text}


def _json_strings(path: Path, text: str) -> dict[str, str]:
    """The prompts of a .jsonl file, one JSON string a line."""
    prompts: dict[str, Any] = {}
    for number, line in enumerate(text.split("\n"), 1):  # others may stand inside a string
        if line.strip():
            place = f"{path}, line {number}: "
            try:
                prompts[place] = json.loads(line)
            except (ValueError, RecursionError):
                prompts[place] = None
            if not isinstance(prompts[place], str):
                raise RequestError(f"{place}expected a JSON string, got {line[:40]!r}")
    if not prompts:
        raise RequestError(f"{path} holds no prompt")
    return prompts


def _longest(prompts: dict[str, str], request: Request, source: Source) -> int:
    """Tokens of the longest prompt. Raises RequestError for one that the model does not take."""
    config = source.checkpoint.config
    tokenizer = load_tokenizer(source.directory, config.vocab_size)
    longest = 0
    for place, text in prompts.items():
        try:
            if FILL in text:
                ids = formats.infilling(tokenizer, *split_fill(text), request.suffix_first)
            else:
                ids = tokenizer.encode(text, bos=True)
        except CodeLlamaError as error:
            raise RequestError(f"{place}{error}") from None
        check_length(ids, config.max_seq_len, place)
        longest = max(longest, len(ids))
    return longest


def _standard_input() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError("no prompt; give --prompt or --file, or pipe a text in")
    return _text("standard input", sys.stdin.buffer.read())


def _text(source: str, content: bytes) -> str:
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{source} is not UTF-8 text: byte {error.start} does not fit") from None


def _print_stream(llm: CodeLlama, prompt: str, request: Request, options: Options) -> None:
    if FILL in prompt:
        before, after = split_fill(prompt)
        pieces = llm.stream_infill(before, after, request.suffix_first, **vars(options))
    else:
        before, after = prompt if options.echo else "", ""
        pieces = llm.stream(prompt, **vars(dataclasses.replace(options, echo=False)))
    print(before, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(after)


def _print_batches(
    llm: CodeLlama, prompts: list[str], request: Request, options: Options, *, as_json: bool
) -> None:
    completions = llm.each(prompts, request.suffix_first, **vars(options))
    repeated = (text for text in prompts for _ in range(options.num_samples))
    for prompt, completion in zip(repeated, completions, strict=True):
        filled = {"filled": prompt.replace(FILL, completion.text)} if FILL in prompt else {}
        if as_json:
            result = {"prompt": prompt, **dataclasses.asdict(completion), **filled}
            print(json.dumps(result, ensure_ascii=False), flush=True)
        else:
            print(filled.get("filled", completion.text), flush=True)


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
    wait = "\ncompiling before the second token: minutes at first, seconds once it is cached"
    return (
        f"{names}: {config.parameter_count:,} parameters in {str(weight.dtype)[6:]} on {device}, "
        f"θ = {config.rope_theta:,.0f}, context {config.max_seq_len:,}; loaded in {seconds:.2f} s\n"
        f"weights and KV cache: {human_bytes(weights)}, with tokens {', '.join(sizes)}"
        f"{'' if True else wait}"
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
