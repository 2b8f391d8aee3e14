"""How to train fast on the device at hand; changes results by rounding alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
from torch import Tensor

from codellama.model.transformer import Transformer

GROUP_TOKENS = {"cpu": 2_048, "cuda": 16_384, "mps": 8_192}
"""Tokens that run through the model together. On a CPU 2,048 were no slower than 8,192, and take a
quarter of the memory; the others are estimates."""
Loss = Callable[[Tensor], Tensor]


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device multiplies matrices of it faster than of float32, else None."""
    fast = False
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu" and torch.backends.mkldnn.is_available():
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private to PyTorch
        fast = any(getattr(torch.cpu, check, bool)() for check in checks)
    return torch.bfloat16 if fast else None


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it generates code with; never without `codellama.fast`."""
    try:
        return importlib.import_module("codellama.fast.compiled").can_compile(device)
    except ImportError:
        return False


@dataclass(frozen=True)
class Machine:
    """One device, driven by one process; `distributed.Cluster` is several.

    Args:
        device: where the model is.
        dtype: of matrix products; None: float32. The weights are float32 in any case.
        compile: fuse the loss with torch.compile.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    compile: bool = False
    is_shared: ClassVar[bool] = False  # by several processes

    @classmethod
    def best(cls, device: torch.device) -> Machine:
        """What is fastest on a device, or on all that torchrun has started processes for."""
        if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
            from codellama.training.distributed import Cluster

            return Cluster.joined(device)
        return cls(device, fast_dtype(device), can_compile(device))

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and reports."""
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

    def rows_at_once(self, sequence: int, batch: int) -> int:
        """Sequences that run through the model together; divides `batch`, so that all groups have
        one shape."""
        most = max(1, GROUP_TOKENS.get(self.device.type, 2_048) // sequence)
        return max(count for count in range(1, most + 1) if batch % count == 0)

    def compiled(self, loss: Loss, example: Tensor) -> Loss:
        """`loss` fused by torch.compile, its backward pass included; as it is where that fails."""
        fused: Loss = torch.compile(loss)
        try:
            with _noticing_interrupts():
                fused(example).backward()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of a compiler, or the system's when it is asked for one
            reason = f"{error}".strip().partition("\n")[0][:200]
            warnings.warn(f"training goes on without torch.compile: {reason}", stacklevel=2)
            return loss
        return fused


@contextlib.contextmanager
def _noticing_interrupts() -> Iterator[None]:
    """Ends with KeyboardInterrupt after Ctrl-C, which torch.compile may swallow or comment on."""
    seen = []

    def interrupted(*_: object) -> NoReturn:
        seen.append(True)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, interrupted) if is_main else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)
        if seen:
            raise KeyboardInterrupt
