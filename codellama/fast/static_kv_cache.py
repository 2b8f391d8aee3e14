"""A static KV cache: buffers and shapes stay the same from pass to pass.

Slow: a cache that grows has other shapes at each step, and torch.compile compiles for shapes; a
    CUDA graph is recorded for addresses.
Instead: passes see whole buffers behind a mask, and the lengths of the rows are a tensor on the
    device.
Gains: what `compiled` gains.
Costs: masked keys are read as well, on a GPU.
Not for: anything but `compiled`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from codellama.fast.int8_kv_cache import Int8KVCache
from codellama.inference.cache_rows import view_rows
from codellama.model.kv_cache import KVCache


class StaticKVCache(KVCache):
    """The first rows of another cache, in the same buffers, which must not grow.

    Attributes:
        starts: the lengths (batch, 1), on the device.
        seen: a tensor of as many elements (key_count) as passes see keys; None: they see all. A
            number would be compiled in, or give code for each; the size of a tensor can be marked
            as dynamic (Dynamo, PyTorch 2.13).
    """

    starts: Tensor
    seen: Tensor | None = None

    @property
    def uniform(self) -> bool:
        """Never known."""
        return False

    def key_count(self, seq: int) -> int:
        """Keys that a pass sees, the new tokens' and masked ones included."""
        return self.capacity if self.seen is None else len(self.seen)

    def next_positions(self, seq: int) -> Tensor:
        """Positions of the next `seq` tokens of each row: (batch, seq)."""
        return self.starts + torch.arange(seq, device=self.starts.device)

    def advance(self, seq: int) -> None:
        """Counts `seq` tokens, on the device."""
        self.starts += seq

    def tensors(self) -> list[Tensor]:
        """All that a pass writes to."""
        return [self.starts, *(buffer for kind in self.kinds for buffer in getattr(self, kind))]


class StaticInt8KVCache(StaticKVCache, Int8KVCache):
    """The same for buffers of 8 bits."""


def static_rows(cache: KVCache, rows: int, starts: Tensor) -> StaticKVCache:
    """The first `rows` of a cache, static; `starts` (batch, 1) is where their lengths will be."""
    kind = StaticInt8KVCache if isinstance(cache, Int8KVCache) else StaticKVCache
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
