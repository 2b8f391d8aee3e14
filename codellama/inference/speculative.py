"""Speculative decoding: one pass of the model verifies several draft tokens together.

A pass over a few tokens reads the weights once, as a pass over one does, so that on most machines
it costs little more. The model chooses a token after each draft token, as it would without drafts.
A draft token is accepted if it is the token that the model has chosen. Greedy or sampled, the text
is therefore the model's own (Leviathan et al. 2022, arXiv 2211.17192, with deterministic drafts).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from codellama.inference.prefill import PREFILL_CHUNK, common_prefix
from codellama.model.transformer import Transformer

MAX_MATCH = 4


class PromptLookup:
    """A `Drafter` that proposes what followed an earlier copy of the newest tokens (Saxena 2023,
    prompt lookup decoding): good where a text repeats itself, as code that is edited does."""

    def __init__(self) -> None:
        self._read = 0
        self._ends: dict[tuple[int, ...], int] = {}  # the index after the last copy of some tokens

    def __call__(self, ids: Sequence[int], count: int) -> list[int]:
        for end in range(self._read, len(ids)):  # without the newest tokens: nothing follows them
            for size in range(1, min(MAX_MATCH, end) + 1):
                self._ends[tuple(ids[end - size : end])] = end
        self._read = len(ids)
        for size in range(min(MAX_MATCH, len(ids)), 0, -1):
            newest = tuple(ids[-size:])
            if newest in self._ends:
                return list(ids[self._ends[newest] :][:count])
        return []


class DraftModel:
    """A `Drafter` that proposes what a smaller model of the same vocabulary writes greedily."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.cache = model.new_cache()
        self._ids: list[int] = []

    @torch.no_grad()
    def __call__(self, ids: Sequence[int], count: int) -> list[int]:
        device = self.model.tok_embeddings.weight.device
        same = common_prefix(self._ids, ids)
        self.cache.lengths = [same]  # forgets drafts that were not accepted
        drafted: list[int] = []
        unread = list(ids[same:])
        while len(drafted) < count:
            for start in range(0, len(unread), PREFILL_CHUNK):
                chunk = torch.tensor([unread[start : start + PREFILL_CHUNK]], device=device)
                hidden = self.model.hidden(chunk, self.cache)
            drafted.append(int(self.model.logits(hidden[:, -1]).argmax()))
            unread = drafted[-1:]
        self._ids = [*ids, *drafted[:-1]]
        return drafted
