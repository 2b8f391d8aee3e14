"""What one form of a model loses against another: rounded weights or KV cache, other training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from codellama.errors import RequestError
from codellama.evaluation.perplexity import chunk_logits, windows
from codellama.evaluation.results import Key, Record, Results
from codellama.inference.generation import CodeLlama
from codellama.weights.downloads import Progress


@torch.no_grad()
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
        texts, context, results, progress: as for `perplexity`.
        name: of the second model, among the results.

    Returns:
        Of the second model: bits per byte; the share of tokens at which both find the same token
        likeliest; and the Kullback-Leibler divergence from the first model, in nats a token.

    Raises:
        RequestError: the models have different vocabularies.
    """
    first, other = (llm.model for llm in pair)
    sizes, most = [llm.model.config.vocab_size for llm in pair], first.config.max_seq_len
    if sizes[0] != sizes[1]:
        raise RequestError(
            f"the models have {sizes[0]} and {sizes[1]} token ids; expected the same"
        )

    def read(group: Sequence[str]) -> Iterator[Record]:
        for key in group:
            ids, sums = pair[0].tokenizer.encode(texts[key], bos=True), torch.zeros(3).double()
            for window, known in windows(ids, min(context or most, most)):
                skip = known - 1
                both = zip(chunk_logits(first, window), chunk_logits(other, window), strict=True)
                for (left, targets), (right, _) in both:
                    p, q = (logits[skip:].log_softmax(-1) for logits in (left, right))
                    nats = -q.gather(-1, targets[skip:, None]).sum()
                    same = (p.argmax(-1) == q.argmax(-1)).sum()
                    sums += torch.stack([nats, same, (p.exp() * (p - q)).sum()]).double().cpu()
                    skip = max(0, skip - len(targets))
            size = len(texts[key].encode())
            yield {"task_id": key, "order": name, "sums": [size, len(ids) - 1, *sums.tolist()]}

    units: dict[Key, str] = {(key, name, None): key for key in texts}
    rows = [record["sums"] for record in (results or Results()).collect(units, read, progress)]
    size, tokens, nats, same, divergence = map(sum, zip(*rows, strict=True))
    shares = {"same_token": same / tokens, "kl_divergence": divergence / tokens}
    return {"bits_per_byte": nats / size / math.log(2), **shares}
