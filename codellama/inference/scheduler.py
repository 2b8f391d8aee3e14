"""Continuous batching: the loop of `generation` for many sequences that come and go.

A waiting sequence takes the place of one that ends (Yu et al. 2022, "Orca"). What a sequence gets
does not depend on the others: it is what `generate_tokens` yields for its prompt alone.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from codellama.errors import CheckpointError
from codellama.inference.prefill import logprobs_of, prefill
from codellama.inference.requests import RunningSequence
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
        timing: Timing | None = None,
        cache: KVCache | None = None,
    ) -> None:
        self.model = model
        self.waiting = deque(sequences)
        self.batch_size = batch_size
        self.step_function = step_function or model
        self.timing = timing or Timing()
        self.running: list[RunningSequence] = []
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
        """Schedules, runs, samples and delivers: the prefill of those that join, or else the next
        token of all that run."""
        joining = self._schedule()
        echoed = [(sequence, sequence.text) for sequence in joining]
        joining = [sequence for sequence in joining if not sequence.finish_reason]
        started, delivered = time.perf_counter(), list[Piece]()
        if joining:
            rows, logits = self._prefill(joining)
            delivered = self._sample(rows, logits, [()] * len(rows))
            self.timing.prefill_seconds += time.perf_counter() - started
        elif self.running:
            drafts = [sequence.draft() for sequence in self.running]
            delivered = self._sample(self.running, self._decode(drafts), drafts)
            self.timing.decode_seconds += time.perf_counter() - started
            self.timing.decoded_tokens += len(delivered)
        self._retire()
        return echoed + delivered

    def _schedule(self) -> list[RunningSequence]:
        """The waiting sequences that join now."""
        free = self.batch_size - len(self.running)
        if self.running and free < REFILL_SHARE * self.batch_size:
            return []
        return [self.waiting.popleft() for _ in range(min(free, len(self.waiting)))]

    def _prefill(
        self, joining: Sequence[RunningSequence]
    ) -> tuple[Sequence[RunningSequence], Tensor]:
        """Runs prompts into the cache's next rows; the sequence in each row, and the logits (rows,
        1, vocab_size) after its prompt."""
        start, end = len(self.running), len(self.running) + len(joining)
        rows, logits, tokens = prefill(self.model, joining, self.cache.rows(start, end))
        self.timing.prompt_tokens += tokens
        self.running += rows
        self._running_cache = self.cache.rows(0, end)
        return rows, logits[:, None]

    def _decode(self, drafts: Sequence[Sequence[int]]) -> Tensor:
        """Runs the newest token of each sequence, followed by its draft tokens; the logits (rows,
        1 + drafts, vocab_size) after each."""
        width = 1 + max(map(len, drafts))
        fed = [
            [sequence.tokens[-1], *draft, *[0] * (width - 1 - len(draft))]
            for sequence, draft in zip(self.running, drafts, strict=True)
        ]
        cache = self._running_cache
        # Draft tokens that were not accepted are forgotten.
        cache.lengths = [sequence.cached_tokens for sequence in self.running]
        forward = self.step_function if width == 1 else self.model
        return forward(torch.tensor(fed).to(cache.keys[0].device), cache)

    def _sample(
        self, rows: Sequence[RunningSequence], logits: Tensor, drafts: Sequence[Sequence[int]]
    ) -> list[Piece]:
        """Samples the next token of each sequence and delivers its text; and one more for as long
        as the token sampled is the sequence's next draft token."""
        delivered: list[Piece] = []
        active = [*range(len(rows))]
        for position in range(logits.shape[1]):
            sampled = sample_rows([rows[row] for row in active], logits[active, position])
            accepted = []
            for row, (token, logprob) in zip(active, sampled, strict=True):
                delivered.append((rows[row], rows[row].append(token, logprob)))
                if not rows[row].finish_reason and [token] == drafts[row][position:][:1]:
                    accepted.append(row)
            active = accepted
        return delivered

    def _retire(self) -> None:
        """Lets the last sequences take the rows of those that have ended."""
        for row in reversed(range(len(self.running))):
            if self.running[row].finish_reason:
                last = self.running.pop()
                if row < len(self.running):
                    self.cache.copy_row(len(self.running), row, last.cached_tokens)
                    self.running[row] = last
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
