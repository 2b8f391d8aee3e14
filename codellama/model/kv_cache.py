"""The KV cache: keys and values of the tokens that a model has already seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer for a batch of sequences, each of its own length.

    A layer's keys are one tensor (batch, kv_heads, capacity, head_dim), its values another. Row `r`
    has filled its first `lengths[r]` positions. What lies behind them is masked, so a row is
    shortened by lowering its length; it has to be finite all the same, since a weight of 0 does not
    erase a NaN. The cache grows when a forward pass needs more room: reserve what a request needs,
    and growing never copies.

    Meant for `torch.no_grad()`: gradients flow through one pass that writes to the cache, not
    through several.

    Args:
        n_layers, n_kv_heads, head_dim: the model's.
        batch_size: number of sequences.
        capacity: tokens of room for each sequence.
    """

    kinds: ClassVar[tuple[str, ...]] = ("keys", "values")

    def __init__(
        self,
        n_layers: int,
        n_kv_heads: int,
        head_dim: int,
        batch_size: int,
        capacity: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        shape = (batch_size, n_kv_heads, capacity, head_dim)
        stores = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(2 * n_layers)]
        self.keys, self.values = stores[::2], stores[1::2]
        self.lengths = [0] * batch_size

    @property
    def bytes_per_token(self) -> int:
        """Memory that a token of a sequence takes in all layers."""
        stores = [store for kind in self.kinds for store in getattr(self, kind)]
        return sum(store.shape[1] * store.shape[3] * store.itemsize for store in stores)

    @property
    def capacity(self) -> int:
        """Tokens that fit in a row before the cache has to grow."""
        return self.keys[0].shape[2]

    @property
    def longest(self) -> int:
        """Tokens in the longest row."""
        return max(self.lengths, default=0)

    @property
    def uniform(self) -> bool:
        """Whether all rows have the same length, so that one slice serves them all."""
        return min(self.lengths, default=0) == self.longest

    def key_count(self, seq: int) -> int:
        """Keys that a pass over the next `seq` tokens sees, masked ones included."""
        return self.longest + seq

    def needs_mask(self, seq: int) -> bool:
        """Whether the next `seq` tokens are neither the first ones nor one that sees all."""
        return not self.uniform or (seq > 1 and self.longest > 0)

    def next_positions(self, seq: int) -> Tensor:
        """Where the next `seq` tokens of each row go: (batch, seq), or (1, seq) if `uniform`."""
        starts = torch.tensor(self.lengths[:1] if self.uniform else self.lengths, dtype=torch.long)
        return (starts[:, None] + torch.arange(seq)).to(self.keys[0].device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one layer's keys and values of the next tokens; `advance` follows the last layer.

        Args:
            keys, values: (batch, seq, kv_heads, head_dim), where (batch, seq) go to
                `next_positions`.

        Returns:
            Keys and values of all tokens so far, (batch, kv_heads, key_count, head_dim), not
            copied.
        """
        end = self._store(layer, keys=keys, values=values)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def _store(self, layer: int, **news: Tensor) -> int:
        """Puts what is new of each kind in its place; returns where it ends in the longest row."""
        seq = news["keys"].shape[1]
        end = self.key_count(seq)
        self.reserve(end, spare=end // 2)
        positions = None if self.uniform else self.next_positions(seq)
        for kind, new in news.items():
            store = getattr(self, kind)[layer]
            if positions is None:
                store[:, :, end - seq : end] = new.transpose(1, 2)
            else:
                rows = torch.arange(len(positions), device=positions.device)[:, None]
                store[rows, :, positions] = new
        return end

    def advance(self, seq: int) -> None:
        """Counts `seq` tokens that every layer has written as part of each row."""
        self.lengths = [length + seq for length in self.lengths]

    def reserve(self, tokens: int, spare: int = 0) -> None:
        """Makes room for `tokens` in each row; adds `spare` if it has to copy for that."""
        if tokens > self.capacity:
            self._rebuild([(self, row) for row in range(len(self.lengths))], tokens + spare)

    def keep(self, rows: Sequence[int]) -> None:
        """Leaves only `rows`, in the order given."""
        self._rebuild([(self, row) for row in rows], self.capacity)

    def join(self, others: Sequence[KVCache], capacity: int) -> None:
        """Appends the rows of `others`, which are used up by it, with room for `capacity` tokens
        in each row or for the longest one."""
        rows = [(cache, row) for cache in (self, *others) for row in range(len(cache.lengths))]
        self._rebuild(rows, max(capacity, *(cache.longest for cache, _ in rows)))

    @torch.no_grad()
    def _rebuild(self, rows: Sequence[tuple[KVCache, int]], capacity: int) -> None:
        """Makes `rows` this cache's own; layer by layer, so that one layer exists twice, not
        all."""
        lengths = [cache.lengths[row] for cache, row in rows]
        for layer in range(len(self.keys)):
            for kind in self.kinds:
                old = getattr(self, kind)[layer]
                _, heads, _, channels = old.shape
                new = old.new_zeros(len(rows), heads, capacity, channels)
                for target, (cache, row), length in zip(new, rows, lengths, strict=True):
                    target[:, :length] = getattr(cache, kind)[layer][row, :, :length]
                for cache in (self, *(cache for cache, _ in rows)):
                    getattr(cache, kind)[layer] = new  # lets go of the old layer
        self.lengths = lengths
