"""The loop that runs a batch of prompts through the model: prefill, then a token a row a step."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from codellama.inference.compiled import CompiledSteps
from codellama.inference.prefill import Past, logprobs_of, prefill
from codellama.inference.requests import RunningSequence
from codellama.inference.sampling import sample
from codellama.inference.speculative import Drafter
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

REFILL_SHARE = 4
"""Sequences are admitted once a quarter of the batch is free, so that prompts share a pass."""


@dataclass
class Timing:
    """Tokens and seconds spent in the model, added up."""

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    decoded_tokens: int = 0
    decode_seconds: float = 0.0


def decode(
    model: Transformer,
    sequences: Iterable[RunningSequence],
    timing: Timing,
    batch_size: int = 8,
    new_drafter: Callable[[], Drafter] | None = None,
    past: Past | None = None,
    compiled: CompiledSteps | None = None,
    burst: int = 1,
) -> Iterator[tuple[RunningSequence, str]]:
    """Runs each sequence to its own end, up to `batch_size` of them together.

    Rows that have ended leave the batch, and waiting sequences take their places; what a row gets
    does not depend on the others.

    Args:
        new_drafter: makes what guesses at a row's next tokens, `options.speculate` of them.
        past: what a single sequence may go on from; holds that sequence when it has ended.
        compiled: takes the steps without drafts in the model's place.
        burst: such steps after which tokens are looked at; what follows a row's end is discarded.

    Yields:
        A sequence and the text of it that has become certain.
    """
    waiting = deque(sequences)
    batch = _Batch(model, timing, new_drafter, past, compiled, burst)
    while waiting or batch.rows:
        free = batch_size - len(batch.rows)
        if waiting and (not batch.rows or free * REFILL_SHARE >= batch_size):
            newcomers = [waiting.popleft() for _ in range(min(free, len(waiting)))]
            yield from ((sequence, sequence.begin()) for sequence in newcomers)
            yield from batch.admit(newcomers)
        else:
            yield from batch.step()


class _Batch:
    """Sequences that run together, with a cache that holds a row for each."""

    def __init__(
        self,
        model: Transformer,
        timing: Timing,
        new_drafter: Callable[[], Drafter] | None = None,
        past: Past | None = None,
        compiled: CompiledSteps | None = None,
        burst: int = 1,
    ) -> None:
        self.model = model
        self.compiled = compiled
        self.burst = burst
        self.timing = timing
        self.new_drafter = new_drafter
        self.past = past
        self.rows: list[RunningSequence] = []
        self.drafters: list[Drafter | None] = []
        self.cache: KVCache

    def admit(self, sequences: Sequence[RunningSequence]) -> Iterator[tuple[RunningSequence, str]]:
        """Reads the prompts of more sequences, and goes on to the first token of each."""
        unread = [row for row in sequences if not row.finish_reason]
        if not unread:
            return
        started = time.perf_counter()
        rows, cache, logits, read = prefill(self.model, unread, self.past)
        for row in rows:
            row.prompt_read()
        self.timing.prompt_tokens += read
        running = [number for number, row in enumerate(rows) if not row.finish_reason]
        chosen = self._accept([rows[number] for number in running], logits[running, None])
        self.timing.prefill_seconds += time.perf_counter() - started
        if self.rows:
            self.cache.join([cache], max(cache.capacity, self.cache.capacity))
        else:
            self.cache = cache
        self.rows += rows
        self.drafters += [
            self.new_drafter() if self.new_drafter and row.options.speculate else None
            for row in rows
        ]
        self._drop_finished()
        yield from chosen

    @torch.no_grad()
    def step(self) -> Iterator[tuple[RunningSequence, str]]:
        """Goes on by a token a row or more."""
        started = time.perf_counter()
        drafts = [self._draft(row, by) for row, by in zip(self.rows, self.drafters, strict=True)]
        texts = self._check(drafts) if any(drafts) else self._extend()
        self.timing.decoded_tokens += len(texts)
        self._drop_finished()
        self.timing.decode_seconds += time.perf_counter() - started
        yield from texts

    def _check(self, drafts: Sequence[Sequence[int]]) -> list[tuple[RunningSequence, str]]:
        """Feeds each row its newest token, and drafts of what follows it."""
        width = 1 + max(map(len, drafts))
        fed = [
            [row.tokens[-1], *draft] + [0] * (width - 1 - len(draft))
            for row, draft in zip(self.rows, drafts, strict=True)
        ]
        before, counts = self.cache.lengths, [len(row.tokens) for row in self.rows]
        logits = self.model(torch.tensor(fed).to(self.cache.keys[0].device), self.cache)
        texts = self._accept(self.rows, logits, drafts)
        accepted = [len(row.tokens) - count for row, count in zip(self.rows, counts, strict=True)]
        # The newest token and the drafts that were kept stay; the last one accepted is fed next.
        self.cache.lengths = [old + new for old, new in zip(before, accepted, strict=True)]
        return texts

    def _extend(self) -> list[tuple[RunningSequence, str]]:
        """Feeds each row its newest token, then what is chosen after it, a burst of steps long."""
        steps = min(self.burst, *(row.budget - len(row.tokens) for row in self.rows))
        newest = torch.tensor([row.tokens[-1] for row in self.rows]).to(self.cache.keys[0].device)
        forward: Callable[..., Tensor] = self.compiled or self.model
        chosen: list[_Chosen] = []
        with (
            self.compiled.fixed(self.cache, steps) if self.compiled else nullcontext(self.cache)
        ) as cache:
            for _ in range(steps):
                tokens = chosen[-1].tokens if chosen else newest
                chosen.append(_choose(self.rows, forward(tokens[:, None], cache)[:, 0]))
        return [
            (row, row.accept(*choice))
            for choices in chosen
            for row, choice in zip(self.rows, choices.pairs(), strict=True)
            if not row.finish_reason
        ]

    def _accept(
        self,
        rows: Sequence[RunningSequence],
        logits: Tensor,
        drafts: Sequence[Sequence[int]] | None = None,
    ) -> list[tuple[RunningSequence, str]]:
        """Chooses the next token of each row by its logits (rows, width, vocab_size), and goes on
        along its draft for as long as the draft is what has been chosen."""
        drafts = drafts or [()] * len(rows)
        texts: list[tuple[RunningSequence, str]] = []
        active = list(range(len(rows)))
        for place in range(logits.shape[1]):
            if not active:
                break
            chosen = _choose([rows[number] for number in active], logits[active, place]).pairs()
            texts += [
                (rows[number], rows[number].accept(*choice))
                for number, choice in zip(active, chosen, strict=True)
            ]
            active = [
                number
                for number, (token, _) in zip(active, chosen, strict=True)
                if not rows[number].finish_reason and token in drafts[number][place : place + 1]
            ]
        return texts

    def _draft(self, row: RunningSequence, drafter: Drafter | None) -> list[int]:
        count = min(row.options.speculate, row.budget - len(row.tokens) - 1)
        if drafter is None or count < 1:
            return []
        return drafter.draft(row.prompt.ids + row.tokens, count)

    def _drop_finished(self) -> None:
        running = [number for number, row in enumerate(self.rows) if not row.finish_reason]
        if self.past is not None and not running:
            [row] = self.rows
            ids = row.prompt.ids + row.tokens
            self.past.ids, self.past.cache = ids[: self.cache.longest], self.cache
        if running and len(running) < len(self.rows):
            self.cache.keep(running)
        self.rows = [self.rows[number] for number in running]
        self.drafters = [self.drafters[number] for number in running]


@dataclass
class _Chosen:
    """The next token of each row (rows), and its log-probability in nats where that is wanted."""

    tokens: Tensor
    logprobs: Tensor | None

    def pairs(self) -> list[tuple[int, float]]:
        """Both as numbers, for which the host waits."""
        tokens = self.tokens.tolist()
        logprobs = [0.0] * len(tokens) if self.logprobs is None else self.logprobs.tolist()
        return list(zip(tokens, logprobs, strict=True))


@torch.no_grad()
def _choose(rows: Sequence[RunningSequence], logits: Tensor) -> _Chosen:
    """Draws the next token of each row by its logits (rows, vocab_size)."""
    tokens = torch.stack(
        [
            sample(
                row.allowed(scores),
                row.options.temperature,
                row.options.top_k,
                row.options.top_p,
                row.generator,
            )
            for row, scores in zip(rows, logits, strict=True)
        ]
    )
    wanted = any(row.options.logprobs for row in rows)
    return _Chosen(tokens, logprobs_of(logits, tokens) if wanted else None)
