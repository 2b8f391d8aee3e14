"""Matrices of 16 bits as FBGEMM, the matrix library inside PyTorch on x86, lays them out.

Processors with AVX2 alone multiply no numbers of 16 bits: PyTorch's own products read such weights
at half the memory's speed, and for many rows of activations widened copies are needed. FBGEMM
widens in registers. On two such cores it took 0.6 of the time for one row, a quarter for 8, and 0.7
for 512. Laying out takes time: there, 14 seconds for a billion weights.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from codellama.weights.downloads import CheckpointError
from codellama.weights.layout import Packed, PackedLinear


def has_fbgemm(device: torch.device) -> bool:
    """Whether PyTorch has FBGEMM for a device."""
    return device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines


class FbgemmLinear(PackedLinear):
    """A linear layer whose weight is float16 in FBGEMM's order (Khudia et al. 2021, arXiv
    2101.05615). Products are float32 inside.

    What bfloat16 stores becomes float16 unchanged from 6e-5 on; smaller numbers move by 3e-8 at
    most, a thousandth of what bfloat16 itself rounds a weight of 0.02 by.
    """

    _packed: Any

    def pack(self, weight: Tensor) -> None:
        """Takes a weight of 16 bits; a CheckpointError where float16 cannot hold it."""
        largest = weight.abs().max()
        if weight.dtype == torch.float32 or largest > torch.finfo(torch.float16).max:
            raise CheckpointError(
                f"a matrix of {weight.dtype} has weights of up to {largest:.3g}; to be packed it "
                "must have 16 bits, and none above 65504: load it unpacked"
            )
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None)
        self.opaque_bytes = 2 * weight.numel()
        self.weight = None

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.quantized.linear_dynamic_fp16(x.float(), self._packed)
        return product.to(x.dtype)


class Fbgemm(Packed):
    """Holds the matrices in FBGEMM's order; as many are laid out at once as there are threads."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(torch.get_num_threads())
        self._running: deque[Future[None]] = deque()

    def layer(self, name: str, linear: nn.Linear) -> FbgemmLinear:
        """One for each matrix."""
        return FbgemmLinear(linear.in_features, linear.out_features)

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
