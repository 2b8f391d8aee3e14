"""The command that measures a model: `python -m codellama.evaluate perplexity --ckpt DIR`."""

from __future__ import annotations

import json as json_
import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from codellama.cli import load, progress_bar, run
from codellama.errors import UsageError
from codellama.evaluation.infilling import exact_matches, gaps
from codellama.evaluation.perplexity import loss_by_position
from codellama.evaluation.perplexity import perplexity as measure_perplexity
from codellama.training.documents import find_documents, read_document

SHORTEST_LAST_POSITION = 512


def perplexity(
    *,
    ckpt: str | None = None,
    data: str | None = None,
    pattern: str = "*.py",
    context: int | None = None,
    files: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    kv_dtype: str | None = None,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Measure bits per byte and perplexity on held-out documents.

    Args:
        ckpt: checkpoint directory; without it, the small one that comes with the package.
        data: the directory that was trained on, of which a sixteenth was held out; one above or
            below it is split in another way. Without it, the standard library of this Python.
        pattern: what the documents are called.
        context: tokens to look back on at most; without it, the model's context, which is the most.
        files: read only so many documents.
        device: cpu, cuda, cuda:1, mps; without it, the best there is.
        dtype: bfloat16, float16 or float32; without it, that of the files.
        quantize: int8 or int4: round the matrices to so many bits.
        kv_dtype: int8: round the keys and values of past tokens.
        json: print one JSON object.
        quiet: show no progress.
    """
    _check_counts(context=context, files=files)
    llm = load(ckpt, device, dtype, quantize, kv_dtype, quiet)
    most = llm.model.config.max_seq_len
    context = _cut(context or most, most)
    texts = _held_out(data, pattern)[:files]
    with progress_bar("reading", quiet, unit="file") as progress:
        result = measure_perplexity(llm.model, llm.tokenizer, texts, context, progress)
    _print(
        {
            "files": result.texts,
            "bytes": result.text_bytes,
            "tokens": result.tokens,
            "loss": result.loss,
            "perplexity": result.perplexity,
            "bits_per_byte": result.bits_per_byte,
        },
        json,
    )


def positions(
    *,
    ckpt: str | None = None,
    data: str | None = None,
    pattern: str = "*.py",
    length: int = 16_384,
    sequences: int = 16,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    kv_dtype: str | None = None,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Measure the loss at each position of long sequences, in nats a token.

    The sequences are held-out documents one after the other, as in a repository.

    Args:
        ckpt: checkpoint directory; without it, the small one that comes with the package.
        data: the directory that was trained on, of which a sixteenth was held out; one above or
            below it is split in another way. Without it, the standard library of this Python.
        pattern: what the documents are called.
        length: tokens of a sequence; may be more than the model's context.
        sequences: how many to read, spread over all documents.
        device: cpu, cuda, cuda:1, mps; without it, the best there is.
        dtype: bfloat16, float16 or float32; without it, that of the files.
        quantize: int8 or int4: round the matrices to so many bits.
        kv_dtype: int8: round the keys and values of past tokens.
        json: print one JSON object.
        quiet: show no progress.
    """
    _check_counts(sequences=sequences)
    if length < SHORTEST_LAST_POSITION:
        raise UsageError(f"--length is {length}; expected {SHORTEST_LAST_POSITION} or more")
    llm = load(ckpt, device, dtype, quantize, kv_dtype, quiet)
    edges = [0, 128, 256]
    while edges[-1] < length:
        edges.append(min(2 * edges[-1], length))
    text = "".join(_held_out(data, pattern))
    with progress_bar("reading", quiet, unit="sequence") as progress:
        losses, read = loss_by_position(llm.model, llm.tokenizer, text, edges, sequences, progress)
    if not read:
        raise UsageError(
            f"the held-out documents have fewer than {length} tokens; give a smaller --length"
        )
    named = {
        f"{start}-{end}": loss for (start, end), loss in zip(pairwise(edges), losses, strict=True)
    }
    _print({"sequences": read, "loss": named} if json else named, json)


def infilling(
    *,
    ckpt: str | None = None,
    data: str | None = None,
    pattern: str = "*.py",
    lines: int = 500,
    context: int = 512,
    seed: int = 0,
    inside: bool = False,
    heal: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    kv_dtype: str | None = None,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Measure how often a line taken out of a held-out document is written again exactly.

    Args:
        ckpt: checkpoint directory; without it, the small one that comes with the package.
        data: the directory that was trained on, of which a sixteenth was held out; one above or
            below it is split in another way. Without it, the standard library of this Python.
        pattern: what the documents are called.
        lines: how many lines to take out, each alone.
        context: tokens around a line, half before and half after it; at most half of the model's
            context, so that the answer fits as well.
        seed: decides which lines.
        inside: take out a random piece of the line instead of all of it.
        heal: let the model finish a word that the gap cuts (suffix first only; see generate).
        device: cpu, cuda, cuda:1, mps; without it, the best there is.
        dtype: bfloat16, float16 or float32; without it, that of the files.
        quantize: int8 or int4: round the matrices to so many bits.
        kv_dtype: int8: round the keys and values of past tokens.
        json: print one JSON object.
        quiet: show no progress.
    """
    _check_counts(lines=lines, context=context)
    llm = load(ckpt, device, dtype, quantize, kv_dtype, quiet)
    context = _cut(context, llm.model.config.max_seq_len // 2)
    asked = gaps(_held_out(data, pattern), llm.tokenizer, lines, context, seed, inside)
    if not asked:
        raise UsageError("no line of the held-out documents can be asked for; give others (--data)")
    shares = {}
    for name, suffix_first in (("psm", False), ("spm", True)):
        with progress_bar(name, quiet, unit="line") as progress:
            matches = exact_matches(llm, asked, suffix_first, progress, heal=heal)
        shares[f"{name}_exact_match"] = sum(matches) / len(matches)
    _print({"lines": len(asked), **shares}, json)


def _check_counts(**options: int | None) -> None:
    for name, value in options.items():
        least = 2 if name == "context" else 1
        if value is not None and value < least:
            raise UsageError(f"--{name} is {value}; expected {least} or more")


def _cut(context: int, most: int) -> int:
    """The context, or what fits into the model's; says so where that is less."""
    if context > most:
        warnings.warn(
            f"--context {context} is more than the model has room for; taken as {most}",
            stacklevel=2,
        )
    return min(context, most)


def _held_out(data: str | None, pattern: str) -> list[str]:
    documents = find_documents(Path(data).expanduser() if data else None, pattern)
    texts = [text for path in documents.held_out if (text := read_document(path)).strip()]
    if not texts:
        raise UsageError("the held-out documents hold no text; give others with --data")
    return texts


def _print(figures: dict[str, Any], json: bool) -> None:
    if json:
        print(json_.dumps(figures))
        return
    for name, value in figures.items():
        shown = f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
        print(f"{name.replace('_', ' '):20} {shown}")


evaluate: dict[str, Callable[..., None]] = {
    "perplexity": perplexity,
    "positions": positions,
    "infilling": infilling,
}

if __name__ == "__main__":
    run(evaluate)
