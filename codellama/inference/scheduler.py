"""Continuous batching: the loop of `generation` for many sequences that come and go.

A waiting sequence takes the place of one that ends (Yu et al. 2022, "Orca"). What a sequence gets
does not depend on the others: it is what `generate_tokens` yields for its prompt alone.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from codellama.errors import CheckpointError
from codellama.inference.prefill import logprobs_of, prefill
from codellama.inference.requests import RunningSequence
from codellama.inference.speculative import Drafter, PromptLookup
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

REFILL_SHARE = 1 / 4
"""Waiting prompts join once a quarter of the batch is free, so that their prefill is shared."""

Piece = tuple[RunningSequence, str]
"""A sequence and the next piece of its text."""


class StepFunction(Protocol):
    """Runs one token a row. A `Transformer` is one; `codellama.fast.compiled` has another."""

    def __call__(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Tokens (batch, 1) -> float32 logits (batch, 1, vocab_size); extends the cache."""

    def new_cache(self, batch_size: int, capacity: int) -> KVCache:
        """An empty cache that the step function can run."""


@dataclass
class Timing:
    """Tokens and seconds spent in the model, added up."""

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    decoded_tokens: int = 0
    decode_seconds: float = 0.0


class Scheduler:
    """Runs sequences through a model, each to its own end.

    Args:
        batch_size: sequences that run together at most.
        step_function: runs passes over one token a row; None: the model.
        new_drafter: makes a sequence's drafter, which is asked where `Options.speculate` says so.
        timing: is added to.
        cache: for a single sequence, holds a prefix of its prompt and has room for all of it.

    Attributes:
        running: the sequence in each of the cache's first rows.
    """

    def __init__(
        self,
        model: Transformer,
        sequences: Iterable[RunningSequence],
        batch_size: int = 8,
        *,
        step_function: StepFunction | None = None,
        new_drafter: Callable[[], Drafter] = PromptLookup,
        timing: Timing | None = None,
        cache: KVCache | None = None,
    ) -> None:
        self.model = model
        self.waiting = deque(sequences)
        self.batch_size = batch_size
        self.step_function = step_function or model
        self.new_drafter = new_drafter
        self.timing = timing or Timing()
        self.running: list[RunningSequence] = []
        self._drafters: list[Drafter] = []
        rows = min(batch_size, len(self.waiting))
        capacity = max((sequence.capacity for sequence in self.waiting), default=0)
        self.cache = cache or self.step_function.new_cache(rows, capacity)
        self._running_cache = self.cache.rows(0, 0)

    def run(self) -> Iterator[Piece]:
        """Steps until every sequence has ended; yields their texts piece by piece."""
        while self.waiting or self.running:
            yield from self.step()

    @torch.no_grad()
    def step(self) -> list[Piece]:
        """Schedules, runs, samples and delivers: a prefill, or the next token of all that run."""
        newcomers = self._schedule()
        echoed = [(sequence, sequence.text) for sequence in newcomers]
        newcomers = [
            sequence
            for sequence in newcomers
            if not sequence.finish_reason or sequence.wants_prompt_logprobs
        ]
        started = time.perf_counter()
        if newcomers:
            delivered = self._sample(*self._prefill(newcomers))
            self.timing.prefill_seconds += time.perf_counter() - started
        elif self.running:
            delivered = self._sample(*self._decode())
            self.timing.decoded_tokens += len(delivered)
            self.timing.decode_seconds += time.perf_counter() - started
        else:
            delivered = []
        self._retire()
        return echoed + delivered

    def _schedule(self) -> list[RunningSequence]:
        """The waiting sequences that join now."""
        free = self.batch_size - len(self.running)
        if self.running and free < REFILL_SHARE * self.batch_size:
            return []
        return [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]

    def _prefill(
        self, newcomers: Sequence[RunningSequence]
    ) -> tuple[Sequence[RunningSequence], Tensor, Sequence[Sequence[int]]]:
        """Runs prompts into the cache's next rows. Returns as `_decode`."""
        start, end = len(self.running), len(self.running) + len(newcomers)
        done = prefill(self.model, newcomers, self.cache.rows(start, end))
        self.timing.prompt_tokens += done.tokens
        self.running += done.rows
        self._drafters += [self.new_drafter() for _ in done.rows]
        self._running_cache = self.cache.rows(0, end)
        return done.rows, done.logits[:, None], [()] * len(done.rows)

    def _decode(self) -> tuple[Sequence[RunningSequence], Tensor, Sequence[Sequence[int]]]:
        """Runs the newest token of each sequence, followed by its draft tokens.

        Returns:
            The sequences; logits (rows, 1 + drafts, vocab_size); and each sequence's draft tokens.
        """
        drafts = [
            draft(sequence.prompt.ids + sequence.tokens, count)
            if (
                count := min(sequence.options.speculate, sequence.budget - len(sequence.tokens) - 1)
            )
            else []
            for sequence, draft in zip(self.running, self._drafters, strict=True)
        ]
        width = 1 + max(map(len, drafts))
        fed = [
            [sequence.tokens[-1], *draft, *[0] * (width - 1 - len(draft))]
            for sequence, draft in zip(self.running, drafts, strict=True)
        ]
        cache = self._running_cache
        # Draft tokens that were not accepted are forgotten.
        cache.lengths = [len(row.prompt.ids) + len(row.tokens) - 1 for row in self.running]
        forward = self.step_function if width == 1 else self.model
        logits = forward(torch.tensor(fed).to(cache.keys[0].device), cache)
        return self.running, logits, drafts

    def _sample(
        self, rows: Sequence[RunningSequence], logits: Tensor, drafts: Sequence[Sequence[int]]
    ) -> list[Piece]:
        """Samples the next token of each sequence and delivers its text; and one more for as long
        as the token sampled is the sequence's next draft token."""
        delivered: list[Piece] = []
        active = [number for number, row in enumerate(rows) if not row.finish_reason]
        for position in range(logits.shape[1]):
            sampled = sample_rows([rows[number] for number in active], logits[active, position])
            accepted = []
            for number, (token, logprob) in zip(active, sampled, strict=True):
                delivered.append((rows[number], rows[number].append(token, logprob)))
                if not rows[number].finish_reason and [token] == drafts[number][position:][:1]:
                    accepted.append(number)
            active = accepted
        return delivered

    def _retire(self) -> None:
        """Lets the last sequences take the rows of those that have ended."""
        for row in reversed(range(len(self.running))):
            if self.running[row].finish_reason:
                last, drafter = self.running.pop(), self._drafters.pop()
                if row < len(self.running):
                    length = len(last.prompt.ids) + len(last.tokens) - 1
                    self.cache.copy_row(len(self.running), row, length)
                    self.running[row], self._drafters[row] = last, drafter
        if len(self._running_cache.lengths) != len(self.running):
            self._running_cache = self.cache.rows(0, len(self.running))


def sample_rows(rows: Sequence[RunningSequence], logits: Tensor) -> list[tuple[int, float]]:
    """The next token of each sequence by its logits (rows, vocab_size), and the token's
    log-probability in nats, 0 if none wants it.

    Raises:
        CheckpointError: the model's logits are not finite.
    """
    if not rows:
        return []
    tokens = torch.stack([row.sample(scores) for row, scores in zip(rows, logits, strict=True)])
    logprobs = torch.zeros(len(rows))
    if any(row.options.logprobs for row in rows):
        logprobs = logprobs_of(logits, tokens)
    for row, largest in zip(rows, logits.amax(-1).tolist(), strict=True):
        if not math.isfinite(largest):
            raise CheckpointError(
                f"the model's logits are not finite after {len(row.prompt.ids)} tokens of the "
                f"prompt and {len(row.tokens)} new ones; its weights are damaged, or overflow in "
                "this dtype: check the files, or choose bfloat16 or float32"
            )
    return list(zip(tokens.tolist(), logprobs.tolist(), strict=True))
