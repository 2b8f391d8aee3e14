"""What one form of a model loses against another: rounded weights or KV cache, other training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from codellama.errors import RequestError
from codellama.evaluation.perplexity import chunk_logits, windows
from codellama.evaluation.results import Key, Progress, Record, Results
from codellama.inference.generation import CodeLlama


def compare(
    pair: tuple[CodeLlama, CodeLlama],
    texts: Mapping[str, str],
    context: int = 0,
    *,
    name: str = "",
    results: Results | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Both models predict every token of the texts, side by side.

    Args:
        texts, context, results, progress: as for `perplexity`; `context` is the first model's.
        name: of the other model, among the results.

    Returns:
        Of the other model: bits per byte; the share of tokens at which both find the same token
        likeliest; and the Kullback-Leibler divergence from the first model, in nats a token.

    Raises:
        RequestError: the models have different vocabularies.
    """
    first, other = pair
    config, encode = first.model.config, first.tokenizer.encode
    if (found := other.model.config.vocab_size) != config.vocab_size:
        raise RequestError(
            f"the models have {config.vocab_size} and {found} token ids; only models of one "
            "vocabulary can be compared"
        )
    context = min(context or config.max_seq_len, config.max_seq_len)

    def read(group: Sequence[str]) -> Iterator[Record]:
        for key in group:
            ids, sums = encode(texts[key], bos=True), torch.zeros(3, dtype=torch.float64)
            for start, known in windows(len(ids), context):
                sums += _side_by_side(first, other, ids[start : start + context], known)
            sizes = len(ids) - 1, len(texts[key].encode())
            yield {"task_id": key, "order": name, "sums": [*sizes, *sums.tolist()]}

    units: dict[Key, str] = {(key, name, None): key for key in texts}
    records = (results or Results()).collect(units, read, progress)
    columns = zip(*(record["sums"] for record in records), strict=True)
    tokens, size, nats, same, divergence = map(sum, columns)
    return {
        "bits_per_byte": nats / size / math.log(2),
        "same_token": same / tokens,
        "kl_divergence": divergence / tokens,
    }


@torch.no_grad()
def _side_by_side(first: CodeLlama, other: CodeLlama, ids: Sequence[int], known: int) -> Tensor:
    """Nats, equal choices and divergence, summed over all tokens but the first `known`."""
    sums, skip = torch.zeros(3, dtype=torch.float64), known - 1
    pairs = zip(chunk_logits(first.model, ids), chunk_logits(other.model, ids), strict=True)
    for (left, targets), (right, _) in pairs:
        p, q = left[skip:].log_softmax(-1), right[skip:].log_softmax(-1).to(left.device)
        nats = -q.gather(-1, targets[skip:, None]).sum()
        same, divergence = (p.argmax(-1) == q.argmax(-1)).sum(), (p.exp() * (p - q)).sum()
        sums += torch.stack([nats, same, divergence]).double().cpu()
        skip = max(0, skip - len(targets))
    return sums
