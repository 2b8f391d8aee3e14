"""The command that completes, infills and chats: `python -m codellama.generate`."""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import json as json_
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codellama.arguments import UsageError
from codellama.cli import (
    human_bytes,
    launched_mesh,
    load,
    peak_memory_bytes,
    read_once,
    run,
    torch_device,
)
from codellama.inference.generation import CodeLlama
from codellama.inference.requests import Completion, Options, RequestError
from codellama.text import prompts as formats
from codellama.text.prompts import FILL, PromptError, split_fill
from codellama.weights.loading import weight_bytes
from codellama.weights.variants import matching

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def generate(
    *,
    ckpt: str | None = None,
    prompt: str | None = None,
    file: str | None = None,
    chat: bool = False,
    system: str | None = None,
    suffix_first: bool = False,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 0.95,
    top_k: int = 0,
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    echo: bool = False,
    logprobs: bool = False,
    batch_size: int = 8,
    num_samples: int = 1,
    heal: bool = False,
    speculate: int = 0,
    draft_ckpt: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    kv_dtype: str | None = None,
    pack: bool = False,
    compile: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Continue a text, fill the gap marked <FILL_ME> in it, or chat.

    Text goes to stdout as it comes, everything else to stderr.

    Args:
        ckpt: checkpoint directory; without it, the small one that comes with the package.
        prompt: the text, taken exactly as given. Without prompt and file it is read from stdin.
        file: a file that holds the prompt; a .jsonl file holds one JSON string a line, each a
            prompt.
        chat: hold a conversation; /reset forgets it, /exit ends it, Ctrl-C stops an answer.
        system: system message of the conversation.
        suffix_first: infill in suffix-prefix-middle order.
        max_new_tokens: tokens to generate at most.
        temperature: 0 takes the most likely token, 1 samples from the model's distribution.
        top_p: sample from the most likely tokens that together have this probability.
        top_k: sample from this many of the most likely tokens; 0: all.
        seed: the same seed gives the same text.
        stop: a string that ends the text; may be given several times.
        echo: print the prompt before its completion (an infilled text is always printed whole).
        logprobs: with json, also the log-probability of each token.
        batch_size: sequences that run together, of a .jsonl file or of several samples.
        num_samples: completions of each prompt; with a seed, each has the next one.
        heal: for prompts that end inside a word: let the first new token begin with the last one.
        speculate: tokens to guess and check in one pass; the same text, faster where guesses are
            good. They are looked up in the text so far.
        draft_ckpt: a smaller model of the same vocabulary, to guess instead.
        device: cpu, cuda, cuda:1, mps; without it, the best there is.
        dtype: bfloat16, float16 or float32; without it, that of the files.
        quantize: int8 or int4: round the matrices to so many bits.
        kv_dtype: int8: round the keys and values of past tokens, for half the memory.
        pack: put matrices of 16 or 8 bits into the order that the processor's library reads
            fastest; a billion weights take seconds more to load, then all is faster, above all
            several prompts and guessed tokens.
        compile: fuse the steps of decoding with torch.compile, on CUDA into a graph; takes minutes
            at first, a tenth of that in later runs, so for many or long texts.
        json: print one JSON object for each completion instead.
        quiet: print nothing to stderr but errors.
    """
    if chat and (prompt is not None or file is not None or json or num_samples > 1):
        raise UsageError(
            "--chat is a conversation; leave out --prompt, --file, --json and --num_samples"
        )
    if chat and heal:
        raise UsageError("--heal is for prompts that end inside a word; leave it out of a --chat")
    if draft_ckpt is not None and not speculate:
        raise UsageError("--draft_ckpt needs --speculate, the number of tokens to guess at once")
    if quiet:
        warnings.simplefilter("ignore")
    mesh = launched_mesh(torch_device(device))
    prompts = [] if chat else _prompts(prompt, file, mesh)
    options: dict[str, Any] = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "seed": seed,
        "stop": stop,
        "logprobs": logprobs,
        "batch_size": batch_size,
        "num_samples": num_samples,
        "heal": heal,
        "speculate": speculate,
    }
    Options(**options)  # tells of values that it does not take before anything is loaded
    started = time.perf_counter()
    llm = load(ckpt, device, dtype, quantize, kv_dtype, quiet, mesh, pack, compile)
    if draft_ckpt is not None:
        llm.load_draft(draft_ckpt)
    if not quiet:
        print(_summary(llm, time.perf_counter() - started), file=sys.stderr)
    if chat:
        _Conversation(llm, system, options, quiet).hold()
    elif json or len(prompts) > 1 or num_samples > 1:
        _print_batches(llm, prompts, suffix_first, echo, json, options)
    else:
        _print_stream(llm, prompts[0], suffix_first, echo, options)
    if not quiet:
        print(_report(llm), file=sys.stderr)


def _prompts(prompt: str | None, file: str | None, mesh: DeviceMesh | None) -> list[str]:
    if prompt is not None and file is not None:
        raise UsageError("--prompt and --file both name a prompt; give one of them")
    if prompt is not None:
        return [prompt]
    if file is None:
        return [read_once(_standard_input, mesh)]
    text = _text(file, Path(file).read_bytes().removeprefix(codecs.BOM_UTF8))
    if not file.endswith(".jsonl"):
        return [text]
    prompts = []
    for number, line in enumerate(text.split("\n"), 1):  # others may stand inside a string
        if line.strip():
            try:
                prompts.append(json_.loads(line))
            except (ValueError, RecursionError):
                prompts.append(None)
            if not isinstance(prompts[-1], str):
                raise UsageError(
                    f"{file}, line {number}: expected a JSON string, got {line[:40]!r}"
                )
    if not prompts:
        raise UsageError(f"{file} holds no prompt")
    return prompts


def _standard_input() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("no prompt; give --prompt or --file, or pipe a text in")
    return _text("standard input", sys.stdin.buffer.read())


def _line() -> str:
    return _text("standard input", sys.stdin.buffer.readline())


def _text(source: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text: byte {error.start} does not fit") from None


def _print_stream(
    llm: CodeLlama, prompt: str, suffix_first: bool, echo: bool, options: dict[str, Any]
) -> None:
    if FILL in prompt:
        prefix, suffix = split_fill(prompt)
        pieces = llm.stream_infill(prefix, suffix, suffix_first, **options)
        before, after = prefix, suffix
    else:
        pieces = llm.stream(prompt, **options)
        before, after = prompt if echo else "", ""
    print(before, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(after)


def _print_batches(
    llm: CodeLlama,
    prompts: list[str],
    suffix_first: bool,
    echo: bool,
    json: bool,
    options: dict[str, Any],
) -> None:
    completions = llm.each(prompts, suffix_first, echo=echo, **options)
    for text in prompts:
        for completion in itertools.islice(completions, options["num_samples"]):
            whole = text.replace(FILL, completion.text) if FILL in text else completion.text
            _print_result(text, completion, whole, json)


def _print_result(prompt: str, completion: Completion, whole: str, json: bool) -> None:
    if not json:
        print(whole, flush=True)
        return
    result = {"prompt": prompt, **dataclasses.asdict(completion)}
    if FILL in prompt:
        result["filled"] = whole
    print(json_.dumps(result, ensure_ascii=False), flush=True)


class _Conversation:
    """A chat on the terminal, with the history that the model is shown."""

    def __init__(
        self, llm: CodeLlama, system: str | None, options: dict[str, Any], quiet: bool
    ) -> None:
        self.llm = llm
        self.quiet = quiet
        self.options = options
        self.opening = [{"role": "system", "content": system}] if system else []
        self.messages = list(self.opening)

    def hold(self) -> None:
        """Answers line after line, until /exit or the end of the input."""
        variants = matching(self.llm.model.config)
        if variants and not any(variant.chat for variant in variants):
            self._note("note: this model was not trained to chat; Instruct models are\n")
        self._note("/reset forgets the conversation, /exit ends it\n")
        while True:
            self._note("> ")
            line = read_once(_line, self.llm.mesh)
            if not line or line.strip() == "/exit":
                return
            if line.strip() == "/reset":
                self.messages = list(self.opening)
            elif line.strip():
                self._answer(line.strip())

    def _answer(self, question: str) -> None:
        """Streams the answer and adds both to the history; Ctrl-C keeps what has come so far."""
        messages = [*self.messages, {"role": "user", "content": question}]
        answer = ""
        try:
            for piece in self.llm.stream_chat(messages, **self.options):
                print(piece, end="", flush=True)
                answer += piece
        except KeyboardInterrupt:
            pass
        except (PromptError, RequestError) as error:
            print(f"error: {error} (or /reset)", file=sys.stderr)
            return
        print(flush=True)
        if not answer.strip():
            return
        messages.append({"role": "assistant", "content": answer, "destination": "user"})
        try:
            formats.chat(self.llm.tokenizer, [*messages, {"role": "user", "content": ""}])
        except PromptError:
            self._note("note: the answer has a tag of the chat's format in it; it is forgotten\n")
        else:
            self.messages = messages

    def _note(self, text: str) -> None:
        if not self.quiet:
            print(text, end="", file=sys.stderr, flush=True)


def _summary(llm: CodeLlama, seconds: float) -> str:
    config = llm.model.config
    weight = llm.model.tok_embeddings.weight
    device = f"{llm.mesh.size()} x {weight.device.type}" if llm.mesh else weight.device
    names = " or ".join(variant.name for variant in matching(config)) or "unpublished model"
    per_token = llm.model.new_cache().bytes_per_token
    weights = weight_bytes(llm.model)
    contexts = {1_000, 10_000, 100_000, config.max_seq_len}
    sizes = [
        f"{human_bytes(weights + per_token * tokens)} at {tokens:,}"
        for tokens in sorted(contexts)
        if tokens <= config.max_seq_len
    ]
    wait = "\ncompiling before the second token: minutes at first, seconds once it is cached"
    return (
        f"{names}: {config.parameter_count:,} parameters in {str(weight.dtype)[6:]} on {device}, "
        f"θ = {config.rope_theta:,.0f}, context {config.max_seq_len:,}; loaded in {seconds:.2f} s\n"
        f"weights and KV cache: {human_bytes(weights)}, with tokens {', '.join(sizes)}"
        f"{wait if llm.compiled else ''}"
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
