"""How well a model predicts text: perplexity, bits per byte, the loss at each position, and what
one form of a model loses against another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from codellama.errors import DataError, RequestError
from codellama.evaluation.results import Results, digest
from codellama.inference.codellama import CodeLlama
from codellama.inference.prefill import PREFILL_CHUNK, logprobs_of
from codellama.model.transformer import Transformer


def chunk_logits(
    model: Transformer, ids: Sequence[int], known: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (seq, vocab_size) of each token but the first `known`, given all before it, a chunk at
    a time; and those tokens (seq). Memory holds the KV cache and one chunk's logits."""
    tokens = torch.tensor([ids], device=model.tok_embeddings.weight.device)
    cache = model.new_cache(1, len(ids) - 1)
    for start in range(0, len(ids) - 1, PREFILL_CHUNK):
        targets = tokens[0, start + 1 : start + 1 + PREFILL_CHUNK]
        logits = model(tokens[:, start : start + len(targets)], cache)[0]
        skipped = max(0, known - 1 - start)
        yield logits[skipped:], targets[skipped:]


@torch.no_grad()
def token_losses(model: Transformer, ids: Sequence[int], known: int = 1) -> Tensor:
    """The losses (n - known; float32, in nats, on the CPU) of n tokens but the first `known`."""
    return -torch.cat([logprobs_of(*chunk) for chunk in chunk_logits(model, ids, known)]).cpu()


def windows(ids: Sequence[int], context: int) -> Iterator[tuple[Sequence[int], int]]:
    """Windows of at most `context` tokens that overlap by half, and how many of a window's tokens
    not to predict: each is predicted once, and from half a context at least."""
    known = 1
    while known < len(ids):
        start = 0 if known < context else known - context // 2
        yield ids[start : start + context], known - start
        known = start + context


def perplexity(
    llm: CodeLlama, texts: Mapping[str, str], context: int = 0, results: Results | None = None
) -> dict[str, float]:
    """Predicts every token of every text, each text on its own, a window at a time.

    Args:
        texts: by name.
        context: tokens to look back on at most, from 2; 0 for the model's, which is the most.
        results: keeps each text's bytes, tokens and nats.

    Returns:
        Numbers of files, bytes (UTF-8) and tokens; the loss in nats a token; its exponential, the
        perplexity; and bits per byte, which compare models of different vocabularies.

    Raises:
        DataError: all texts are empty.
    """
    results, most = results or Results(), llm.model.config.max_seq_len
    keys = _keys(texts)
    for [key] in results.missing(keys):
        text = texts[key[0]]
        ids, nats = llm.tokenizer.encode(text, bos=True), 0.0
        for window, known in windows(ids, min(context or most, most)):
            nats += token_losses(llm.model, window, known).sum(dtype=torch.float64).item()
        results.add(key, sums=[len(text.encode()), len(ids) - 1, nats])
    sums = [results.records[key]["sums"] for key in keys]
    size, tokens, nats = map(sum, zip(*sums, strict=True))
    figures = {"files": len(sums), "bytes": size, "tokens": tokens, "loss": nats / tokens}
    bits = nats / size / math.log(2)
    return {**figures, "perplexity": math.exp(nats / tokens), "bits_per_byte": bits}


def _keys(texts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Each text's name and digest. Raises DataError if all are empty."""
    if not any(texts.values()):
        raise DataError("there is no text to predict; give others")
    return [(name, digest(text)) for name, text in texts.items()]


@torch.no_grad()
def compare(
    pair: tuple[CodeLlama, CodeLlama],
    texts: Mapping[str, str],
    context: int = 0,
    *,
    name: str = "",
    results: Results | None = None,
) -> dict[str, float]:
    """Both models predict every token of the texts, side by side.

    Args:
        texts, context, results: as for `perplexity`.
        name: of the second model, among the results.

    Returns:
        Of the second model: bits per byte; the share of tokens at which both find the same token
        likeliest; and the Kullback-Leibler divergence from the first model, in nats a token.

    Raises:
        RequestError: the models have different vocabularies.
        DataError: all texts are empty.
    """
    size, other = (llm.model.config.vocab_size for llm in pair)
    if size != other:
        raise RequestError(f"the models have {size} and {other} token ids; expected the same")
    results, most = results or Results(), pair[0].model.config.max_seq_len
    keys = [(*key, name) for key in _keys(texts)]
    for [key] in results.missing(keys):
        text = texts[key[0]]
        ids, sums = pair[0].tokenizer.encode(text, bos=True), torch.zeros(3).double()
        for window, known in windows(ids, min(context or most, most)):
            chunks = (chunk_logits(llm.model, window, known) for llm in pair)
            for (left, targets), (right, _) in zip(*chunks, strict=True):
                p, q = left.log_softmax(-1), right.log_softmax(-1)
                loss = -logprobs_of(right, targets).sum()
                same = (p.argmax(-1) == q.argmax(-1)).sum()
                sums += torch.stack([loss, same, (p.exp() * (p - q)).sum()]).cpu().double()
        results.add(key, sums=[len(text.encode()), len(ids) - 1, *sums.tolist()])
    rows = [results.records[key]["sums"] for key in keys]
    size, tokens, nats, agreed, divergence = map(sum, zip(*rows, strict=True))
    shares = {"same_token": agreed / tokens, "kl_divergence": divergence / tokens}
    return {"bits_per_byte": nats / size / math.log(2), **shares}


def losses_by_position(
    llm: CodeLlama, text: str, edges: Sequence[int], count: int, results: Results | None = None
) -> list[list[float]]:
    """The loss in each range of positions, of several sequences (arXiv 2308.12950, figure 4a).

    Args:
        text: long; cut into sequences of as many tokens as the last edge says.
        edges: ascending positions; the ranges lie between neighbours. May exceed the context.
        count: sequences to read at most, evenly spread over the text.
        results: keeps each sequence's losses.

    Returns:
        For each sequence, nats a token in each range.
    """
    length, bos, ids = edges[-1], llm.tokenizer.bos_id, llm.tokenizer.encode(text)
    every = range(0, len(ids) - length + 1, length)
    count = min(count, len(every))
    starts = [every[number * len(every) // count] for number in range(count)]
    results, keys = results or Results(), [(start, digest(text)) for start in starts]
    for [key] in results.missing(keys):
        losses = token_losses(llm.model, [bos, *ids[key[0] : key[0] + length]]).double()
        ranges = [losses[low:high].mean().item() for low, high in pairwise(edges)]
        results.add(key, losses=ranges)
    return [results.records[key]["losses"] for key in keys]
