"""How well a model predicts text: perplexity, bits per byte, and the loss at each position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from codellama.evaluation.results import Key, Progress, Record, Results, fingerprint
from codellama.inference.generation import CodeLlama
from codellama.model.transformer import Transformer

CHUNK = 512
"""Tokens of a pass: memory holds the KV cache and one chunk's logits."""


@dataclass(frozen=True)
class Perplexity:
    """Losses added up over texts.

    Attributes:
        texts, tokens, text_bytes: how much was predicted; bytes in UTF-8.
        nats: the sum of the tokens' negative log-probabilities.
    """

    texts: int
    tokens: int
    text_bytes: int
    nats: float

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """Of how many equally likely tokens the choice is as hard. Depends on the vocabulary."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """What arithmetic coding would compress the text to; comparable between vocabularies."""
        return self.nats / math.log(2) / self.text_bytes


def chunk_logits(model: Transformer, ids: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (seq, vocab_size) of each token but the first, given all before it, a chunk at a time;
    and those tokens (seq)."""
    tokens = torch.tensor([ids], device=model.tok_embeddings.weight.device)
    cache = model.new_cache(1, len(ids) - 1)
    for start in range(0, len(ids) - 1, CHUNK):
        targets = tokens[0, start + 1 : start + 1 + CHUNK]
        yield model(tokens[:, start : start + len(targets)], cache)[0], targets


@torch.no_grad()
def token_losses(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Negative log-probability of each token but the first, given all before it.

    Shape:
        n ids -> (n - 1), float32, in nats
    """
    losses = [
        -logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
        for logits, targets in chunk_logits(model, ids)
    ]
    return torch.cat(losses)


def windows(count: int, context: int) -> Iterator[tuple[int, int]]:
    """Cuts `count` tokens into windows of at most `context` that overlap by half, so that each
    token is predicted once, and from half a context at least.

    Yields:
        Where a window starts, and how many of its tokens are not to be predicted.
    """
    scored = 1
    while scored < count:
        start = 0 if scored < context else scored - context // 2
        yield start, scored - start
        scored = start + context


def perplexity(
    llm: CodeLlama,
    texts: Mapping[str, str],
    context: int = 0,
    *,
    results: Results | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Predicts every token of every text, each text on its own, a window at a time.

    Args:
        texts: by name.
        context: tokens to look back on at most, from 2; 0 for the model's, which is the most.
        results: keeps each text's tokens, bytes and nats.
        progress: told texts done and texts in all.
    """
    model, most = llm.model, llm.model.config.max_seq_len
    context = min(context or most, most)

    def read(group: Sequence[str]) -> Iterator[Record]:
        for name in group:
            ids, nats = llm.tokenizer.encode(texts[name], bos=True), 0.0
            for start, known in windows(len(ids), context):
                losses = token_losses(model, ids[start : start + context])[known - 1 :]
                nats += losses.sum(dtype=torch.float64).item()
            size = len(texts[name].encode())
            yield {"task_id": name, "tokens": len(ids) - 1, "bytes": size, "nats": nats}

    units: dict[Key, str] = {(name, None, None): name for name in texts}
    records = (results or Results()).collect(units, read, progress)
    tokens, size, nats = (sum(r[part] for r in records) for part in ("tokens", "bytes", "nats"))
    return Perplexity(len(records), tokens, size, nats)


def losses_by_position(
    llm: CodeLlama,
    text: str,
    edges: Sequence[int],
    sequences: int = 16,
    *,
    results: Results | None = None,
    progress: Progress | None = None,
) -> list[list[float]]:
    """The loss in each range of positions, of several sequences (arXiv 2308.12950, figure 4a).

    Args:
        text: long; cut into sequences of as many tokens as the last edge says.
        edges: ascending positions; the ranges lie between neighbours. May exceed the context.
        sequences: how many of them to read at most, evenly spread over the text.
        results: keeps each sequence's losses.
        progress: told sequences done and sequences in all.

    Returns:
        For each sequence, nats a token in each range.
    """
    length, bos, ids = edges[-1], llm.tokenizer.bos_id, llm.tokenizer.encode(text)
    every = range(0, len(ids) - length + 1, length)
    count = min(sequences, len(every))
    starts = [every[number * len(every) // count] for number in range(count)]

    def read(group: Sequence[int]) -> Iterator[Record]:
        for start in group:
            losses = token_losses(llm.model, [bos, *ids[start : start + length]]).double()
            ranges = [losses[low:high].mean().item() for low, high in pairwise(edges)]
            yield {"task_id": start, "order": name, "losses": ranges}

    name = fingerprint(llm)  # several models can share a file
    units: dict[Key, int] = {(start, name, None): start for start in starts}
    return [record["losses"] for record in (results or Results()).collect(units, read, progress)]
