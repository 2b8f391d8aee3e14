"""The processes that torchrun starts, or a launcher that sets the same variables."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from codellama.errors import RequestError

T = TypeVar("T")
TIMEOUT = timedelta(hours=12)
"""For which others wait while the first process reads its user's line, or writes a checkpoint."""


def is_launched() -> bool:
    """Whether this process is one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def is_first() -> bool:
    """Whether this process speaks for all: it is alone, or the first of several."""
    return not is_launched() or os.environ["RANK"] == "0"


def processor_count() -> int:
    """Processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def init_mesh(device: torch.device | None = None) -> DeviceMesh | None:
    """Joins the other processes; None for a process that stands alone.

    Args:
        device: CUDA: each process takes a GPU of its own, and they speak over NCCL. Others: they
            share out the CPU's cores, and speak over Gloo. None: CUDA where there is one.

    Raises:
        RequestError: there are fewer GPUs than processes.
    """
    if not is_launched() or os.environ["WORLD_SIZE"] == "1":
        return None
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda" if device else torch.cuda.is_available():
        gpus, own = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
        is_chosen = (gpus, own) == (1, 0) and "CUDA_VISIBLE_DEVICES" in os.environ
        if neighbours > gpus and not is_chosen:
            raise RequestError(
                f"{neighbours} processes were started, but this machine has {gpus} GPUs; start one "
                "process for each, or choose the device cpu"
            )
        torch.cuda.set_device(own)
        kind = "cuda"
    else:
        torch.set_num_threads(max(1, processor_count() // neighbours))
        kind = "cpu"
    if not dist.is_initialized():
        dist.init_process_group(timeout=TIMEOUT)
    return init_device_mesh(kind, (int(os.environ["WORLD_SIZE"]),))


def broadcast(read: Callable[[], T]) -> T:
    """What `read` returns; of processes that have joined the first alone calls it, and tells the
    others."""
    if not dist.is_initialized():
        return read()
    box = [read() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box)
    return cast(T, box[0])


@dataclass(frozen=True)
class DistributedContext:
    """Where this process computes, and with which others.

    Attributes:
        device: this process's own.
        dtype: of matrix products; None: float32, as the weights are.
        mesh: the processes that work together; None: this one is alone.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    mesh: DeviceMesh | None = None

    @classmethod
    def join(cls, device: torch.device) -> DistributedContext:
        """Joins the other processes, if torchrun started this one. The dtype is bfloat16 where the
        device multiplies matrices of it faster than of float32."""
        mesh = init_mesh(device)
        device = torch.device(mesh.device_type) if mesh else device
        fast = False
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        elif device.type == "cpu" and torch.backends.mkldnn.is_available():
            checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private to PyTorch
            fast = any(getattr(torch.cpu, check, bool)() for check in checks)
        return cls(device, torch.bfloat16 if fast else None, mesh)

    @property
    def size(self) -> int:
        """The number of processes."""
        return self.mesh.size() if self.mesh else 1

    @property
    def rank(self) -> int:
        """This process's number; process 0 writes and reports."""
        return self.mesh.get_rank() if self.mesh else 0

    def on_rank_zero(self, write: Callable[[], T]) -> T:
        """Calls `write` in the first process; the others wait, and return or raise what it does."""

        def attempt() -> tuple[T | None, Exception | None]:
            try:
                return write(), None
            except (ValueError, OSError) as error:
                return None, error

        result, error = broadcast(attempt)
        if error:
            raise error
        return cast(T, result)

    def shard(self, rows: Tensor, padding: int) -> Tensor:
        """The rows of a batch that this process computes, as many as any other, on its device."""
        rows = F.pad(rows, (0, 0, 0, -len(rows) % self.size), value=padding)
        return rows[self.rank :: self.size].to(self.device, torch.long)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.mesh:
            dist.all_reduce(values)
        return values


def shutdown(code: int) -> NoReturn:
    """Ends one of several processes; after success only when all have come this far.

    Gloo's threads may abort a process that is torn down as usual while others end beside it, so the
    interpreter's own clean-up is left out.
    """
    if code == 0 and dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # one that has died is reported by its launcher
            dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
