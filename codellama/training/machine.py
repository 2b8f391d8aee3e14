"""How to train on the devices at hand; changes results by rounding alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from codellama.model.transformer import Transformer

GROUP_TOKENS = {"cpu": 2_048, "cuda": 16_384, "mps": 8_192}
"""Tokens that run through the model together. On a CPU 2,048 were no slower than 8,192, and take a
quarter of the memory; the others are estimates."""


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device multiplies matrices of it faster than of float32, else None."""
    fast = False
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and torch.backends.mkldnn.is_available():
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private to PyTorch
        fast = any(getattr(torch.cpu, check, bool)() for check in checks)
    return torch.bfloat16 if fast else None


@dataclass(frozen=True)
class Machine:
    """One device, driven by one process; `distributed.Cluster` is several.

    Args:
        device: where the model is.
        dtype: of matrix products; None: float32. The weights are float32 in any case.

    Attributes:
        is_shared: whether several processes hold the model.
        is_first: whether this process is the one that writes and reports.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    is_shared: ClassVar[bool] = False

    @classmethod
    def best(cls, device: torch.device) -> Machine:
        """What is fastest on a device, or on all those that torchrun started processes for."""
        if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
            from codellama.training.distributed import Cluster

            return Cluster.joined(device)
        return cls(device, fast_dtype(device))

    @property
    def is_first(self) -> bool:
        return True

    def place(self, model: Transformer) -> Transformer:
        """The model in float32, ready to be trained here."""
        return model.to(self.device, torch.float32)

    def autocast(self) -> torch.autocast:
        """Lets matrix products have `dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def share(self, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What this process computes of a batch, and what to divide its summed loss by."""
        return rows, tokens

    def mean(self, loss: Tensor) -> float:
        """The mean of the processes' losses."""
        return loss.item()

    def once(self, write: Callable[[], object]) -> None:
        """Calls `write`; of several processes, in the first alone."""
        write()
