"""How well a model predicts text: perplexity, bits per byte, and the loss at each position."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from codellama.inference.prefill import PREFILL_CHUNK
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import Tokenizer
from codellama.weights.downloads import Progress


@dataclass
class Perplexity:
    """Losses added up over texts.

    Attributes:
        texts, tokens, text_bytes: how much was predicted; bytes in UTF-8.
        nats: the sum of the tokens' negative log-probabilities.
    """

    texts: int = 0
    tokens: int = 0
    text_bytes: int = 0
    nats: float = 0.0

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


@torch.no_grad()
def token_losses(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Negative log-probability of each token but the first, given all before it.

    Reads a chunk at a time, so that memory holds the KV cache and one chunk's logits.

    Shape:
        n ids -> (n - 1), float32, in nats
    """
    device = model.tok_embeddings.weight.device
    tokens = torch.tensor([ids], device=device)
    cache = model.new_cache(capacity=len(ids) - 1)
    losses = []
    for start in range(0, len(ids) - 1, PREFILL_CHUNK):
        targets = tokens[:, start + 1 : start + 1 + PREFILL_CHUNK]
        logits = model(tokens[:, start : start + targets.shape[1]], cache)
        losses.append(-logits.log_softmax(-1).gather(-1, targets[..., None])[0, :, 0])
    return torch.cat(losses)


def perplexity(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    context: int | None = None,
    progress: Progress | None = None,
) -> Perplexity:
    """Predicts every token of every text, each text on its own.

    A text longer than the context is read in windows that overlap by half: every token is predicted
    once, and from half a context at least.

    Args:
        context: tokens to look back on at most; None for the model's.
        progress: told texts done and texts in all.
    """
    context = min(context or model.config.max_seq_len, model.config.max_seq_len)
    texts = list(texts)
    result = Perplexity()
    for number, text in enumerate(texts, 1):
        ids = tokenizer.encode(text, bos=True)
        scored = 1
        while scored < len(ids):
            start = 0 if scored < context else scored - context // 2
            losses = token_losses(model, ids[start : start + context])
            result.nats += losses[scored - start - 1 :].sum(dtype=torch.float64).item()
            scored = start + len(losses) + 1
        result.texts += 1
        result.tokens += len(ids) - 1
        result.text_bytes += len(text.encode())
        if progress:
            progress(number, len(texts))
    return result


def loss_by_position(
    model: Transformer,
    tokenizer: Tokenizer,
    text: str,
    edges: Sequence[int],
    sequences: int,
    progress: Progress | None = None,
) -> tuple[list[float], int]:
    """The mean loss of the tokens in each range of positions (arXiv 2308.12950, figure 4a).

    Args:
        text: long; cut into sequences of as many tokens as the last edge says.
        edges: ascending positions; the ranges lie between neighbours.
        sequences: how many of them to read at most, evenly spread over the text.
        progress: told sequences done and sequences in all.

    Returns:
        Nats a token for each range, and the number of sequences that they are the mean of.
    """
    length = edges[-1]
    ids = tokenizer.encode(text)
    every = range(0, len(ids) - length + 1, length)
    count = min(sequences, len(every))
    starts = [every[number * len(every) // count] for number in range(count)]
    totals = torch.zeros(len(edges) - 1, dtype=torch.float64)
    for number, start in enumerate(starts, 1):
        losses = token_losses(model, [tokenizer.bos_id, *ids[start : start + length]])
        ranges = losses.double().cpu()[edges[0] :].split([end - at for at, end in pairwise(edges)])
        totals += torch.stack([range_.mean() for range_ in ranges])
        if progress:
            progress(number, len(starts))
    return (totals / max(1, len(starts))).tolist(), len(starts)
