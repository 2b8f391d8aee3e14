"""Compiled steps: passes over one token a row, fused by torch.compile, recorded as a CUDA graph.

Slow: a pass of small matrices waits for Python, and on a GPU for a thousand kernels' launches.
Instead: torch.compile fuses what lies between matrices; a CUDA graph launches all kernels at once.
    Compiled code is for shapes, a recorded graph for addresses. So the KV cache is static: prompts
    are prefilled into buffers of a few sizes, of which a compiled pass sees all behind a mask, and
    the rows' lengths are a tensor on the device. On a CPU one version of the code runs for any
    capacity, and a second one for batches of several rows.
Gains: figures in README.md.
Costs: a minute or two at first, seconds once the code is on disk; a C++ compiler on a CPU.
Not for: prefill and draft tokens. Its CUDA kernels gave the model's logits in Triton's interpreter;
    no GPU has run them yet.
"""

from __future__ import annotations

import inspect
import os
import shutil
import weakref
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._triton import has_triton

from codellama.errors import RequestError
from codellama.fast.cpu_linear import without_onednn
from codellama.fast.quantized_kv_cache import QuantizedKVCache
from codellama.model.kv_cache import KVCache
from codellama.model.transformer import Transformer

CPU_CAPACITY_STEP, GPU_CAPACITY_STEP = 256, 1024
"""Tokens that divide a capacity. Masked keys are read, too; a GPU records a graph for each one."""
CUDA_OPTIONS: dict[str, Any] = {
    "triton.cudagraphs": True,
    # With tuning, inductor writes a product with one row as a sum, and fuses the dequantization of
    # its integers into it; 4 bits need more than 30 operations (PyTorch 2.13).
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


class CompiledStep:
    """A model's passes over one token a row, compiled at the first one: a step function (see
    `inference.scheduler`). The model, on one device, then makes static caches."""

    def __init__(self, model: Transformer, backend: str = "inductor") -> None:
        self.model = model
        is_quantized = issubclass(model.cache_type, QuantizedKVCache)
        model.cache_type = StaticQuantizedKVCache if is_quantized else StaticKVCache
        self._is_graph = model.tok_embeddings.weight.device.type != "cpu"
        self._free: KVCache | None = None  # buffers to use again, whose addresses a graph knows
        options: dict[str, Any] = {"options": CUDA_OPTIONS} if self._is_graph else {}
        if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
            # Dynamo gives up on code that several models have compiled often (PyTorch 2.13).
            options["isolate_recompiles"] = True
        self._compiled = torch.compile(model, backend=backend, fullgraph=True, **options)

    def new_cache(self, batch_size: int = 1, capacity: int = 0) -> KVCache:
        """An empty static cache; on a GPU in the buffers of one that nobody holds any more."""
        capacity = bucket(capacity, self._is_graph)
        cache, self._free = self._free, None
        fits = cache and cache.capacity == capacity and len(cache.lengths) >= batch_size
        # What inference mode has made cannot be written to outside of it.
        if not cache or not fits or cache.keys[0].is_inference():
            cache = self.model.new_cache(batch_size, capacity)
        cache.lengths = [0] * len(cache.lengths)
        lent = cache.rows(0, len(cache.lengths))
        if self._is_graph:
            weakref.finalize(lent, setattr, self, "_free", cache)
        return lent

    def __call__(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Tokens (batch, 1) -> float32 logits (batch, 1, vocab_size), valid until the next call."""
        rows = len(tokens)
        cache = cast(StaticKVCache, cache)
        cache.starts = torch.tensor(cache.lengths)[:, None].to(tokens.device)
        if not self._is_graph and rows > 1:
            torch._dynamo.mark_dynamic(tokens, 0)
            torch._dynamo.mark_dynamic(cache.starts, 0)
        if cache.marked is not cache.keys[0]:
            cache.marked = cache.keys[0]
            for buffer in (one for layers in cache.buffers() for one in layers):
                if self._is_graph:
                    torch._dynamo.mark_static_address(buffer, guard=False)
                else:
                    torch._dynamo.mark_dynamic(buffer, [0, 2] if rows > 1 else [2])
        torch.compiler.cudagraph_mark_step_begin()
        with without_onednn() if rows == 1 else nullcontext():
            logits = self._compiled(tokens, cache)
        cache.advance(1)
        return logits


def bucket(tokens: int, is_graph: bool) -> int:
    """The next capacity that static buffers may have."""
    step = GPU_CAPACITY_STEP if is_graph else CPU_CAPACITY_STEP
    return -(-tokens // step) * step


class StaticKVCache(KVCache):
    """A KV cache that compiled passes see whole, behind a mask; elsewhere an ordinary one.

    Attributes:
        starts: the lengths (batch, 1) on the device, for compiled passes.
        marked: the buffer for which torch.compile has been told which dimensions change.
    """

    starts: Tensor
    marked: Tensor | None = None

    def reserve(self, tokens: int) -> None:
        super().reserve(bucket(tokens, self.keys[0].device.type != "cpu"))

    @property
    def uniform(self) -> bool:
        return not torch.compiler.is_compiling() and super().uniform

    def key_count(self, seq: int) -> int:
        return self.capacity if torch.compiler.is_compiling() else super().key_count(seq)

    def next_positions(self, seq: int) -> Tensor:
        if torch.compiler.is_compiling():
            return self.starts + torch.arange(seq, device=self.starts.device)
        return super().next_positions(seq)

    def advance(self, seq: int) -> None:
        if not torch.compiler.is_compiling():  # after a compiled pass the step function does it
            super().advance(seq)


class StaticQuantizedKVCache(StaticKVCache, QuantizedKVCache):
    """The same for buffers of 8 bits."""
