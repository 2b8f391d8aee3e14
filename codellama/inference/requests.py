"""A prompt and its options, the completion that comes back, and when it ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from codellama.errors import RequestError, check_fields, number
from codellama.inference.sampling import (
    LogitsProcessor,
    repetition_penalty,
    sample,
    token_healing,
)
from codellama.text.tokenizer import IncrementalDecoder, Tokenizer

FinishReason = Literal["stop", "length"]

Drafter = Callable[[Sequence[int], int], list[int]]
"""Proposes up to so many draft tokens that may follow the ids of one sequence; each call's ids
extend those before."""


@dataclass(frozen=True)
class Options:
    """How to continue a prompt.

    Args:
        max_new_tokens: tokens to generate at most; 0 only reads the prompt.
        temperature: 0 always takes the most likely token; 1 samples from the model's distribution.
        top_p: sample from the most likely tokens that together have this probability (nucleus).
        top_k: sample from this many of the most likely tokens; 0: from all.
        repetition_penalty: above 1 makes tokens that the completion already has less likely. Code
            has to repeat itself, so use this only against endless loops, starting at 1.05.
        seed: makes sampling repeatable; a prompt's text does not depend on the rest of the batch.
            Without a seed, every run differs.
        stop: a text that ends the completion and is not part of it, or several of them.
        logprobs: also return each token's log-probability in nats, before temperature and top_p.
        echo: return the prompt's text, tokens and logprobs before the completion's.
        batch_size: sequences that run through the model together.
        num_samples: completions of each prompt; with a seed, the n-th has seed + n, from n = 0.
        heal: for prompts that end inside a word or an indentation: take the prompt's last token
            back, and let the new tokens spell its text first (token healing).
        speculate: draft tokens to verify in one pass; in float32 this changes only the speed. They
            are looked up in the text so far, or come from a draft model.

    Raises:
        RequestError: a value is out of its range.
    """

    max_new_tokens: int = number(256, least=0)
    temperature: float = number(0.0, least=0)
    top_p: float = number(0.95, above=0, most=1)
    top_k: int = number(0, least=0)
    repetition_penalty: float = number(1.0, above=0)
    seed: int | None = number(None, least=-(2**63), most=2**64 - 1)
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    echo: bool = False
    batch_size: int = number(8, least=1)
    num_samples: int = number(1, least=1)
    heal: bool = False
    speculate: int = number(0, least=0)
    sampling: ClassVar[tuple[str, ...]] = ("num_samples", "top_p", "top_k", "seed")

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        check_fields(self)
        if "" in self.stop:
            raise RequestError("stop is an empty text; expected one of at least a character")
        kind = type(self)
        idle = [name for name in self.sampling if getattr(self, name) != getattr(kind, name)]
        if idle and self.temperature == 0:
            warnings.warn(
                f"{', '.join(idle)} without effect: at temperature 0 nothing is sampled; give a "
                "temperature as well",
                stacklevel=3,
            )


def check_length(ids: Sequence[int], context: int, place: str = "") -> None:
    """Raises RequestError for a prompt of more tokens than the model's context."""
    if len(ids) > context:
        raise RequestError(
            f"{place}the prompt has {len(ids):,} tokens, but the model's context holds "
            f"{context:,}; shorten the prompt"
        )


@dataclass
class Completion:
    """What the model made of one prompt.

    Attributes:
        text: the new text, up to a stop string; with `echo`, after the prompt's.
        tokens: the ids likewise, with those of a stop string, without a stop id.
        logprobs: log-probabilities of `tokens` in nats, if asked for; 0 for a prompt's first one.
        finish_reason: "stop" at a stop id or string, "length" at max_new_tokens or a full context.
    """

    text: str
    tokens: list[int]
    logprobs: list[float] | None
    finish_reason: FinishReason


@dataclass(frozen=True)
class Prompt:
    """Token ids for the model to continue.

    Attributes:
        ids: at least one.
        stop_ids: ids that end the completion.
        continuation: the completion continues the prompt's text, so that a leading space is part of
            it; otherwise it begins a text of its own.
        kind: `echo` is for completions, chats included; a chat cannot be healed.
    """

    ids: list[int]
    stop_ids: frozenset[int]
    continuation: bool
    kind: Literal["completion", "infill", "chat"] = "completion"


