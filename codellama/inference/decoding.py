"""The loop that runs a batch of prompts through the model: prefill, then a token a row a step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codellama.inference.requests import RunningSequence
from codellama.inference.sampling import sample
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

PREFILL_CHUNK = 512


@dataclass
class Timing:
    """Tokens and seconds spent in the model, added up."""

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    decoded_tokens: int = 0
    decode_seconds: float = 0.0


def decode(
    model: Transformer, sequences: Sequence[RunningSequence], timing: Timing
) -> Iterator[tuple[RunningSequence, str]]:
    """Runs `sequences` together, each to its own end.

    Rows that have ended leave the batch; what a row gets does not depend on the others.

    Yields:
        A sequence and the text of it that has become certain.
    """
    for sequence in sequences:
        yield sequence, sequence.begin()
    rows = [
        sequence
        for sequence in sequences
        if sequence.finish_reason is None or sequence.wants_prompt_logprobs
    ]
    if not rows:
        return
    started = time.perf_counter()
    rows, cache, logits = prefill(model, rows)
    chosen = _choose(rows, logits)
    timing.prefill_seconds += time.perf_counter() - started
    timing.prompt_tokens += sum(len(row.prompt.ids) for row in rows)
    while True:
        for row, (token, logprob) in zip(rows, chosen, strict=True):
            if row.finish_reason is None:
                yield row, row.accept(token, logprob)
        running = [number for number, row in enumerate(rows) if row.finish_reason is None]
        if not running:
            return
        started = time.perf_counter()
        if len(running) < len(rows):
            rows = [rows[number] for number in running]
            cache.keep(running)
        chosen = _choose(rows, _step(model, rows, cache))
        timing.decode_seconds += time.perf_counter() - started
        timing.decoded_tokens += len(rows)


@torch.no_grad()
def prefill(
    model: Transformer, sequences: Sequence[RunningSequence]
) -> tuple[list[RunningSequence], KVCache, Tensor]:
    """Reads the prompts, `PREFILL_CHUNK` tokens at a time.

    Short prompts share a chunk, padded on the right to the longest of them; a long prompt has its
    chunks to itself, so that padding never costs more than a chunk. Besides weights and cache this
    takes the activations of one chunk (its widest is `PREFILL_CHUNK * hidden_dim` numbers), a mask
    of `PREFILL_CHUNK` times the prompt's length, and the logits of one position a row (of a chunk's
    positions where prompt log-probabilities are wanted).

    Returns:
        The sequences in the order of the cache's rows, the cache with room for what they may
        generate, and the logits (rows, vocab_size) of the first new token.
    """
    groups = _groups(sequences)
    capacity = max(len(sequence.prompt.ids) + sequence.budget for sequence in sequences)
    caches, logits = [], []
    for group in groups:
        longest = max(len(sequence.prompt.ids) for sequence in group)
        caches.append(model.new_cache(len(group), longest if len(groups) > 1 else capacity))
        logits.append(_prefill_group(model, group, caches[-1]))
    cache = caches[0]
    if len(groups) > 1:
        cache.join(caches[1:], capacity)
    return [sequence for group in groups for sequence in group], cache, torch.cat(logits)


def _groups(sequences: Sequence[RunningSequence]) -> list[list[RunningSequence]]:
    """Sorts by prompt length and lets neighbours share a chunk as long as they fit when padded."""
    groups: list[list[RunningSequence]] = []
    for sequence in sorted(sequences, key=lambda sequence: len(sequence.prompt.ids)):
        longest = len(sequence.prompt.ids)
        if groups and (len(groups[-1]) + 1) * longest <= PREFILL_CHUNK:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
    return groups


def _prefill_group(model: Transformer, group: Sequence[RunningSequence], cache: KVCache) -> Tensor:
    prompts = [sequence.prompt.ids for sequence in group]
    longest = max(map(len, prompts))
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in prompts])
    padded = padded.to(cache.keys[0].device)
    last: list[Tensor] = [torch.empty(0)] * len(group)
    for start in range(0, longest, PREFILL_CHUNK):
        hidden = model.hidden(padded[:, start : start + PREFILL_CHUNK], cache)
        for row, sequence in enumerate(group):
            if sequence.wants_prompt_logprobs:
                targets = prompts[row][start + 1 : start + 1 + PREFILL_CHUNK]
                scores = model.logits(hidden[row, : len(targets)])
                sequence.prompt_logprobs += _logprobs(scores, targets)
            if 0 <= (end := len(prompts[row]) - 1 - start) < hidden.shape[1]:
                last[row] = hidden[row, end]
    cache.lengths = [len(ids) for ids in prompts]  # what padding wrote is overwritten later
    return model.logits(torch.stack(last))


@torch.no_grad()
def _step(model: Transformer, rows: Sequence[RunningSequence], cache: KVCache) -> Tensor:
    """Feeds each row its newest token; returns the logits (rows, vocab_size) of the next."""
    newest = torch.tensor([[row.tokens[-1]] for row in rows]).to(cache.keys[0].device)
    return model(newest, cache)[:, 0]


@torch.no_grad()
def _choose(rows: Sequence[RunningSequence], logits: Tensor) -> list[tuple[int, float]]:
    """The next token of each row, and its log-probability where that is wanted."""
    chosen = torch.stack(
        [
            sample(
                scores,
                row.options.temperature,
                row.options.top_k,
                row.options.top_p,
                row.generator,
            )
            for row, scores in zip(rows, logits, strict=True)
        ]
    ).tolist()
    logprobs = [0.0] * len(rows)
    if any(row.options.logprobs for row in rows):
        logprobs = _logprobs(logits, chosen)
    return list(zip(chosen, logprobs, strict=True))


def _logprobs(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Log-probability, in nats, of each token under its row of `logits` (rows, vocab_size)."""
    targets = torch.tensor(tokens, dtype=torch.long, device=logits.device)[:, None]
    return logits.log_softmax(-1).gather(-1, targets)[:, 0].tolist()
