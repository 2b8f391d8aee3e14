"""How well a model predicts text: perplexity, bits per byte, and the loss at each position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from codellama.evaluation.results import Key, Record, Results, fingerprint
from codellama.inference.generation import CodeLlama
from codellama.inference.prefill import PREFILL_CHUNK
from codellama.model.transformer import Transformer
from codellama.weights.downloads import Progress


def chunk_logits(model: Transformer, ids: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (seq, vocab_size) of each token but the first, given all before it, a chunk at a time;
    and those tokens (seq). Memory holds the KV cache and one chunk's logits."""
    tokens = torch.tensor([ids], device=model.tok_embeddings.weight.device)
    cache = model.new_cache(1, len(ids) - 1)
    for start in range(0, len(ids) - 1, PREFILL_CHUNK):
        targets = tokens[0, start + 1 : start + 1 + PREFILL_CHUNK]
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


def windows(ids: Sequence[int], context: int) -> Iterator[tuple[Sequence[int], int]]:
    """Windows of at most `context` tokens that overlap by half, and how many of a window's tokens
    not to predict: each is predicted once, and from half a context at least."""
    scored = 1
    while scored < len(ids):
        start = 0 if scored < context else scored - context // 2
        yield ids[start : start + context], scored - start
        scored = start + context


def perplexity(
    llm: CodeLlama,
    texts: Mapping[str, str],
    context: int = 0,
    *,
    results: Results | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Predicts every token of every text, each text on its own, a window at a time.

    Args:
        texts: by name.
        context: tokens to look back on at most, from 2; 0 for the model's, which is the most.
        results: keeps each text's tokens, bytes and nats.
        progress: told texts done and texts in all.

    Returns:
        Numbers of files, bytes (UTF-8) and tokens; the loss in nats a token; its exponential, the
        perplexity; and bits per byte, which compare models of different vocabularies.
    """
    most = llm.model.config.max_seq_len

    def read(group: Sequence[str]) -> Iterator[Record]:
        for name in group:
            ids, nats = llm.tokenizer.encode(texts[name], bos=True), 0.0
            for window, known in windows(ids, min(context or most, most)):
                losses = token_losses(llm.model, window)[known - 1 :]
                nats += losses.sum(dtype=torch.float64).item()
            yield {"task_id": name, "sums": [len(texts[name].encode()), len(ids) - 1, nats]}

    units: dict[Key, str] = {(name, None, None): name for name in texts}
    sums = [record["sums"] for record in (results or Results()).collect(units, read, progress)]
    size, tokens, nats = map(sum, zip(*sums, strict=True))
    figures = {"files": len(sums), "bytes": size, "tokens": tokens, "loss": nats / tokens}
    bits = nats / size / math.log(2)
    return {**figures, "perplexity": math.exp(nats / tokens), "bits_per_byte": bits}


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

    def read(group: Sequence[int]) -> Iterator[Record]:
        for start in group:
            losses = token_losses(llm.model, [bos, *ids[start : start + length]]).double()
            ranges = [losses[low:high].mean().item() for low, high in pairwise(edges)]
            yield {"task_id": start, "order": name, "losses": ranges}

    name = fingerprint(llm)  # several models can share a file
    starts = (every[number * len(every) // count] for number in range(count))
    units: dict[Key, int] = {(start, name, None): start for start in starts}
    return [record["losses"] for record in (results or Results()).collect(units, read, progress)]
