"""What a form of a model loses against another: rounded weights, a rounded KV cache, fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from codellama.errors import RequestError
from codellama.evaluation.perplexity import chunk_logits, windows
from codellama.evaluation.results import Progress, Record, Results, collect
from codellama.inference.generation import CodeLlama


@torch.no_grad()
def compare(
    first: CodeLlama,
    other: CodeLlama,
    texts: Mapping[str, str],
    context: int = 0,
    *,
    name: str = "",
    results: Results | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Both models predict every token of the texts, side by side (see `perplexity`).

    Args:
        texts: by name.
        context: tokens to look back on at most, from 2; 0 for the first model's.
        name: of the other model, among the results.

    Returns:
        Of the other model: bits per byte; the share of tokens of which both find the same one the
        likeliest; and the Kullback-Leibler divergence from the first, in nats a token.

    Raises:
        RequestError: the models have different vocabularies.
    """
    config, tokenizer = first.model.config, first.tokenizer
    if config.vocab_size != other.model.config.vocab_size:
        raise RequestError(
            f"the models have {config.vocab_size} and {other.model.config.vocab_size} token ids; "
            "only models of one vocabulary can be compared"
        )
    context = min(context or config.max_seq_len, config.max_seq_len)

    def read(group: Sequence[str]) -> Iterator[Record]:
        for text in group:
            ids, sums = tokenizer.encode(texts[text], bos=True), torch.zeros(3, dtype=torch.float64)
            for start, known in windows(len(ids), context):
                sums += _side_by_side(first, other, ids[start : start + context], known)
            nats, same, divergence = sums.tolist()
            figures = {"nats": nats, "same": same, "divergence": divergence}
            sizes = {"tokens": len(ids) - 1, "bytes": len(texts[text].encode())}
            yield {"task_id": text, "order": name, **sizes, **figures}

    units = {(text, name, None): text for text in texts}
    records = collect(results or Results(), units, read, progress)
    tokens, size, nats, same, divergence = (
        sum(record[part] for record in records)
        for part in ("tokens", "bytes", "nats", "same", "divergence")
    )
    return {
        "bits_per_byte": nats / size / torch.log(torch.tensor(2.0)).item(),
        "same_token": same / tokens,
        "kl_divergence": divergence / tokens,
    }


def _side_by_side(
    first: CodeLlama, other: CodeLlama, ids: Sequence[int], known: int
) -> torch.Tensor:
    """Nats, equal choices and divergence, summed over the tokens but for the first `known`."""
    sums, skip = torch.zeros(3, dtype=torch.float64), known - 1
    pairs = zip(chunk_logits(first.model, ids), chunk_logits(other.model, ids), strict=True)
    for (logits, targets), (others, _) in pairs:
        p, q = (scores[skip:].float().log_softmax(-1) for scores in (logits, others.to(logits.device)))
        losses = -q.gather(-1, targets[skip:, None])
        same = p.argmax(-1) == q.argmax(-1)
        divergence = (p.exp() * (p - q)).sum()
        sums += torch.stack([losses.sum(), same.sum(), divergence]).double().cpu()
        skip = max(0, skip - len(targets))
    return sums
