"""Compiled steps: passes over one token a row, fused by torch.compile, recorded as a CUDA graph.

Slow: a pass of small matrices waits for Python, and on a GPU for a thousand kernels' launches.
Instead: torch.compile fuses what lies between matrices; a CUDA graph launches all kernels at once.
Gains: figures in README.md.
Costs: a minute or two at first, seconds once the code is on disk; a C++ compiler on a CPU; memory
    for two KV caches, since one is moved into the static buffers.
Not for: prefill and draft tokens. Its CUDA kernels gave the model's logits in Triton's interpreter;
    no GPU has run them yet.

A CUDA graph is recorded for addresses, and torch.compile compiles for shapes. So the KV cache moves
into static buffers, which the steps keep for one request after the other. A pass sees whole
buffers behind a mask, and the lengths of the rows are a tensor on the device. On a CPU one
version of the code runs for any capacity, and a second one for batches of several rows.
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from codellama.errors import RequestError
from codellama.fast.quantized_kv_cache import QuantizedKVCache
from codellama.fast.single_row_linear import without_onednn
from codellama.inference.cache_rows import view_rows
from codellama.inference.scheduler import Steps
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

CPU_CAPACITY_STEP, GPU_CAPACITY_STEP = 256, 1024
"""Tokens that divide a capacity. Masked keys are read, too; a GPU records a graph for each one."""
STEPS_PER_SYNC = 16
"""Steps on a GPU before the host looks at the tokens: until then the device need not wait."""
CUDA_OPTIONS: dict[str, Any] = {
    "triton.cudagraphs": True,
    # With tuning, inductor writes a product with one row as a sum, and fuses the expansion of its
    # integers into it; 4 bits need more than 30 operations (PyTorch 2.13).
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
    reason = "it is for CUDA, and for CPUs, where it needs a C++ compiler, g++ or clang++"
    if can_compile(device):
        try:
            torch.compile(torch.neg)(torch.ones(2, device=device))
            return
        except Exception as error:  # headers, permissions, disks: each fails in its own way
            reason = str(error).strip().split("\n")[0]
    raise RequestError(
        f"torch.compile fails on this machine ({reason:.200}); mend its compiler or cache "
        "directory, or leave out compile"
    )


class CompiledSteps(Steps):
    """A model's passes over one token a row, compiled at the first one (see `Steps`).

    Args:
        model: on one device.
        backend: of torch.compile.
    """

    def __init__(self, model: Transformer, backend: str = "inductor") -> None:
        super().__init__(model)

        def step(tokens: Tensor, cache: StaticKVCache) -> Tensor:
            return cast(Tensor, model(tokens, cache))

        # Dynamo counts compilations by code object, and gives up on one that several models have
        # used often (PyTorch 2.13); so each model has its own.
        step.__code__ = step.__code__.replace()
        device = model.tok_embeddings.weight.device
        options = CUDA_OPTIONS if device.type == "cuda" else None
        self._compiled = torch.compile(step, backend=backend, fullgraph=True, options=options)
        self._is_graph = device.type != "cpu"
        self.steps_per_sync = STEPS_PER_SYNC if self._is_graph else 1
        self._lock = threading.Lock()
        self._buffers = model.new_cache(0)
        self._starts = torch.zeros(0, 1, dtype=torch.long, device=device)
        self._user: Callable[[], KVCache | None] = lambda: None  # the cache in the buffers
        self._static_of = weakref.WeakKeyDictionary[KVCache, StaticKVCache]()

    @contextmanager
    def cache_for(self, cache: KVCache, count: int) -> Iterator[KVCache]:
        """The static cache that stands for `cache` in `count` steps; other threads wait."""
        with self._lock:
            static, needed = self._static_of.get(cache), cache.longest + count
            if static is None or cache.keys[0] is not static.keys[0] or needed > cache.capacity:
                static = None  # frees buffers that the cache has left
                static = self._move_in(cache, needed)
            static.starts.copy_(torch.tensor(cache.lengths)[:, None])
            try:
                yield static
            finally:
                cache.lengths = [length + count for length in cache.lengths]

    def __call__(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """As `Steps`, with a cache of `cache_for`; the logits hold until the next call."""
        torch.compiler.cudagraph_mark_step_begin()
        if not self._is_graph and len(tokens) > 1:
            torch._dynamo.mark_dynamic(tokens, 0)
        with without_onednn() if len(tokens) == 1 else nullcontext():
            return self._compiled(tokens, cast(StaticKVCache, cache))

    def _move_in(self, cache: KVCache, tokens: int) -> StaticKVCache:
        """Moves a cache into the buffers, or into new ones if their capacity differs, rows are
        missing, another cache uses them, or they cannot be written to any more (inference mode). A
        batch that gets smaller keeps its addresses."""
        step = GPU_CAPACITY_STEP if self._is_graph else CPU_CAPACITY_STEP
        rows, capacity = len(cache.lengths), -(-tokens // step) * step
        is_taken = self._user() not in (None, cache)
        is_fixed = self._buffers.keys[0].is_inference() and not torch.is_inference_mode_enabled()
        fits = self._buffers.capacity == capacity and len(self._buffers.lengths) >= rows
        if is_taken or is_fixed or not fits:
            self._static_of.pop(cache, None)
            self._buffers = self.model.new_cache(0)  # frees the old ones first
            self._buffers = self.model.new_cache(rows, capacity)
            self._starts = self._starts.new_zeros(rows, 1)
        static = self._static_of[cache] = static_rows(self._buffers, rows, self._starts)
        buffers = [buffer for kind in static.kinds for buffer in getattr(static, kind)]
        for tensor in (static.starts, *buffers):
            if self._is_graph:
                torch._dynamo.mark_static_address(tensor, guard=False)
            else:
                changing = ([0] if rows > 1 else []) + ([2] if tensor.dim() == 4 else [])
                torch._dynamo.mark_dynamic(tensor, changing)
        move(cache, static)
        self._user = weakref.ref(cache)
        return static


class StaticKVCache(KVCache):
    """The first rows of another cache, in the same buffers, which must not grow.

    Attributes:
        starts: the lengths (batch, 1), on the device.
    """

    starts: Tensor
    uniform = False  # it is not known

    def key_count(self, seq: int) -> int:
        """The whole buffer, behind a mask."""
        return self.capacity

    def next_positions(self, seq: int) -> Tensor:
        """Positions (batch, seq), computed on the device."""
        return self.starts + torch.arange(seq, device=self.starts.device)

    def advance(self, seq: int) -> None:
        """Counts the tokens on the device; `cache_for` counts them for the host."""
        self.starts += seq


class StaticQuantizedKVCache(StaticKVCache, QuantizedKVCache):
    """The same for buffers of 8 bits."""


def static_rows(cache: KVCache, rows: int, starts: Tensor) -> StaticKVCache:
    """The first `rows` of a cache, static; `starts` (batch, 1) is where their lengths will be."""
    kind = StaticQuantizedKVCache if isinstance(cache, QuantizedKVCache) else StaticKVCache
    static = kind.__new__(kind)
    vars(static).update(vars(view_rows(cache, 0, rows)), starts=starts[:rows])
    return static


@torch.no_grad()
def move(cache: KVCache, target: KVCache) -> None:
    """Copies what a cache holds into the buffers of another, and lets it use those from then on."""
    for kind in cache.kinds:
        buffers = getattr(cache, kind)
        for layer, new in enumerate(getattr(target, kind)):
            new[:, :, : cache.longest] = buffers[layer][:, :, : cache.longest]
            buffers[layer] = new
