"""A KV cache of 8 bits a number, for long contexts."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from codellama.model.kv_cache import KVCache
from codellama.weights.quantize import quantize_rows


class Int8KVCache(KVCache):
    """Rounds the vector of each token and head to 255 evenly spaced values, with a scale of its
    own.

    Takes half the memory of bfloat16. A layer is expanded when it is read, into memory that all
    layers use in turn; that makes decoding slower, the more so the longer the context is.

    Args:
        as for `KVCache`; `dtype` is that of what `write` takes and returns.
    """

    kinds: ClassVar[tuple[str, ...]] = ("keys", "values", "key_scales", "value_scales")

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
        super().__init__(n_layers, n_kv_heads, head_dim, batch_size, capacity, torch.int8, device)
        scales = KVCache(n_layers, n_kv_heads, 1, batch_size, capacity, dtype, device)
        self.key_scales, self.value_scales = scales.keys, scales.values
        self._rooms = [torch.empty(0, dtype=dtype, device=device) for _ in range(2)]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `KVCache.write`; what is returned holds until the next call."""
        keys, key_scales = _rounded(keys)
        values, value_scales = _rounded(values)
        end = self._store(
            layer, keys=keys, values=values, key_scales=key_scales, value_scales=value_scales
        )
        return (
            self._expanded(0, self.keys[layer], self.key_scales[layer], end),
            self._expanded(1, self.values[layer], self.value_scales[layer], end),
        )

    def _expanded(self, room: int, numbers: Tensor, scales: Tensor, end: int) -> Tensor:
        numbers, scales = numbers[:, :, :end], scales[:, :, :end]
        if torch.compiler.is_compiling():  # which fuses it with what reads it
            return numbers * scales
        if self._rooms[room].numel() < numbers.numel():
            self._rooms[room] = self._rooms[room].new_empty(numbers.numel() * 3 // 2)
        expanded = self._rooms[room][: numbers.numel()].view(numbers.shape)
        return expanded.copy_(numbers).mul_(scales)


def _rounded(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The integers of (..., head_dim), and the scales (..., 1)."""
    values, scales = quantize_rows(vectors)
    return values, scales[..., None]
