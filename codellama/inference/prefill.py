"""Prefill: prompts fill a KV cache, many tokens at a time, and give the first token's logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from codellama.inference.cache_rows import keep_rows, view_rows
from codellama.inference.requests import RunningSequence
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

PREFILL_CHUNK = 512
"""Tokens of a pass, in all rows together."""


@dataclass
class Prefilled:
    """What decoding goes on from. Rows are in the order of the sequences.

    Attributes:
        cache: keys and values of the prompts, with capacity for what may be generated.
        logits: (rows, vocab_size) of the first new token.
        tokens: number of tokens that went through the model.
    """

    cache: KVCache
    logits: Tensor
    tokens: int


def prefill(model: Transformer, sequences: Sequence[RunningSequence]) -> Prefilled:
    """Runs the prompts through the model, `PREFILL_CHUNK` tokens at a time; duplicate prompts once.

    Short prompts share a chunk, padded on the right to the longest of them. A long prompt has its
    chunks to itself, so that padding never costs more than a chunk. Besides weights and cache this
    takes the activations of one chunk (the widest has `PREFILL_CHUNK * hidden_dim` numbers), a mask
    of `PREFILL_CHUNK` times the prompt's length, the logits of one position a row (of a chunk's
    positions where prompt log-probabilities are wanted), and one layer of the cache.
    """
    unique = {tuple(sequence.prompt.ids): sequence for sequence in sequences}
    groups = _groups(unique.values())
    cache = model.new_cache(len(unique), max(map(_capacity, sequences)))
    rows: dict[tuple[int, ...], int] = {}
    logits: list[Tensor] = []
    for group in groups:
        start = len(logits)
        view = view_rows(cache, start, start + len(group))
        logits += _prefill_group(model, group, view)
        cache.lengths[start : start + len(group)] = view.lengths
        rows |= {tuple(sequence.prompt.ids): start + row for row, sequence in enumerate(group)}
    order = [rows[tuple(sequence.prompt.ids)] for sequence in sequences]
    if order != list(range(len(unique))):
        keep_rows(cache, order)
    for sequence in sequences:
        sequence.prompt_logprobs = list(unique[tuple(sequence.prompt.ids)].prompt_logprobs)
    return Prefilled(cache, torch.stack(logits)[order], sum(map(len, unique)))


@dataclass
class PrefixCache:
    """The KV cache of the last sequence, for a next prompt with the same prefix, as in a dialog.

    Attributes:
        last: the tokens of one row, and their keys and values; empty while a sequence uses them, so
            that another thread's sequence begins anew.
    """

    last: list[tuple[list[int], KVCache]] = field(default_factory=list)

    def prefill(self, model: Transformer, sequence: RunningSequence) -> Prefilled:
        """As `prefill` for one sequence; only the tokens that the cache lacks are run."""
        try:
            known, cache = self.last.pop()
        except IndexError:
            return prefill(model, [sequence])
        if cache.keys[0].is_inference():  # which cannot be written to
            return prefill(model, [sequence])
        prompt = sequence.prompt.ids
        cache.lengths = [0 if sequence.wants_prompt_logprobs else common_prefix(known, prompt)]
        new_tokens = len(prompt) - cache.longest
        cache.reserve(_capacity(sequence))
        logits = _prefill_group(model, [sequence], cache)
        return Prefilled(cache, torch.stack(logits), new_tokens)


def common_prefix(known: Sequence[int], ids: Sequence[int]) -> int:
    """Length of the common prefix but for the last of `ids`, which has to run for its logits."""
    most = min(len(known), len(ids) - 1)
    return next((at for at in range(most) if known[at] != ids[at]), most)


def _capacity(sequence: RunningSequence) -> int:
    """Positions that a sequence needs; draft tokens may reach past its last one."""
    drafts = min(sequence.options.speculate, sequence.budget)
    return len(sequence.prompt.ids) + sequence.budget + drafts


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
