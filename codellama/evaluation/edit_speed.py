"""How much faster an edit is written with drafts: source code again, with a name changed.

A model that can edit is made of any other by dictation: it computes all its scores, then only the
text's next token is allowed. Text and drafts, and so the share of drafts that is kept, are those of
a perfect editor; the time is the model's own.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from codellama.inference.decoding import Decoder
from codellama.inference.generation import CodeLlama
from codellama.inference.requests import Options, Prompt, RunningSequence
from codellama.inference.speculative import PromptLookup
from codellama.model.attention import Attention
from codellama.text.tokenizer import Tokenizer

OLD_NAME, NEW_NAME = "keys", "past_keys"


@dataclass(frozen=True)
class EditSpeed:
    """Tokens of an edit written a second.

    Attributes:
        plain: a token a pass.
        speculative: with drafts looked up in the prompt.
    """

    plain: float
    speculative: float


class Dictation(RunningSequence):
    """A sequence that goes on with a given text, whatever the model thinks of it."""

    def __init__(
        self, prompt: list[int], text: list[int], options: Options, tokenizer: Tokenizer
    ) -> None:
        super().__init__(Prompt(prompt, frozenset(), True), options, tokenizer, len(text))
        self._dictated = text

    def allowed(self, logits: Tensor) -> Tensor:
        """The scores (vocab_size), -inf but for the text's next token."""
        allowed = torch.full_like(logits, -torch.inf)
        allowed[self._dictated[len(self.tokens)]] = 0
        return allowed


def edit_speed(llm: CodeLlama, speculate: int, most: int = 512) -> EditSpeed:
    """Times an edit of this package's `Attention`, once without and once with drafts.

    Args:
        speculate: tokens to guess at a time.
        most: tokens to write at most.
    """
    source = inspect.getsource(Attention)
    tokenizer = llm.tokenizer
    prompt = tokenizer.encode(f"{source}\n\n# The same with a better name:\n", bos=True)
    text = tokenizer.encode_continuation(re.sub(rf"\b{OLD_NAME}\b", NEW_NAME, source))[:most]

    def speed(drafts: int) -> float:
        decoder = Decoder(llm.model, PromptLookup)
        sequence = Dictation(prompt, text, Options(speculate=drafts), tokenizer)
        for _ in decoder.run([sequence], batch_size=1):
            pass
        return decoder.timing.decoded_tokens / decoder.timing.decode_seconds

    return EditSpeed(speed(0), speed(speculate))
