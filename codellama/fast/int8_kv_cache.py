"""A KV cache of 8 bits a number.

Slow: nothing; long contexts take more memory than the weights.
Instead: the vector of each token and head is rounded to 255 evenly spaced values, with a scale of
    its own.
Gains: half the memory of bfloat16.
Costs: without compiled steps decoding gets slower, the more so the longer the context is: a layer
    is expanded when it is read, into memory that all layers use in turn.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from codellama.fast.int8 import quantize_rows
from codellama.model.kv_cache import KVCache


class Int8KVCache(KVCache):
    """As `KVCache`; `dtype` is that of what `write` takes and returns."""

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
        shape: dict[str, Any] = {"batch_size": batch_size, "capacity": capacity, "device": device}
        super().__init__(n_layers, n_kv_heads, head_dim, dtype=torch.int8, **shape)
        scales = KVCache(n_layers, n_kv_heads, 1, dtype=dtype, **shape)
        self.key_scales, self.value_scales = scales.keys, scales.values
        self._expanded = [torch.empty(0, dtype=dtype, device=device) for _ in range(2)]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `KVCache.write`; what is returned holds until the next call."""
        keys, key_scales = quantize_rows(keys)
        values, value_scales = quantize_rows(values)
        end = self._store(
            layer,
            keys=keys,
            values=values,
            key_scales=key_scales[..., None],
            value_scales=value_scales[..., None],
        )
        return (
            self._expand(0, self.keys[layer][:, :, :end], self.key_scales[layer][:, :, :end]),
            self._expand(1, self.values[layer][:, :, :end], self.value_scales[layer][:, :, :end]),
        )

    def _expand(self, which: int, integers: Tensor, scales: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # which fuses it with what reads it
            return integers * scales
        if self._expanded[which].numel() < integers.numel():
            self._expanded[which] = scales.new_empty(integers.numel() * 3 // 2)
        expanded = self._expanded[which][: integers.numel()].view(integers.shape)
        return expanded.copy_(integers).mul_(scales)
