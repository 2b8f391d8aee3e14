"""Matrices that are held in the order of a processor's library, to be read faster; see
`library_products`."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor, nn

from codellama.weights.downloads import CheckpointError
from codellama.weights.layout import Packed, PackedLinear
from codellama.weights.library_products import Product, half_product, int8_product


def can_pack(device: torch.device) -> bool:
    """Whether PyTorch has such a library for a device."""
    return device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines


class ReorderedLinear(PackedLinear):
    """A linear layer whose weight is in the order of the library that suits it and the processor.

    Shape:
        (..., in) -> (..., out)
    """

    _product: Product

    def pack(self, weight: Tensor) -> None:
        """Takes a weight of 16 bits; a CheckpointError for others."""
        if weight.dtype.itemsize != 2:
            raise CheckpointError(
                f"a matrix is {weight.dtype}; to be packed it must have 16 bits: load it unpacked"
            )
        self._product = half_product(weight)
        self.opaque_bytes = 2 * weight.numel()
        self.weight = None

    def forward(self, x: Tensor) -> Tensor:
        return self._product(x)


class ReorderedInt8Linear(ReorderedLinear):
    """As `ReorderedLinear`, with 8 bits a weight and a scale for each row."""

    def pack(self, weight: Tensor) -> None:
        """Rounds a weight as `Int8Linear` does."""
        self._product = int8_product(weight)
        self.opaque_bytes = weight.numel()
        self.weight = None


class Reordered(Packed):
    """Holds the matrices in a library's order; as many are packed at once as there are threads.

    Args:
        quantize: "int8" rounds them.
    """

    def __init__(self, quantize: str | None = None) -> None:
        self._kind = ReorderedInt8Linear if quantize else ReorderedLinear
        self._pool = ThreadPoolExecutor(torch.get_num_threads())
        self._running: deque[Future[None]] = deque()

    def layer(self, name: str, linear: nn.Linear) -> ReorderedLinear:
        """One for each matrix."""
        return self._kind(linear.in_features, linear.out_features)

    def place(self, owner: nn.Module, leaf: str, share: Tensor) -> None:
        """Starts to pack a matrix; waits if enough are on their way."""
        if len(self._running) >= torch.get_num_threads():
            self._running.popleft().result()
        self._running.append(self._pool.submit(super().place, owner, leaf, share))

    def finish(self) -> None:
        """Waits for the last ones."""
        while self._running:
            self._running.popleft().result()
        self._pool.shutdown()
