"""A KV cache of 8 bits a number.

Slow: nothing; but with long contexts the KV cache takes more memory than the weights.
Instead: each token's and head's vector is rounded to 255 evenly spaced values, with its own scale.
Gains: half the memory of bfloat16.
Costs: without compiled steps decoding gets slower, the more so the longer the context is: a layer
    is dequantized when it is read, into memory that all layers use in turn.
Not for: short contexts, whose cache is small compared with the weights.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import torch
from torch import Tensor

from codellama.fast.quantization import quantize_rows
from codellama.model.kv_cache import KVCache


class QuantizedKVCache(KVCache):
    """As `KVCache`; `dtype` is that of what `write` takes and returns.

    Attributes:
        keys, values: int8, as in `KVCache`.
        key_scales, value_scales: a tensor (batch, kv_heads, capacity, 1) for each layer.
    """

    def __init__(self, *shape: Any, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        options["dtype"] = torch.int8
        super().__init__(*shape, **options)
        self.key_scales = [one.new_zeros(*one.shape[:3], 1, dtype=dtype) for one in self.keys]
        self.value_scales = [one.new_zeros(*one.shape[:3], 1, dtype=dtype) for one in self.values]
        self._dequantized = [torch.empty(0, dtype=dtype)] * 2

    def buffers(self) -> list[list[Tensor]]:
        return [self.keys, self.values, self.key_scales, self.value_scales]

    def rows(self, start: int, stop: int) -> KVCache:
        part = copy(self)
        part.keys, part.values, part.key_scales, part.value_scales = (
            [one[start:stop] for one in layers] for layers in self.buffers()
        )
        part.lengths = self.lengths[start:stop]
        return part

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """As `KVCache.write`; what is returned is valid until the next call."""
        (keys, key_scales), (values, value_scales) = quantize_rows(keys), quantize_rows(values)
        new = keys, values, key_scales[..., None], value_scales[..., None]
        end = self._store(*zip(self.buffers(), new, strict=True), layer=layer)
        keys, values, key_scales, value_scales = (one[layer][:, :, :end] for one in self.buffers())
        return self._dequantize(0, keys, key_scales), self._dequantize(1, values, value_scales)

    def _dequantize(self, which: int, integers: Tensor, scales: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # which fuses it with what reads it
            return integers * scales
        if self._dequantized[which].numel() < integers.numel():
            self._dequantized[which] = scales.new_empty(integers.numel() * 3 // 2)
        numbers = self._dequantized[which][: integers.numel()].view(integers.shape)
        return numbers.copy_(integers).mul_(scales)
