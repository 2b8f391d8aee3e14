"""Prefill: prompts go through the model, many tokens at a time, to the logits of what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codellama.inference.requests import RunningSequence
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

PREFILL_CHUNK = 512
"""Tokens of a pass, those of all rows counted."""


@dataclass
class Past:
    """What a cache of one row still holds of an earlier request, for one that begins alike.

    Attributes:
        ids: the tokens of the row.
        cache: their keys and values; None before the first request.
    """

    ids: list[int] = field(default_factory=list)
    cache: KVCache | None = None


@torch.no_grad()
def prefill(
    model: Transformer, sequences: Sequence[RunningSequence], past: Past | None = None
) -> tuple[list[RunningSequence], KVCache, Tensor, int]:
    """Reads the prompts, `PREFILL_CHUNK` tokens at a time; equal prompts once for all, and of a
    single one only what `past` does not hold.

    Short prompts share a chunk, padded on the right to the longest of them; a long prompt has its
    chunks to itself, so that padding never costs more than a chunk. Besides weights and cache this
    takes the activations of one chunk (its widest is `PREFILL_CHUNK * hidden_dim` numbers), a mask
    of `PREFILL_CHUNK` times the prompt's length, and the logits of one position a row (of a chunk's
    positions where prompt log-probabilities are wanted).

    Returns:
        The sequences in the order of the cache's rows, the cache with room for what they may
        generate, the logits (rows, vocab_size) of the first new token, and how many tokens had to
        be read.
    """
    twins: dict[tuple[int, ...], list[RunningSequence]] = {}
    for sequence in sequences:
        twins.setdefault(tuple(sequence.prompt.ids), []).append(sequence)
    groups = _groups([first for first, *_ in twins.values()])
    read = sum(map(len, twins))
    # A draft may reach as far behind a row's last token as it is long.
    capacity = max(
        len(row.prompt.ids) + row.budget + min(row.options.speculate, row.budget)
        for row in sequences
    )
    if past is not None and past.cache is not None:
        cache = past.cache
        cache.lengths = [known := _same(past.ids, sequences[0])]
        read -= known
        past.ids, past.cache = [], None  # until the sequence has ended
        cache.reserve(capacity)
        logits = _prefill_group(model, sequences, cache)
    else:
        cache, logits = _prefill_groups(model, groups, capacity)
    rows, sources = [], []
    for source, first in enumerate(sequence for group in groups for sequence in group):
        for twin in twins[tuple(first.prompt.ids)]:
            twin.prompt_logprobs = list(first.prompt_logprobs)
            rows.append(twin)
            sources.append(source)
    if len(rows) > len(twins):
        cache.keep(sources)
    return rows, cache, logits[sources], read


def _same(known: Sequence[int], sequence: RunningSequence) -> int:
    """How many tokens of a sequence's prompt need not be read again."""
    if sequence.wants_prompt_logprobs:
        return 0
    asked = sequence.prompt.ids[:-1]  # the last token's logits are needed
    pairs = enumerate(zip(known, asked, strict=False))
    return next((at for at, (old, new) in pairs if old != new), min(len(known), len(asked)))


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


def _prefill_groups(
    model: Transformer, groups: Sequence[Sequence[RunningSequence]], capacity: int
) -> tuple[KVCache, Tensor]:
    caches, logits = [], []
    for group in groups:
        longest = max(len(sequence.prompt.ids) for sequence in group)
        caches.append(model.new_cache(len(group), longest if len(groups) > 1 else capacity))
        logits.append(_prefill_group(model, group, caches[-1]))
    cache = caches[0]
    if len(groups) > 1:
        cache.join(caches[1:], capacity)
    return cache, torch.cat(logits)


def _prefill_group(model: Transformer, group: Sequence[RunningSequence], cache: KVCache) -> Tensor:
    prompts = [sequence.prompt.ids for sequence in group]
    longest = max(map(len, prompts))
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in prompts])
    padded = padded.to(cache.keys[0].device)
    last: list[Tensor] = [torch.empty(0)] * len(group)
    for start in range(cache.longest, longest, PREFILL_CHUNK):
        hidden = model.hidden(padded[:, start : start + PREFILL_CHUNK], cache)
        for row, sequence in enumerate(group):
            if sequence.wants_prompt_logprobs:
                targets = prompts[row][start + 1 : start + 1 + PREFILL_CHUNK]
                scores = model.logits(hidden[row, : len(targets)])
                asked = torch.tensor(targets, dtype=torch.long, device=scores.device)
                sequence.prompt_logprobs += logprobs_of(scores, asked).tolist()
            if 0 <= (end := len(prompts[row]) - 1 - start) < hidden.shape[1]:
                last[row] = hidden[row, end]
    cache.lengths = [len(ids) for ids in prompts]  # what padding wrote is overwritten later
    return model.logits(torch.stack(last))


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability, in nats, of each of `tokens` (rows) under its row of `logits` (rows,
    vocab_size)."""
    return logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
