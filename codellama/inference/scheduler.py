"""Decoding: after the prefill of a batch, each step adds a token to every row.

Batching is continuous (Yu et al. 2022, "Orca"): a waiting prompt takes the place of one that ends.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from codellama.errors import CheckpointError
from codellama.inference.cache_rows import join_rows, keep_rows
from codellama.inference.prefill import PrefixCache, logprobs_of, prefill
from codellama.inference.requests import RunningSequence
from codellama.inference.speculative import Drafter, PromptLookup
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

REFILL_SHARE = 1 / 4
"""Waiting prompts join once a quarter of the batch is free, so that their prefill is shared."""


@dataclass
class Timing:
    """Tokens and seconds spent in the model, added up."""

    prompt_tokens: int = 0
    prefill_seconds: float = 0.0
    decoded_tokens: int = 0
    decode_seconds: float = 0.0


class Steps:
    """Runs passes over one token a row; these are plain calls of the model.

    Attributes:
        steps_per_sync: steps after which the host looks at the tokens, unless they are streamed.
    """

    steps_per_sync = 1

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def cache_for(self, cache: KVCache, count: int) -> AbstractContextManager[KVCache]:
        """The cache to use in the next `count` steps; `cache` then holds their tokens, too."""
        return nullcontext(cache)

    def __call__(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Tokens (batch, 1) -> float32 logits (batch, 1, vocab_size)."""
        return self.model(tokens, cache)


class Decoder:
    """Runs sequences through a model, each to its own end.

    Attributes:
        steps: runs the passes without draft tokens.
        new_drafter: makes a row's drafter, which is asked where `Options.speculate` says so.
        timing: what all runs so far have spent in the model.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.steps = Steps(model)
        self.new_drafter: Callable[[], Drafter] = PromptLookup
        self.timing = Timing()

    def run(
        self,
        sequences: Iterable[RunningSequence],
        *,
        batch_size: int = 8,
        steps_per_sync: int = 1,
        prefix: PrefixCache | None = None,
    ) -> Iterator[tuple[RunningSequence, str]]:
        """Runs up to `batch_size` sequences together; none of them changes what another gets.

        Args:
            steps_per_sync: as in `Steps`; tokens after a row's end are discarded.
            prefix: the cache that a single sequence may continue; holds its tokens afterwards.

        Yields:
            A sequence and the next piece of its text.
        """
        waiting = deque(sequences)
        batch = _Batch(self, steps_per_sync, prefix)
        while waiting or batch.rows:
            free = batch_size - len(batch.rows)
            if waiting and (not batch.rows or free >= REFILL_SHARE * batch_size):
                newcomers = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                yield from ((sequence, sequence.begin()) for sequence in newcomers)
                yield from batch.admit(newcomers)
            else:
                yield from batch.step()


class _Batch:
    """Sequences that run together, with a cache that holds a row for each."""

    def __init__(self, decoder: Decoder, steps_per_sync: int, prefix: PrefixCache | None) -> None:
        self.decoder = decoder
        self.steps_per_sync = steps_per_sync
        self.prefix = prefix
        self.rows: list[RunningSequence] = []
        self.drafters: list[Drafter] = []
        self.cache: KVCache

    def admit(self, sequences: Sequence[RunningSequence]) -> Iterator[tuple[RunningSequence, str]]:
        """Runs the prompts of more sequences, and chooses the first new token of each."""
        unread = [sequence for sequence in sequences if not sequence.finish_reason]
        if not unread:
            return
        started = time.perf_counter()
        model, timing = self.decoder.model, self.decoder.timing
        read = self.prefix.prefill(model, unread[0]) if self.prefix else prefill(model, unread)
        for row in unread:
            row.prompt_read()
        timing.prompt_tokens += read.tokens
        texts = self._accept(unread, read.logits[:, None], [()] * len(unread))
        timing.prefill_seconds += time.perf_counter() - started
        if self.rows:
            join_rows(self.cache, read.cache)
        else:
            self.cache = read.cache
        self.rows += unread
        self.drafters += [self.decoder.new_drafter() for _ in unread]
        self._drop_finished()
        yield from texts

    @torch.no_grad()
    def step(self) -> Iterator[tuple[RunningSequence, str]]:
        """Adds a token to each row, or several."""
        started = time.perf_counter()
        drafts = [_draft(row, by) for row, by in zip(self.rows, self.drafters, strict=True)]
        texts = self._verify(drafts) if any(drafts) else self._extend()
        self._drop_finished()
        self.decoder.timing.decoded_tokens += len(texts)
        self.decoder.timing.decode_seconds += time.perf_counter() - started
        yield from texts

    def _verify(self, drafts: Sequence[Sequence[int]]) -> list[tuple[RunningSequence, str]]:
        """Runs each row's newest token and its draft tokens in one pass."""
        width = 1 + max(map(len, drafts))
        fed = [
            [row.tokens[-1], *draft] + [0] * (width - 1 - len(draft))
            for row, draft in zip(self.rows, drafts, strict=True)
        ]
        logits = self.decoder.model(self._on_device(fed), self.cache)
        texts = self._accept(self.rows, logits, drafts)
        # Draft tokens that were not accepted are forgotten; the last token chosen is fed next.
        self.cache.lengths = [len(row.prompt.ids) + len(row.tokens) - 1 for row in self.rows]
        return texts

    def _extend(self) -> list[tuple[RunningSequence, str]]:
        """Runs each row's newest token, then the token chosen after it, `steps_per_sync` times."""
        count = min(self.steps_per_sync, *(row.budget - len(row.tokens) for row in self.rows))
        tokens = self._on_device([row.tokens[-1] for row in self.rows])
        steps, chosen = self.decoder.steps, []
        with steps.cache_for(self.cache, count) as cache:
            for _ in range(count):
                chosen.append(_Chosen(self.rows, steps(tokens[:, None], cache)[:, 0]))
                tokens = chosen[-1].tokens
        return [
            (row, row.accept(*pair))
            for choice in chosen
            for row, pair in zip(self.rows, choice.pairs(), strict=True)
            if not row.finish_reason
        ]

    def _accept(
        self, rows: Sequence[RunningSequence], logits: Tensor, drafts: Sequence[Sequence[int]]
    ) -> list[tuple[RunningSequence, str]]:
        """Chooses the next token of each row by its logits (rows, width, vocab_size), and one more
        for as long as the token chosen is the row's next draft token."""
        texts: list[tuple[RunningSequence, str]] = []
        active = [number for number, row in enumerate(rows) if not row.finish_reason]
        for place in range(logits.shape[1]):
            if not active:
                break
            chosen = _Chosen([rows[number] for number in active], logits[active, place]).pairs()
            pairs, active = zip(active, chosen, strict=True), []
            for number, (token, logprob) in pairs:
                texts.append((rows[number], rows[number].accept(token, logprob)))
                if not rows[number].finish_reason and token in drafts[number][place : place + 1]:
                    active.append(number)
        return texts

    def _drop_finished(self) -> None:
        running = [number for number, row in enumerate(self.rows) if not row.finish_reason]
        if self.prefix is not None and not running:
            [row] = self.rows
            ids = row.prompt.ids + row.tokens
            self.prefix.last[:] = [(ids[: self.cache.longest], self.cache)]
        if running and len(running) < len(self.rows):
            keep_rows(self.cache, running)
        self.rows = [self.rows[number] for number in running]
        self.drafters = [self.drafters[number] for number in running]

    def _on_device(self, numbers: Sequence[object]) -> Tensor:
        return torch.tensor(numbers).to(self.cache.keys[0].device)


