"""Decoding steps that torch.compile fuses, and that CUDA records once and plays again."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from codellama.inference.fixed_kv_cache import FixedKVCache, fixed, move
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer
from codellama.weights.layout import without_onednn

LEAST_ROOM = 256
"""Tokens. Room is this, doubled as often as it takes: few shapes to compile for."""
BURST = 16
"""Tokens that are chosen for each row on a GPU before the host looks at them, unless somebody reads
along: until it looks, the device need not wait."""


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it generates code with."""
    if device.type == "cpu":
        return any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
    return device.type == "cuda" and has_triton()


class CompiledSteps:
    """A model's passes over one token a row, compiled at the first one.

    A pass of small matrices waits for Python, and on a GPU for the launches of some thousand
    kernels; what is compiled has fewer, and a CUDA graph launches them all at once. For that every
    tensor must stay where it is. So the cache that is being stepped lives in memory which the steps
    keep for one request after the other, and passes see a `FixedKVCache` there.

    On a GPU a pass sees all of that memory, since its shapes must stay as well. On a CPU it sees as
    much of it as is filled; the same code runs for any length, and another for any number of rows.

    Args:
        model: on one device.
        backend: of torch.compile.

    Attributes:
        burst: steps after which tokens should be looked at.
    """

    def __init__(self, model: Transformer, backend: str = "inductor") -> None:
        device = model.tok_embeddings.weight.device
        self.burst = 1 if device.type == "cpu" else BURST
        self._shapes_stay = device.type != "cpu"
        # With tuning, inductor writes a product with one row as a sum, which can be fused with what
        # makes its weights: with expanding integers. Those of 4 bits take more than 30 operations.
        options: dict[str, Any] = {
            "triton.cudagraphs": True,
            "coordinate_descent_tuning": True,
            "realize_opcount_threshold": 64,
        }

        def step(tokens: Tensor, cache: FixedKVCache) -> Tensor:
            return cast(Tensor, model(tokens, cache))

        # torch.compile gives up on code that it has compiled often: each model has code of its own.
        step.__code__ = step.__code__.replace()
        self._model = model
        self._compiled = torch.compile(
            step,
            backend=backend,
            fullgraph=True,
            options=options if device.type == "cuda" else None,
        )
        self._room = model.new_cache(0)
        self._starts = torch.empty(0, 1, dtype=torch.long, device=device)
        self._home = fixed(self._room, 0, self._starts)  # as many rows of the room as are used
        self._sizes = torch.empty(0)  # its slices are what `FixedKVCache.seen` is
        self._tenant: weakref.ref[KVCache] | None = None  # which cache lives there

    @contextmanager
    def fixed(self, cache: KVCache, count: int) -> Iterator[FixedKVCache]:
        """Makes room for `count` steps of `cache`, and ends with their tokens counted.

        Yields:
            What stands for the cache in these steps.
        """
        if not self._is_home(cache) or cache.longest + count >= cache.capacity:
            self._move_in(cache, cache.longest + count + 1)
        self._home.starts.copy_(torch.tensor(cache.lengths)[:, None])
        if not self._shapes_stay:
            self._home.seen = self._sizes[: cache.longest]
        try:
            yield self._home
        finally:
            cache.lengths = [length + count for length in cache.lengths]

    def __call__(self, tokens: Tensor, cache: FixedKVCache) -> Tensor:
        """As the model's `forward`, for tokens (batch, 1) and what `fixed` has yielded; the logits
        hold until the next call."""
        torch.compiler.cudagraph_mark_step_begin()
        if cache.seen is not None:
            cache.seen = self._sizes[: len(cache.seen) + 1]
            torch._dynamo.mark_dynamic(cache.seen, 0)
            if len(tokens) > 1:
                torch._dynamo.mark_dynamic(tokens, 0)
        with without_onednn() if len(tokens) == 1 else nullcontext():
            return self._compiled(tokens, cache)

    def _is_home(self, cache: KVCache) -> bool:
        return cache.keys[0] is self._home.keys[0]

    def _move_in(self, cache: KVCache, tokens: int) -> None:
        """Gives the room to a cache; the one that lives there goes on elsewhere.

        A batch that gets smaller stays where it is, since graphs are recorded for an address.
        """
        rows, capacity = len(cache.lengths), LEAST_ROOM
        while capacity < tokens:
            capacity *= 2
        tenant = self._tenant() if self._tenant else None
        if tenant is not None and tenant is not cache and self._is_home(tenant):
            move(tenant, self._model.new_cache(len(tenant.lengths), tenant.capacity))
        if self._room.capacity != capacity or len(self._room.lengths) < rows:
            self._room = self._model.new_cache(rows, capacity)
            self._starts = self._starts.new_zeros(rows, 1)
            self._sizes = torch.empty(capacity)
        self._home = fixed(self._room, rows, self._starts)
        for tensor in self._home.tensors():
            if self._shapes_stay:
                torch._dynamo.mark_static_address(tensor, guard=False)
            else:
                changing = ([0] if rows > 1 else []) + ([2] if tensor.dim() == 4 else [])
                torch._dynamo.mark_dynamic(tensor, changing)
        move(cache, self._home)
        self._tenant = weakref.ref(cache)
