"""Compiled steps: passes over one token a row, fused by torch.compile, recorded as a CUDA graph.

Slow: a pass of small matrices waits for Python, and on a GPU for the launches of some thousand
    kernels.
Instead: torch.compile fuses what lies between the matrices, and a CUDA graph launches all kernels
    at once.
Gains: figures in README.md.
Costs: a minute or two at first, seconds once the code is on disk; a C++ compiler on a CPU.
Not for: prefill and draft tokens. It has been compiled for CUDA, and its kernels gave the model's
    logits in Triton's interpreter; no GPU has run it yet.

Every tensor must stay where it is for a graph. So the cache that is being stepped lives in static
buffers (see `static_kv_cache`), which the steps keep for one request after the other. On a GPU a
pass sees all of them. On a CPU it sees what is filled: the same code runs for any length, and
another for any number of rows.
"""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from codellama.errors import RequestError
from codellama.fast.single_row_linear import without_onednn
from codellama.fast.static_kv_cache import StaticKVCache, move, static_rows
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

LEAST_CAPACITY = 256
"""Tokens. A capacity is this, doubled as often as it takes: few shapes to compile for."""
STEPS_PER_SYNC = 16
"""Steps on a GPU before the host looks at the tokens: until then the device need not wait."""
CUDA_OPTIONS: dict[str, Any] = {
    "triton.cudagraphs": True,
    # With tuning, inductor writes a product with one row as a sum, which is fused with what expands
    # its integers; of 4 bits that takes more than 30 operations (PyTorch 2.13).
    "coordinate_descent_tuning": True,
    "realize_opcount_threshold": 64,
}


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it generates code with."""
    if device.type == "cpu":
        return any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))
    return device.type == "cuda" and has_triton()


def check_compiler(device: torch.device) -> None:
    """Compiles something small.

    Raises:
        RequestError: there is no compiler for the device, or it fails.
    """
    if not can_compile(device):
        raise RequestError(
            "torch.compile needs a C++ compiler on the path (g++ or clang++), or CUDA; install "
            "one, or leave out compile"
        )
    try:
        torch.compile(torch.neg)(torch.ones(2, device=device))
    except Exception as error:  # headers, permissions, disks: each fails in its own way
        reason = str(error).strip().split("\n")[0]
        raise RequestError(
            f"torch.compile fails on this machine ({reason:.200}); mend its compiler or cache "
            "directory, or leave out compile"
        ) from None


class CompiledSteps:
    """A model's passes over one token a row, compiled at the first one (see `decoding.Steps`).

    Args:
        model: on one device.
        backend: of torch.compile.
    """

    def __init__(self, model: Transformer, backend: str = "inductor") -> None:
        device = model.tok_embeddings.weight.device
        self.steps_per_sync = 1 if device.type == "cpu" else STEPS_PER_SYNC
        self._is_graph = device.type != "cpu"
        self._model = model
        self._compiled = torch.compile(
            _step_of(model),
            backend=backend,
            fullgraph=True,
            options=CUDA_OPTIONS if device.type == "cuda" else None,
        )
        self._buffers = model.new_cache(0)
        self._starts = torch.empty(0, 1, dtype=torch.long, device=device)
        self._static = static_rows(self._buffers, 0, self._starts)
        self._sizes = torch.empty(0)  # its slices are what `StaticKVCache.seen` is
        self._owner: weakref.ref[KVCache] | None = None  # the cache that uses the buffers

    @contextmanager
    def cache_for(self, cache: KVCache, count: int) -> Iterator[KVCache]:
        """The static cache that stands for `cache` in `count` steps."""
        if not self._is_static(cache) or cache.longest + count >= cache.capacity:
            self._take(cache, cache.longest + count + 1)
        self._static.starts.copy_(torch.tensor(cache.lengths)[:, None])
        if not self._is_graph:
            self._static.seen = self._sizes[: cache.longest]
        try:
            yield self._static
        finally:
            cache.lengths = [length + count for length in cache.lengths]

    def __call__(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """As the model's `forward`, for tokens (batch, 1) and the cache of `cache_for`; the logits
        hold until the next call."""
        static = cast(StaticKVCache, cache)
        torch.compiler.cudagraph_mark_step_begin()
        if static.seen is not None:
            static.seen = self._sizes[: len(static.seen) + 1]
            torch._dynamo.mark_dynamic(static.seen, 0)
            if len(tokens) > 1:
                torch._dynamo.mark_dynamic(tokens, 0)
        with without_onednn() if len(tokens) == 1 else nullcontext():
            return self._compiled(tokens, static)

    def _is_static(self, cache: KVCache) -> bool:
        return cache.keys[0] is self._static.keys[0]

    def _take(self, cache: KVCache, tokens: int) -> None:
        """Moves a cache into the buffers; the cache that used them goes on in buffers of its own.

        A batch that gets smaller keeps the same buffers, since graphs are recorded for an address.
        """
        rows, capacity = len(cache.lengths), LEAST_CAPACITY
        while capacity < tokens:
            capacity *= 2
        owner = self._owner() if self._owner else None
        if owner is not None and owner is not cache and self._is_static(owner):
            move(owner, self._model.new_cache(len(owner.lengths), owner.capacity))
        if self._buffers.capacity != capacity or len(self._buffers.lengths) < rows:
            self._buffers = self._model.new_cache(rows, capacity)
            self._starts = self._starts.new_zeros(rows, 1)
            self._sizes = torch.empty(capacity)
        self._static = static_rows(self._buffers, rows, self._starts)
        for tensor in self._static.tensors():
            if self._is_graph:
                torch._dynamo.mark_static_address(tensor, guard=False)
            else:
                changing = ([0] if rows > 1 else []) + ([2] if tensor.dim() == 4 else [])
                torch._dynamo.mark_dynamic(tensor, changing)
        move(cache, self._static)
        self._owner = weakref.ref(cache)


def _step_of(model: Transformer) -> Callable[[Tensor, StaticKVCache], Tensor]:
    """The model's forward as a function with a code object of its own. Dynamo counts compilations
    by code object, and gives up on one that several models have used often (PyTorch 2.13)."""

    def step(tokens: Tensor, cache: StaticKVCache) -> Tensor:
        return cast(Tensor, model(tokens, cache))

    step.__code__ = step.__code__.replace()
    return step