def _draft(row: RunningSequence, drafter: Drafter) -> list[int]:
    count = min(row.options.speculate, row.budget - len(row.tokens) - 1)
    return drafter(row.prompt.ids + row.tokens, count) if count > 0 else []


class _Chosen:
    """The next token of each row, drawn by its logits (rows, vocab_size)."""

    @torch.no_grad()
    def __init__(self, rows: Sequence[RunningSequence], logits: Tensor) -> None:
        drawn = [row.draw(scores) for row, scores in zip(rows, logits, strict=True)]
        self.rows = rows
        self.tokens = torch.stack(drawn)
        wanted = any(row.options.logprobs for row in rows)
        self._logprobs = logprobs_of(logits, self.tokens) if wanted else torch.zeros(len(rows))
        self._largest = logits.amax(-1)

    def pairs(self) -> list[tuple[int, float]]:
        """Each token and its log-probability in nats (0 if no row wants it); waits for the device.

        Raises:
            CheckpointError: the model's logits are not finite.
        """
        for row, largest in zip(self.rows, self._largest.tolist(), strict=True):
            if not math.isfinite(largest):
                raise CheckpointError(
                    f"the model's logits are not finite after {len(row.prompt.ids)} tokens of the "
                    f"prompt and {len(row.tokens)} new ones; its weights are damaged, or overflow "
                    "in this dtype: check the files, or choose bfloat16 or float32"
                )
        return list(zip(self.tokens.tolist(), self._logprobs.tolist(), strict=True))
