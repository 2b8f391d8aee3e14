"""Prefill: prompts go through the model, many tokens at a time, to the logits of what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codellama.inference.cache_rows import copy_row, view_rows
from codellama.inference.requests import RunningSequence
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

PREFILL_CHUNK = 512
"""Tokens of a pass, those of all rows counted."""


@dataclass
class Prefilled:
    """What decoding goes on from.

    Attributes:
        rows: the sequences, in the order of the cache's rows.
        cache: keys and values of their prompts, with capacity for what they may generate.
        logits: (rows, vocab_size) of the first new token.
        tokens: how many went through the model.
    """

    rows: list[RunningSequence]
    cache: KVCache
    logits: Tensor
    tokens: int


def prefill(model: Transformer, sequences: Sequence[RunningSequence]) -> Prefilled:
    """Reads the prompts, `PREFILL_CHUNK` tokens at a time, and duplicate prompts once for all.

    Short prompts share a chunk, padded on the right to the longest of them. A long prompt has its
    chunks to itself, so that padding never costs more than a chunk. Besides weights and cache this
    takes the activations of one chunk (its widest is `PREFILL_CHUNK * hidden_dim` numbers), a mask
    of `PREFILL_CHUNK` times the prompt's length, and the logits of one position a row (of a chunk's
    positions where prompt log-probabilities are wanted).
    """
    duplicates: dict[tuple[int, ...], list[RunningSequence]] = {}
    for sequence in sequences:
        duplicates.setdefault(tuple(sequence.prompt.ids), []).append(sequence)
    groups = _groups([first for first, *_ in duplicates.values()])
    rows = [sequence for group in groups for sequence in group]
    cache = model.new_cache(len(sequences), max(map(_capacity, sequences)))
    logits: list[Tensor] = []
    for group in groups:
        start = len(logits)
        view = view_rows(cache, start, start + len(group))
        logits += _prefill_group(model, group, view)
        cache.lengths[start : start + len(group)] = view.lengths
    for source, first in enumerate(list(rows)):
        for sequence in duplicates[tuple(first.prompt.ids)][1:]:
            sequence.prompt_logprobs = list(first.prompt_logprobs)
            copy_row(cache, source, len(rows))
            rows.append(sequence)
            logits.append(logits[source])
    return Prefilled(rows, cache, torch.stack(logits), sum(map(len, duplicates)))


@dataclass
class PrefixCache:
    """The KV cache of the last sequence, for a prompt with the same prefix: a dialog that goes on.

    Attributes:
        ids: the tokens in its one row.
        cache: their keys and values; None before the first sequence has ended.
    """

    ids: list[int] = field(default_factory=list)
    cache: KVCache | None = None

    def prefill(self, model: Transformer, sequence: RunningSequence) -> Prefilled:
        """As `prefill` for one sequence, of which only what the cache lacks is read."""
        if self.cache is None or self.cache.keys[0].is_inference():  # which cannot be written to
            return prefill(model, [sequence])
        cache, known, prompt = self.cache, self.ids, sequence.prompt.ids
        self.ids, self.cache = [], None  # until the sequence has ended
        cache.lengths = [0 if sequence.wants_prompt_logprobs else common_prefix(known, prompt)]
        read = len(prompt) - cache.longest
        if (capacity := _capacity(sequence)) > cache.capacity:
            cache.reserve(capacity)
        logits = _prefill_group(model, [sequence], cache)
        return Prefilled([sequence], cache, torch.stack(logits), read)


def common_prefix(known: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common prefix of two sequences; without the last of `ids`, whose logits are
    always needed."""
    most = min(len(known), len(ids) - 1)
    return next((at for at in range(most) if known[at] != ids[at]), most)


def _capacity(sequence: RunningSequence) -> int:
    """Positions that a sequence needs; draft tokens may reach past its last one."""
    drafts = min(sequence.options.speculate, sequence.budget)
    return len(sequence.prompt.ids) + sequence.budget + drafts


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


@torch.no_grad()
def _prefill_group(
    model: Transformer, group: Sequence[RunningSequence], cache: KVCache
) -> list[Tensor]:
    """Reads what `cache` lacks of the prompts; returns each row's logits (vocab_size)."""
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
    return list(model.logits(torch.stack(last)))


def logprobs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability, in nats, of each of `tokens` (rows) under its row of `logits` (rows,
    vocab_size)."""
    return logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
