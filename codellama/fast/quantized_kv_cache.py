"""A KV cache of 8 bits a number.

Slow: nothing; but with long contexts the KV cache takes more memory than the weights.
Instead: each token's and head's vector is rounded to 255 evenly spaced values, with its own scale.
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


class QuantizedKVCache(KVCache):
    """As `KVCache`; `dtype` is that of what `write` takes and returns."""

    kinds: ClassVar[tuple[str, ...]] = ("keys", "values", "key_scales", "value_scales")

    def __init__(self, *shape: Any, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        options["dtype"] = torch.int8
        super().__init__(*shape, **options)
        self.key_scales = [one.new_zeros(*one.shape[:3], 1, dtype=dtype) for one in self.keys]
        self.value_scales = [one.new_zeros(*one.shape[:3], 1, dtype=dtype) for one in self.values]
        self._expanded = [scales[0].new_empty(0) for scales in (self.key_scales, self.value_scales)]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `KVCache.write`; what is returned holds until the next call."""
        (keys, key_scales), (values, value_scales) = quantize_rows(keys), quantize_rows(values)
        scales = {"key_scales": key_scales[..., None], "value_scales": value_scales[..., None]}
        end = self._store(layer, keys=keys, values=values, **scales)
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
