"""Tensor parallelism: one model laid over several processes, each with a device of its own.

The plan is that of Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053), laid over the unchanged
`Transformer` with PyTorch's DTensor. The first matrices of attention and feed-forward are cut by
rows of their output, so that each process computes some of the heads and some of the hidden
channels; the second ones by columns of their input, so that one all-reduce after each adds the
shares up. The embedding is cut by channels (gathering them moves half of what summing over a cut
vocabulary would), the output by vocabulary, and the logits are gathered for sampling.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from codellama.inference.requests import RequestError
from codellama.model.attention import Attention
from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.weights.checkpoint import Region
from codellama.weights.layout import Layout

T = TypeVar("T")


class TensorParallel(Layout):
    """Lays a model over the processes of a one-dimensional mesh; each reads its share alone."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh

    def prepare(self, model: Transformer) -> None:
        """Cuts the parameters of a model, which may still be on the meta device.

        Raises:
            RequestError: the number of processes does not divide what is to be cut.
        """
        size = self.mesh.size()
        _check_divisible(model.config, size)
        gathered = ColwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
        first, second = ColwiseParallel(), RowwiseParallel()
        plan = {
            "tok_embeddings": gathered,
            **{f"layers.*.attention.{name}": first for name in ("wq", "wk", "wv")},
            "layers.*.attention.wo": second,
            **{f"layers.*.feed_forward.{name}": first for name in ("w1", "w3")},
            "layers.*.feed_forward.w2": second,
            "output": gathered,
        }
        parallelize_module(model, self.mesh, plan)
        for module in model.modules():
            if isinstance(module, Attention):
                module.n_kv_heads //= size

    def region(self, parameter: nn.Parameter) -> Region | None:
        """The part of a parameter that this process holds."""
        if not isinstance(parameter, DTensor):
            return None
        (placement,) = parameter.placements
        if not isinstance(placement, Shard):
            return None
        width = parameter.shape[placement.dim] // self.mesh.size()
        start = width * self.mesh.get_local_rank()
        region = [slice(None)] * parameter.dim()
        region[placement.dim] = slice(start, start + width)
        return tuple(region)

    def place(self, owner: nn.Module, leaf: str, share: Tensor) -> None:
        """Makes `share` the local part of the parameter."""
        parameter = getattr(owner, leaf)
        if isinstance(parameter, DTensor):
            local = DTensor.from_local(share, self.mesh, parameter.placements, run_check=False)
            setattr(owner, leaf, nn.Parameter(local))
        else:
            super().place(owner, leaf, share)


def _check_divisible(config: ModelConfig, size: int) -> None:
    cut = {
        "key-value heads": config.n_kv_heads,
        "hidden channels": config.hidden_dim,
        "channels": config.dim,
        "token ids": config.vocab_size,
    }
    for what, count in cut.items():
        if count % size:
            raise RequestError(
                f"the model's {count} {what} cannot be shared out evenly among {size} processes; "
                f"start a number of processes that divides {count}"
            )


def launched_mesh(device: torch.device | None = None) -> DeviceMesh:
    """Joins the processes that torchrun started: over NCCL on CUDA, else over Gloo on the CPU.

    On a CPU the cores of this machine are shared out among its processes.
    """
    kind = device.type if device else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // neighbours))
    return init_device_mesh(kind, (int(os.environ["WORLD_SIZE"]),))


def leave(code: int = 0) -> NoReturn:
    """Ends this process; after success only when all have come this far.

    Gloo's threads may abort a process that is torn down as usual while others end beside it, so the
    interpreter's own clean-up is left out.
    """
    if code == 0 and dist.is_initialized():
        with contextlib.suppress(RuntimeError):  # one that has died is reported by its launcher
            dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def from_first_rank(read: Callable[[], T], mesh: DeviceMesh) -> T:
    """Calls `read` in the first process alone; all get what it returns, if JSON can express it."""
    device = torch.device(mesh.device_type)
    first = mesh.get_local_rank() == 0
    text = json.dumps(read()).encode() if first else b""
    content = torch.tensor([*text], dtype=torch.uint8, device=device)
    length = torch.tensor([len(content)], device=device)
    group = mesh.get_group()
    dist.broadcast(length, group=group, group_src=0)
    if not first:
        content = torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(content, group=group, group_src=0)
    return json.loads(bytes(content.tolist()))
