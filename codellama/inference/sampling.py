"""From logits to the next token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from codellama.text.tokenizer import Tokenizer

LogitsProcessor = Callable[[Tensor, Sequence[int]], Tensor]
"""Changes the logits (vocab_size) of a step, given the new tokens of the sequence so far."""


def token_probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """The distribution that the next token is drawn from.

    Args:
        logits: (..., vocab_size)
        temperature: divides the logits; below 1 sharpens, above 1 flattens, 0 takes the largest.
        top_k: keep only this many of the most likely tokens; 0 keeps all.
        top_p: keep the fewest tokens that together have at least this probability: the nucleus
            (Holtzman et al. 2019, arXiv 1904.09751). Applied after top_k.

    Returns:
        float32 probabilities of the shape of `logits`
    """
    logits = logits.float()
    if temperature == 0:
        return torch.zeros_like(logits).scatter(-1, logits.argmax(-1, keepdim=True), 1.0)
    # The largest logit becomes 0, so that a tiny temperature cannot overflow.
    logits = logits - logits.amax(-1, keepdim=True)
    logits = logits / max(temperature, torch.finfo(logits.dtype).tiny)
    if 0 < top_k < logits.shape[-1]:
        kept = logits.topk(top_k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, kept.indices, kept.values)
    probabilities = logits.softmax(-1)
    if top_p < 1:
        descending, order = probabilities.sort(dim=-1, descending=True)
        before = descending.cumsum(-1) - descending
        least = max(top_p, torch.finfo(before.dtype).tiny)  # keeps the most likely one
        nucleus = descending.masked_fill(before >= least, 0.0)
        probabilities = torch.zeros_like(nucleus).scatter(-1, order, nucleus)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


def sample(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws one token from `token_probabilities`; the most likely one where temperature is 0.

    Draws as `torch.multinomial` does: if the `E_i` are exponential variables, `E_i / p_i` is the
    smallest for token `i` with probability `p_i`. `torch.multinomial` also checks the
    probabilities, and the host would have to wait for the device.

    Shape:
        (vocab_size) -> ()
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = token_probabilities(logits, temperature, top_k, top_p)
    exponential = torch.empty_like(probabilities).exponential_(generator=generator)
    return (probabilities / exponential).argmax(-1)


def token_healing(
    tokenizer: Tokenizer, ids: Sequence[int]
) -> tuple[list[int], bytes, LogitsProcessor]:
    """Takes a prompt's last token back, so that a prompt may end inside a word or an indentation.

    Returns:
        The prompt without its last token; the bytes of that token; and a logits processor, under
        which the new tokens spell these bytes before anything else, together or one by one.
    """
    removed = tokenizer.bytes_of[ids[-1]]  # nothing for a control token, which stays

    def process(logits: Tensor, tokens: Sequence[int]) -> Tensor:
        spelled = b"".join(tokenizer.bytes_of[token] for token in tokens)
        if len(spelled) >= len(removed):
            return logits
        allowed = tokenizer.spelling(removed[len(spelled) :])
        allowed_ids = torch.tensor(allowed, device=logits.device)
        return torch.full_like(logits, -torch.inf).index_copy(0, allowed_ids, logits[allowed_ids])

    return [*ids[:-1]] if removed else [*ids], removed, process


def repetition_penalty(penalty: float) -> LogitsProcessor:
    """Divides positive logits of the tokens that the sequence already has by a penalty, and
    multiplies negative ones by it (Keskar et al. 2019, arXiv 1909.05858, section 4.1)."""

    def process(logits: Tensor, tokens: Sequence[int]) -> Tensor:
        seen = torch.tensor(sorted({*tokens}), dtype=torch.long, device=logits.device)
        chosen = logits[seen]
        lowered = torch.where(chosen > 0, chosen / penalty, chosen * penalty)
        return logits.index_copy(0, seen, lowered)

    return process
