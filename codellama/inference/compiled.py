"""Decoding steps that torch.compile fuses, and that CUDA records once and plays again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

LEAST_ROOM = 256
"""Tokens. Room is rounded up to this doubled so often, for few shapes to compile for."""


class CompiledSteps:
    """A model's passes over one token a row, compiled at the first one (which takes a minute).

    A pass of small matrices waits for Python, and on a GPU for the launches of some thousand
    kernels; what is compiled has fewer, and a CUDA graph launches them all at once. For that every
    tensor must stay where it is: the cache is fixed while it is stepped (see `KVCache.fix`).

    Args:
        model: on one device.
        backend: of torch.compile.
    """

    def __init__(self, model: Transformer, backend: str = "inductor") -> None:
        on_cuda = model.tok_embeddings.weight.is_cuda
        # Tuned, a product with one row is fused with what makes its weights: here, with expanding
        # integers.
        options: dict[str, Any] = {"triton.cudagraphs": True, "coordinate_descent_tuning": True}
        self._model = model
        self._compiled: Any = torch.compile(
            model, backend=backend, fullgraph=True, options=options if on_cuda else None
        )

    @contextmanager
    def fixed(self, cache: KVCache, count: int) -> Iterator[None]:
        """Makes `cache` ready for `count` steps, and ends with their tokens counted."""
        lengths = cache.lengths
        needed, room = cache.longest + count, LEAST_ROOM
        while room < needed:
            room *= 2
        cache.reserve(room)
        cache.fix()
        for tensor in cache.tensors():
            torch._dynamo.mark_static_address(tensor, guard=False)
        try:
            yield
        finally:
            cache.release([length + count for length in lengths])

    def __call__(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """As the model's `forward`, for tokens (batch, 1) and a cache that is `fixed`; the logits
        hold until the next call."""
        torch.compiler.cudagraph_mark_step_begin()
        logits: Tensor = self._compiled(tokens, cache)
        return logits
