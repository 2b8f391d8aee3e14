"""A KV cache for passes whose shapes stay, so that they are compiled once, or recorded and played
again."""

from __future__ import annotations

from copy import copy
from functools import cache as once
from typing import cast

import torch
from torch import Tensor

from codellama.model.kv_cache import KVCache


class FixedKVCache(KVCache):
    """The first rows of another cache, in the same memory.

    How far it is filled is known to the device alone, and passes see all of the room, or what
    `seen` says, behind a mask. It has to fit: such a cache does not grow.

    Attributes:
        starts: the lengths (batch, 1), on the device.
        seen: any tensor of as many elements (key_count) as passes see keys: the size of a tensor is
            what torch.compile can take as it comes. None: they see all of the room.
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
        """Where the next `seq` tokens of each row go: (batch, seq)."""
        return self.starts + torch.arange(seq, device=self.starts.device)

    def advance(self, seq: int) -> None:
        """Counts `seq` tokens, on the device."""
        self.starts += seq

    def tensors(self) -> list[Tensor]:
        """All that a pass writes to."""
        return [self.starts, *(store for kind in self.kinds for store in getattr(self, kind))]


def fixed(room: KVCache, rows: int, starts: Tensor) -> FixedKVCache:
    """The first `rows` of a cache of any type, fixed; the rows of `starts` (batch, 1) go along."""
    part = cast(FixedKVCache, copy(room))
    part.__class__ = _fixed_type(type(room))  # type: ignore[arg-type]
    for kind in room.kinds:
        setattr(part, kind, [store[:rows] for store in getattr(room, kind)])
    part.starts, part.seen, part.lengths = starts[:rows], None, []
    return part


@once
def _fixed_type(kind: type[KVCache]) -> type[FixedKVCache]:
    return type(f"Fixed{kind.__name__}", (FixedKVCache, kind), {})


@torch.no_grad()
def move(cache: KVCache, room: KVCache) -> None:
    """Copies what a cache holds to the memory of another, which has as many rows and as much space;
    it lives there from then on."""
    for kind in cache.kinds:
        stores = getattr(cache, kind)
        for layer, new in enumerate(getattr(room, kind)):
            new[:, :, : cache.longest] = stores[layer][:, :, : cache.longest]
            stores[layer] = new
