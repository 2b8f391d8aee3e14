"""The KV cache: keys and values of the tokens that a model has already seen."""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor


class KVCache:
    """Keys and values of every layer for a batch of sequences, each of its own length.

    Row `r` has filled its first `lengths[r]` positions. Lowering a length forgets tokens: what lies
    behind it is masked. Buffers grow when a pass needs more; reserve positions to avoid copies.

    Use it under `torch.no_grad()`: gradients flow through one pass, not through several.

    Args:
        n_layers, n_kv_heads, head_dim: the model's.
        batch_size: number of sequences.
        capacity: tokens that each sequence can hold before the buffers grow.

    Attributes:
        keys, values: a tensor (batch, kv_heads, capacity, head_dim) for each layer.
    """

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
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(n_layers)]
        self.values = [torch.zeros_like(keys) for keys in self.keys]
        self.lengths = [0] * batch_size

    @property
    def capacity(self) -> int:
        """Tokens that fit in a row before the buffers grow."""
        return self.keys[0].shape[2]

    @property
    def longest(self) -> int:
        """Tokens in the longest row."""
        return max(self.lengths, default=0)

    @property
    def uniform(self) -> bool:
        """Whether all rows have the same length, so that one slice serves them all."""
        return min(self.lengths, default=0) == self.longest

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token of one row takes in all layers, in bytes."""
        buffers = [buffer for layers in self.buffers() for buffer in layers]
        return sum(buffer.shape[1] * buffer.shape[3] * buffer.itemsize for buffer in buffers)

    def buffers(self) -> list[list[Tensor]]:
        """Everything that is stored, a list of one tensor a layer for each kind."""
        return [self.keys, self.values]

    def key_count(self, seq: int) -> int:
        """Keys that a pass over the next `seq` tokens sees, masked ones included."""
        return self.longest + seq

    def needs_mask(self, seq: int) -> bool:
        """Whether a mask is needed: not in an empty cache, nor for one token that sees all keys."""
        return not self.uniform or (seq > 1 and self.longest > 0)

    def next_positions(self, seq: int) -> Tensor:
        """Positions of the next `seq` tokens: (batch, seq), or (1, seq) if `uniform`."""
        starts = torch.tensor(self.lengths[:1] if self.uniform else self.lengths, dtype=torch.long)
        return (starts[:, None] + torch.arange(seq)).to(self.keys[0].device)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores one layer's keys and values of the next tokens; `advance` comes after all layers.

        Args:
            keys, values: (batch, seq, kv_heads, head_dim), in the order of `next_positions`.

        Returns:
            Keys and values so far, (batch, kv_heads, key_count, head_dim), not copied.
        """
        end = self._store((self.keys, keys), (self.values, values), layer=layer)
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def _store(self, *pairs: tuple[list[Tensor], Tensor], layer: int) -> int:
        """Writes new tensors (batch, seq, kv_heads, channels) to the next positions of a layer's
        buffers; returns where they end in the longest row."""
        seq = pairs[0][1].shape[1]
        end = self.key_count(seq)
        if end > self.capacity:
            self.reserve(end + end // 2)
        positions = None if self.uniform else self.next_positions(seq)
        for layers, new in pairs:
            if positions is None:
                layers[layer][:, :, end - seq : end] = new.transpose(1, 2)
            else:
                rows = torch.arange(len(positions), device=positions.device)[:, None]
                layers[layer][rows, :, positions] = new.to(layers[layer].dtype)
        return end

    def advance(self, seq: int) -> None:
        """Counts `seq` tokens that every layer has written as part of each row."""
        self.lengths = [length + seq for length in self.lengths]

    def rows(self, start: int, stop: int) -> KVCache:
        """A cache of some of the rows, in the same memory; it must not grow."""
        part = copy(self)
        part.keys, part.values = ([one[start:stop] for one in kind] for kind in self.buffers())
        part.lengths = self.lengths[start:stop]
        return part

    @torch.no_grad()
    def copy_row(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of one row to another."""
        for buffer in (buffer for layers in self.buffers() for buffer in layers):
            buffer[target, :, :length] = buffer[source, :, :length]

    @torch.no_grad()
    def reserve(self, tokens: int) -> None:
        """Grows the buffers to `tokens` positions, one after the other."""
        for layers in self.buffers():
            for layer, old in enumerate(layers):
                batch, heads, capacity, channels = old.shape
                if tokens > capacity:
                    layers[layer] = old.new_zeros(batch, heads, tokens, channels)
                    layers[layer][:, :, : self.longest] = old[:, :, : self.longest]
