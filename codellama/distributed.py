"""The processes that torchrun starts, or a launcher that sets the same variables."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from codellama.errors import RequestError

T = TypeVar("T")
TIMEOUT = timedelta(hours=12)
"""For which others wait while the first process reads its user's line, or writes a checkpoint."""


def is_launched() -> bool:
    """Whether this process is one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def processor_count() -> int:
    """Processors that this process may use."""
    return len(_processors())


def _processors(process: int = 0) -> set[int]:
    if sys.platform == "linux":
        return os.sched_getaffinity(process)
    return {*range(os.cpu_count() or 1)}


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
        shares = neighbours if _processors() == _processors(os.getppid()) else 1  # or is bound
        torch.set_num_threads(max(1, len(_processors()) // shares))
        kind = "cpu"
    if not dist.is_initialized():
        dist.init_process_group(timeout=TIMEOUT)
    return init_device_mesh(kind, (int(os.environ["WORLD_SIZE"]),))


def broadcast(read: Callable[[], T], mesh: DeviceMesh | None) -> T:
    """What `read` returns; of several processes the first alone calls it, and tells the others."""
    if mesh is None:
        return read()
    box = [read() if mesh.get_rank() == 0 else None]
    dist.broadcast_object_list(box, group=mesh.get_group(), group_src=0)
    return cast(T, box[0])


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
