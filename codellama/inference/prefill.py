"""Prefill: prompts fill a KV cache, many tokens at a time, and give the first token's logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from codellama.inference.requests import RunningSequence
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

PREFILL_CHUNK = 512
"""Tokens of a pass, in all rows together."""


def prefill(
    model: Transformer, sequences: Sequence[RunningSequence], cache: KVCache
) -> tuple[list[RunningSequence], Tensor, int]:
    """Runs the prompts through the model, `PREFILL_CHUNK` tokens at a time; duplicate prompts once.

    Short prompts share a chunk, padded on the right to the longest of them. A long prompt has its
    chunks to itself, so that padding never costs more than a chunk. Besides weights and cache this
    takes the activations of one chunk (the widest has `PREFILL_CHUNK * hidden_dim` numbers), a mask
    of `PREFILL_CHUNK` times the prompt's length, and the logits of one position a row (of a chunk's
    positions where prompt log-probabilities are wanted).

    Args:
        cache: a row for each sequence, with capacity for its prompt. Rows are empty, but for one
            that may hold a prefix of its prompt (see `PrefixCache`).

    Returns:
        The sequence in each row, the logits (rows, vocab_size) after its prompt, and the number of
        tokens that went through the model.
    """
    known = sum(cache.lengths)
    first_of: dict[tuple[int, ...], RunningSequence] = {}
    for sequence in sequences:
        first_of.setdefault(tuple(sequence.prompt.ids), sequence)
    rows: list[RunningSequence] = []
    logits: list[Tensor] = []
    for group in _groups(first_of.values()):
        start, end = len(rows), len(rows) + len(group)
        part = cache.rows(start, end)
        logits += _prefill_group(model, group, part)
        cache.lengths[start:end] = part.lengths
        rows += group
    row_of = {tuple(sequence.prompt.ids): row for row, sequence in enumerate(rows)}
    for sequence in sequences:
        row = row_of[tuple(sequence.prompt.ids)]
        if sequence is not rows[row]:
            cache.copy_row(row, len(rows), len(sequence.prompt.ids))
            sequence.prompt_logprobs = list(rows[row].prompt_logprobs)
            logits.append(logits[row])
            rows.append(sequence)
    return rows, torch.stack(logits), sum(map(len, first_of)) - known


class PrefixCache:
    """The KV cache of the last chat, for a next prompt with the same prefix.

    It is a lock as well: who takes the cache is alone with it until putting it back, and another
    thread finds none meanwhile.
    """

    def __init__(self) -> None:
        self._last: list[tuple[list[int], KVCache]] = []

    def take(self, prompt: Sequence[int], capacity: int) -> KVCache | None:
        """The cache, of as much of the prompt as it holds, with room for `capacity` tokens."""
        try:
            known, cache = self._last.pop()
        except IndexError:
            return None
        if cache.keys[0].is_inference():  # which cannot be written to outside of inference mode
            return None
        cache.lengths = [common_prefix(known, prompt)]
        cache.reserve(capacity)
        return cache

    def put(self, ids: Sequence[int], cache: KVCache) -> None:
        """Keeps the cache of a finished sequence, of which the last token may not have been run."""
        self._last[:] = [([*ids[:-1]], cache)]


def common_prefix(known: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common prefix but for the last of `ids`, which has to run for its logits."""
    shorter = min(len(known), len(ids) - 1)
    return next((at for at in range(shorter) if known[at] != ids[at]), shorter)


def _groups(sequences: Iterable[RunningSequence]) -> list[list[RunningSequence]]:
    """Sorts by prompt length; neighbours share a chunk as long as they fit into it when padded."""
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
    """Runs what `cache` lacks of the prompts; returns the logits (vocab_size) after each prompt."""
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
    """Log-probability, in nats, of each of `tokens` (rows) by its `logits` (rows, vocab_size)."""
    return logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