class RunningSequence:
    """A prompt and what has been generated after it; the one place that decides when it ends.

    Args:
        budget: tokens that may be generated: `max_new_tokens`, or fewer if the context ends before.
        drafter: is asked for draft tokens where `Options.speculate` says so.
        device: where sampling draws its random numbers.

    Attributes:
        text: so far, up to where it is certain; begins with the prompt's if that is echoed.
        tokens, logprobs: as in `Completion`, of the generated tokens.
        prompt_logprobs: of the prompt's tokens; prefill adds them if `wants_prompt_logprobs`.
        finish_reason: None as long as the sequence has to run.
    """

    def __init__(
        self,
        prompt: Prompt,
        options: Options,
        tokenizer: Tokenizer,
        budget: int,
        *,
        drafter: Drafter | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.prompt = prompt
        self.options = options
        self.budget = budget
        self.text = tokenizer.decode(prompt.ids) if options.echo else ""
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.prompt_logprobs = [0.0]
        # Without a budget the prompt is run for its log-probabilities alone.
        runs = budget > 0 or self.wants_prompt_logprobs
        self.finish_reason: FinishReason | None = None if runs else "length"
        self.generator = torch.Generator(device)
        own = self.generator.seed()
        self.generator.manual_seed(own if options.seed is None else options.seed)
        self._processors: list[LogitsProcessor] = []
        removed = b""
        if options.heal and budget and len(prompt.ids) > 1:
            ids, removed, process = token_healing(tokenizer, prompt.ids)
            self.prompt = replace(prompt, ids=ids)
            self._processors.append(process)
        if options.repetition_penalty != 1:
            self._processors.append(repetition_penalty(options.repetition_penalty))
        self._drafter = drafter
        self._vocab_size = tokenizer.vocab_size
        self._decoder = IncrementalDecoder(tokenizer, prompt.continuation, skip=len(removed))
        self._pending = ""  # may turn out to be the beginning of a stop string

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the log-probabilities of the prompt's own tokens are to be computed."""
        return self.options.logprobs and self.options.echo

    @property
    def capacity(self) -> int:
        """Positions that the sequence needs in a KV cache; draft tokens may reach past its last."""
        drafts = min(self.options.speculate, self.budget)
        return len(self.prompt.ids) + self.budget + drafts

    @property
    def cached_tokens(self) -> int:
        """Tokens that have been run before the newest one."""
        return len(self.prompt.ids) + len(self.tokens) - 1

    def draft(self) -> list[int]:
        """Tokens that may come next, to be verified together."""
        count = min(self.options.speculate, self.budget - len(self.tokens) - 1)
        return (
            self._drafter(self.prompt.ids + self.tokens, count) if self._drafter and count else []
        )

    def sample(self, logits: Tensor) -> Tensor:
        """The next token (), by its logits (vocab_size); never one that the tokenizer lacks."""
        logits = logits[: self._vocab_size]
        for process in self._processors:
            logits = process(logits, self.tokens)
        how = self.options
        return sample(logits, how.temperature, how.top_k, how.top_p, generator=self.generator)

    def append(self, token: int, logprob: float = 0.0) -> str:
        """Adds the next token; returns the text that is certain now and was not before."""
        if self.budget == 0:
            return self._finish("length")
        if token in self.prompt.stop_ids:
            return self._finish("stop")
        self.tokens.append(token)
        self.logprobs.append(logprob)
        text = self._release(self._decoder.push(token))
        if self.finish_reason is None and len(self.tokens) == self.budget:
            text += self._finish("length")
        return text

    def completion(self) -> Completion:
        """The result, once the sequence has ended."""
        if self.finish_reason is None:
            raise RuntimeError("the sequence has not ended yet")
        tokens, logprobs = self.tokens, self.logprobs
        if self.options.echo:
            tokens, logprobs = self.prompt.ids + tokens, self.prompt_logprobs + logprobs
        asked = logprobs if self.options.logprobs else None
        return Completion(self.text, tokens, asked, self.finish_reason)

    def _finish(self, reason: FinishReason) -> str:
        self.finish_reason = reason
        text = self._release(self._decoder.flush())
        rest, self._pending = self._pending, ""
        self.text += rest
        return text + rest

    def _release(self, text: str) -> str:
        """Adds `text`; returns what is certain: no stop string, and no beginning of one."""
        pending, stops = self._pending + text, self.options.stop
        found = [at for stop in stops if (at := pending.find(stop)) >= 0]
        if found:
            self.finish_reason = "stop"
            certain, self._pending = min(found), ""
        else:
            beginnings = (stop[:length] for stop in stops for length in range(1, len(stop)))
            self._pending = max(filter(pending.endswith, beginnings), key=len, default="")
            certain = len(pending) - len(self._pending)
        self.text += pending[:certain]
        return pending[:certain]


class CompletionStream(Iterator[str]):
    """Pieces of text as they become certain; they add up to `completion.text`."""

    def __init__(self, sequence: RunningSequence, pieces: Iterator[str]) -> None:
        self._sequence = sequence
        self._pieces = pieces

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def completion(self) -> Completion:
        """The whole result; a RuntimeError before the stream has ended."""
        return self._sequence.completion()
