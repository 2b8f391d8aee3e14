"""A prompt and its options, the completion that comes back, and when it ends."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor

from codellama.errors import RequestError
from codellama.inference.sampling import sample
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
        seed: the same one gives the same text whatever else is in the batch; without, each differs.
        stop: a string that ends the text and is not part of it; may be given several times.
        logprobs: also return each token's log-probability in nats, before temperature and top_p.
        echo: let text, tokens and logprobs begin with the prompt's.
        batch_size: sequences that run through the model together.
        num_samples: completions of each prompt; with a seed, the n-th has seed + n, from n = 0.
        heal: for prompts that end inside a word: remove the prompt's last token; the first new one
            has to begin with the removed text (token healing).
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
        for name, (kind, least, most, expected) in _RANGES.items():
            value = getattr(self, name)
            if name == "seed" and value is None:
                continue
            if not isinstance(value, kind) or not least <= value <= most:
                raise RequestError(f"{name} is {value!r}; expected {expected}")
        texts = self.stop if isinstance(self.stop, Sequence) else [None]
        if not all(isinstance(text, str) and text for text in texts):
            raise RequestError(f"stop is {self.stop!r}; expected strings that are not empty")


_RANGES: dict[str, tuple[Any, float, float, str]] = {
    "max_new_tokens": (Integral, 0, math.inf, "a whole number from 0"),
    "temperature": (Real, 0, sys.float_info.max, "0 or more"),
    "top_p": (Real, sys.float_info.min, 1, "above 0 and at most 1"),
    "top_k": (Integral, 0, math.inf, "a whole number from 0"),
    "seed": (int, -(2**63), 2**64 - 1, "a whole number of 64 bits"),
    "batch_size": (Integral, 1, math.inf, "a whole number from 1"),
    "num_samples": (Integral, 1, math.inf, "a whole number from 1"),
    "speculate": (Integral, 0, math.inf, "a whole number from 0"),
}


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
        kind: a gap's completion never begins with the prompt (`echo`); a dialog cannot be healed.
    """

    ids: list[int]
    stop_ids: frozenset[int]
    continuation: bool
    kind: Literal["text", "gap", "dialog"] = "text"


class RunningSequence:
    """A prompt and what has been generated after it; the one place that decides when it ends.

    Args:
        budget: tokens that may be generated: `max_new_tokens`, or fewer if the context ends before.
        device: where sampling draws its random numbers.

    Attributes:
        tokens, logprobs: as in `Completion`, of the generated tokens.
        prompt_logprobs: of the prompt's tokens; prefill adds them if `wants_prompt_logprobs`.
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
        self._text = tokenizer.decode(prompt.ids) if options.echo else ""
        self._healing_ids: list[int] = []
        healed = b""  # what was taken back of the prompt; the first new token begins with it
        if options.heal and budget and len(prompt.ids) > 1:
            healed = tokenizer.bytes_of[prompt.ids[-1]]
        if healed:
            self.prompt = replace(prompt, ids=prompt.ids[:-1])
            self._healing_ids = tokenizer.starting_with(healed)
        self.budget = budget
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.prompt_logprobs = [0.0]
        self.finish_reason: FinishReason | None = None
        self.generator = torch.Generator(device)
        own = self.generator.seed()
        self.generator.manual_seed(own if options.seed is None else options.seed)
        self._decoder = IncrementalDecoder(tokenizer, prompt.continuation, len(healed))
        self._held_back = ""  # may turn out to be the beginning of a stop string

    @property
    def wants_prompt_logprobs(self) -> bool:
        """Whether the log-probabilities of the prompt's own tokens are to be computed."""
        return self.options.logprobs and self.options.echo

    def begin(self) -> str:
        """Returns the echoed text; ends a sequence that may not generate or read anything."""
        if self.budget == 0 and not self.wants_prompt_logprobs:
            self.finish_reason = "length"
        return self._text

    def prompt_read(self) -> None:
        """Is called after prefill; where no token may be generated, the sequence then ends."""
        if self.budget == 0:
            self.finish_reason = "length"

    def accept(self, token: int, logprob: float = 0.0) -> str:
        """Adds the next token; returns the text that is certain now and was not before."""
        if token in self.prompt.stop_ids:
            return self._finish("stop")
        self.tokens.append(token)
        self.logprobs.append(logprob)
        text = self._release(self._decoder.push(token))
        if self.finish_reason is None and len(self.tokens) == self.budget:
            text += self._finish("length")
        return text

    def draw(self, logits: Tensor) -> Tensor:
        """The next token (), by its logits (vocab_size)."""
        if self._healing_ids and not self.tokens:  # others may not come first
            ids = torch.tensor(self._healing_ids, device=logits.device)
            logits = torch.full_like(logits, -torch.inf).index_copy(0, ids, logits[ids])
        how = self.options
        return sample(logits, how.temperature, how.top_k, how.top_p, generator=self.generator)

    def completion(self) -> Completion:
        """The result, once the sequence has ended."""
        if self.finish_reason is None:
            raise RuntimeError("the sequence has not ended yet")
        tokens, logprobs = self.tokens, self.logprobs
        if self.options.echo:
            tokens, logprobs = self.prompt.ids + tokens, self.prompt_logprobs + logprobs
        asked = logprobs if self.options.logprobs else None
        return Completion(self._text, tokens, asked, self.finish_reason)

    def _finish(self, reason: FinishReason) -> str:
        self.finish_reason = reason
        text = self._release(self._decoder.flush())
        rest, self._held_back = self._held_back, ""
        self._text += rest
        return text + rest

    def _release(self, text: str) -> str:
        """Adds `text`; returns what is certain: no stop string, and no beginning of one."""
        pending, stops = self._held_back + text, self.options.stop
        found = [at for stop in stops if (at := pending.find(stop)) >= 0]
        if found:
            self.finish_reason = "stop"
            certain, self._held_back = min(found), ""
        else:
            beginnings = (stop[:length] for stop in stops for length in range(1, len(stop)))
            self._held_back = max(filter(pending.endswith, beginnings), key=len, default="")
            certain = len(pending) - len(self._held_back)
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
