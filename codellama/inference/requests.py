"""A prompt and its options, the completion that comes back, and when it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Literal

import torch
from torch import Tensor

from codellama.errors import RequestError
from codellama.text.tokenizer import IncrementalDecoder, Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Options:
    """How to continue a prompt.

    Args:
        max_new_tokens: tokens to generate at most; 0 only reads the prompt.
        temperature: 0 always takes the most likely token; 1 samples from the model's distribution.
        top_p: sample from the most likely tokens that together have this probability (nucleus).
        top_k: sample from this many of the most likely tokens; 0: from all.
        seed: the same seed gives the same text, whatever else is in the batch. Without it, another
            text each time.
        stop: a string that ends the text and is not part of it; may be given several times.
        logprobs: also return the log-probability, in nats, that the model's own distribution (at
            temperature 1) gives to each token.
        echo: let text, tokens and logprobs begin with the prompt's.
        batch_size: sequences that run through the model together.
        num_samples: completions of each prompt; with a seed, each has the next one.
        heal: for prompts that end inside a word: take back the prompt's last token, and let the
            first new one be any that begins with it (token healing).
        speculate: draft tokens to verify in one pass; changes the speed, not the text. They are
            looked up in the text so far, or come from a draft model.

    Raises:
        RequestError: a value is out of its range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 0.95
    top_k: int = 0
    seed: int | None = None
    stop: Sequence[str] = ()
    logprobs: bool = False
    echo: bool = False
    batch_size: int = 8
    num_samples: int = 1
    heal: bool = False
    speculate: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        whole = {"max_new_tokens": 0, "top_k": 0, "batch_size": 1, "num_samples": 1, "speculate": 0}
        for name, least in whole.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise RequestError(f"{name} is {value!r}; expected a whole number from {least}")
        for name, valid, range_ in (
            ("temperature", _is_within(self.temperature, 0, sys.float_info.max), "0 or more"),
            ("top_p", _is_within(self.top_p, sys.float_info.min, 1), "above 0 and at most 1"),
            ("seed", self.seed is None or _is_seed(self.seed), "a whole number of 64 bits"),
            ("stop", _are_texts(self.stop), "strings that are not empty"),
        ):
            if not valid:
                raise RequestError(f"{name} is {getattr(self, name)!r}; expected {range_}")


def _is_within(value: object, least: float, most: float) -> bool:
    return isinstance(value, Real) and least <= float(value) <= most


def _are_texts(stop: object) -> bool:
    return isinstance(stop, Sequence) and all(isinstance(text, str) and text for text in stop)


def _is_seed(seed: object) -> bool:
    return isinstance(seed, int) and -(2**63) <= seed < 2**64


@dataclass
class Completion:
    """What the model made of one prompt.

    Attributes:
        text: what it wrote, up to a stop string.
        tokens: the ids it chose, without the id that stopped it; a stop string's are among them.
        logprobs: for each of `tokens` its log-probability in nats, if asked for. A prompt's first
            token, which nothing predicts, has 0.
        finish_reason: "stop" at a stop id or string, "length" at max_new_tokens or at the end of
            the context.
    """

    text: str
    tokens: list[int]
    logprobs: list[float] | None
    finish_reason: FinishReason


@dataclass(frozen=True)
class Prompt:
    """Token ids for the model to go on from.

    Attributes:
        ids: at least one.
        stop_ids: ids that end what follows.
        continuation: what follows goes on from the prompt's text, so that a leading space is part
            of it; otherwise it begins a text of its own.
    """

    ids: list[int]
    stop_ids: frozenset[int]
    continuation: bool


class RunningSequence:
    """A prompt on its way to a completion: the one place that decides when it ends.

    Args:
        budget: tokens that may be generated: `max_new_tokens`, or fewer if the context ends before.
        device: where sampling draws its random numbers.

    Attributes:
        tokens, logprobs: as in `Completion`, of the generated tokens.
        prompt_logprobs: of the prompt's tokens; the caller fills it in if `wants_prompt_logprobs`.
        finish_reason: None as long as the sequence runs.
    """

    def __init__(
        self,
        prompt: Prompt,
        options: Options,
        tokenizer: Tokenizer,
        budget: int,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.prompt = prompt
        self.options = options
        healed = b""  # what was taken back of the prompt; the first new token begins with it
        self._healing_ids: list[int] = []
        self._text = tokenizer.decode(prompt.ids) if options.echo else ""
        if options.heal and budget and len(prompt.ids) > 1:
            healed = tokenizer.bytes_of(prompt.ids[-1])
        if healed:
            self.prompt = replace(prompt, ids=prompt.ids[:-1])
            self._healing_ids = tokenizer.starting_with(healed)
        self.budget = budget
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.prompt_logprobs = [0.0]
        self.finish_reason: FinishReason | None = None
        self.generator = torch.Generator(device)
        if options.seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(options.seed)
        self._decoder = IncrementalDecoder(tokenizer, prompt.continuation, len(healed))
        self._held_back = ""  # may turn out to be the beginning of a stop string

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the log-probabilities of the prompt's own tokens are to be computed."""
        return self.options.logprobs and self.options.echo

    def begin(self) -> str:
        """The text that is certain before any token has come."""
        if self.budget == 0 and not self.wants_prompt_logprobs:
            self.finish_reason = "length"
        return self._text

    def prompt_read(self) -> None:
        """Takes note that the model has read the prompt; that is all where nothing may be added."""
        if self.budget == 0:
            self.finish_reason = "length"

    def accept(self, token: int, logprob: float = 0.0) -> str:
        """Takes the next token and returns the text that has become certain by it."""
        if token in self.prompt.stop_ids:
            return self._finish("stop")
        self.tokens.append(token)
        self.logprobs.append(logprob)
        text = self._release(self._decoder.push(token))
        if self.finish_reason is None and len(self.tokens) == self.budget:
            text += self._finish("length")
        return text

    def allowed(self, logits: Tensor) -> Tensor:
        """The scores (vocab_size) of the next token, -inf for those that it may not be."""
        if not self._healing_ids or self.tokens:
            return logits
        ids = torch.tensor(self._healing_ids, device=logits.device)
        return torch.full_like(logits, -torch.inf).index_copy(0, ids, logits[ids])

    def completion(self) -> Completion:
        """The result, once the sequence has ended."""
        if self.finish_reason is None:
            raise RuntimeError("the sequence has not ended yet")
        echo = self.options.echo
        return Completion(
            text=self._text,
            tokens=(self.prompt.ids if echo else []) + self.tokens,
            logprobs=(self.prompt_logprobs if echo else []) + self.logprobs
            if self.options.logprobs
            else None,
            finish_reason=self.finish_reason,
        )

    def _finish(self, reason: FinishReason) -> str:
        self.finish_reason = reason
        text = self._release(self._decoder.flush())
        rest, self._held_back = self._held_back, ""
        self._text += rest
        return text + rest

    def _release(self, text: str) -> str:
        """Adds `text` and returns what no stop string can take back any more."""
        pending = self._held_back + text
        found = [at for stop in self.options.stop if (at := pending.find(stop)) >= 0]
        if found:
            self.finish_reason = "stop"
            certain, self._held_back = min(found), ""
        else:
            certain = len(pending) - max(
                (_overlap(pending, stop) for stop in self.options.stop), default=0
            )
            self._held_back = pending[certain:]
        self._text += pending[:certain]
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


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((length for length in lengths if text.endswith(stop[:length])), 0)
