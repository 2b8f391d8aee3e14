"""The processes that torchrun starts, or a launcher that sets the same variables."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

T = TypeVar("T")


def is_launched() -> bool:
    """Whether this process is one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def launched_mesh(device: torch.device | None = None) -> DeviceMesh | None:
    """Joins the other processes; None for a process that stands alone.

    Args:
        device: CUDA: each process takes a GPU of its own, and they speak over NCCL. Others: they
            share out the CPU's cores, and speak over Gloo. None: CUDA where there is one.
    """
    if not is_launched():
        return None
    if device.type == "cuda" if device else torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        kind = "cuda"
    else:
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // neighbours))
        kind = "cpu"
    return init_device_mesh(kind, (int(os.environ["WORLD_SIZE"]),))


def from_first_rank(read: Callable[[], T], mesh: DeviceMesh | None) -> T:
    """What `read` returns; of several processes the first alone calls it, and tells the others."""
    if mesh is None:
        return read()
    box = [read() if mesh.get_rank() == 0 else None]
    dist.broadcast_object_list(box, group=mesh.get_group(), group_src=0)
    return cast(T, box[0])


def leave(code: int) -> NoReturn:
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
