"""The generation loop: one sequence, a token at a time.

`scheduler` is the same loop for many sequences that come and go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import torch

from codellama.inference.sampling import LogitsProcessor, sample
from codellama.model.transformer import Transformer


@torch.no_grad()
def generate_tokens(
    model: Transformer,
    ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    stop_ids: Collection[int] = (),
    generator: torch.Generator | None = None,
    process_logits: LogitsProcessor | None = None,
) -> Iterator[int]:
    """Continues a prompt: prefill, then one token a step from the KV cache.

    Args:
        ids: the prompt, at least one token id. Prompt and new tokens should fit the context.
        temperature, top_k, top_p: as for `sampling.sample`.
        stop_ids: ids that end the sequence; they are not yielded.
        generator: where sampling draws its random numbers, on the model's device.
        process_logits: changes the logits (vocab_size) of each step; is given the new tokens, too.

    Yields:
        The next token id.
    """
    device = model.tok_embeddings.weight.device
    cache = model.new_cache(capacity=len(ids) + max_new_tokens)
    unread, tokens = torch.tensor([ids], device=device), list[int]()
    while len(tokens) < max_new_tokens:
        hidden = model.hidden(unread, cache)  # first the whole prompt, then the newest token
        logits = model.logits(hidden[0, -1])
        if process_logits is not None:
            logits = process_logits(logits, tokens)
        token = sample(logits, temperature, top_k, top_p, generator=generator)
        if int(token) in stop_ids:
            return
        tokens.append(int(token))
        yield tokens[-1]
        unread = token.view(1, 1)
