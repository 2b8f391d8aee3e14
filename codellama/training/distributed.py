"""Training on several devices: parameters, gradients and the optimiser's state in slices, one for
each process that torchrun started.

Fully sharded data parallelism (Rajbhandari et al. 2020, arXiv 1910.02054; Zhao et al. 2023, arXiv
2304.11277) by PyTorch's `fully_shard`: before a block computes, its processes gather its weights,
and let go of them afterwards; its gradients are averaged, and each process keeps its slice. Every
process computes on other sequences of the batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as load_slices
from torch.distributed.checkpoint.state_dict_saver import save as save_slices
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from codellama.model.transformer import Transformer
from codellama.training.machine import Machine, fast_dtype
from codellama.training.packing import PADDING, Position
from codellama.training.trainer import Trainer


class Cluster(Machine):
    """Several devices, each driven by a process that torchrun started."""

    is_shared = True

    @classmethod
    def joined(cls, device: torch.device) -> Cluster:
        """Joins the other processes: over NCCL on CUDA, else over Gloo."""
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(device, fast_dtype(device))

    @property
    def is_first(self) -> bool:
        return dist.get_rank() == 0

    def place(self, model: Transformer) -> Transformer:
        """A copy of the model of which this process holds a slice, in float32.

        Args:
            model: on the CPU, in any dtype; may be mapped from disk.
        """
        with torch.device("meta"):
            shared = Transformer(model.config)
        # Block inputs stay as they are: cosines in bfloat16 would ruin the rotary embedding.
        policy = MixedPrecisionPolicy(
            param_dtype=self.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        mesh = init_device_mesh(self.device.type, (dist.get_world_size(),))
        for part in (*shared.layers, shared):
            fully_shard(part, mesh=mesh, mp_policy=policy)
        shared.to_empty(device=self.device)
        whole = dict(model.named_parameters())
        for name, weight in shared.named_parameters():
            slices = whole[name].detach().chunk(dist.get_world_size())
            if isinstance(weight, DTensor) and dist.get_rank() < len(slices):
                weight.to_local().detach().copy_(slices[dist.get_rank()])
        return shared

    def share(self, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        size = dist.get_world_size()
        rows = F.pad(rows, (0, 0, 0, -len(rows) % size), value=PADDING)  # as many for each
        return rows[dist.get_rank() :: size], tokens / size  # since gradients are averaged

    def mean(self, loss: Tensor) -> float:
        dist.all_reduce(loss)
        return loss.item() / dist.get_world_size()

    def once(self, write: Callable[[], object]) -> None:
        """Calls `write` in the first process; the others wait, and raise what it raises."""
        outcome: list[BaseException | None] = [None]
        if dist.get_rank() == 0:
            try:
                write()
            except (ValueError, OSError) as error:
                outcome = [error]
        dist.broadcast_object_list(outcome)
        if outcome[0] is not None:
            raise outcome[0]


def save(directory: Path, trainer: Trainer) -> None:
    """Writes the state of a training that several processes do; each writes its slice."""
    model, optimizers = get_state_dict(trainer.model, trainer.optimizers)
    place = torch.tensor([trainer.step, *astuple(trainer.stream.position)])
    save_slices({"model": model, "optimizers": optimizers, "place": place}, checkpoint_id=directory)


def load(directory: Path, trainer: Trainer) -> None:
    """Goes on from what `save` wrote, with any number of processes."""
    model, optimizers = get_state_dict(trainer.model, trainer.optimizers)
    place = torch.zeros(4, dtype=torch.long)
    state = {"model": model, "optimizers": optimizers, "place": place}
    try:
        load_slices(state, checkpoint_id=directory)
    except CheckpointException as error:  # which is no Exception
        raise ValueError(f"{directory}: {error}") from None
    set_state_dict(
        trainer.model, trainer.optimizers, model_state_dict=model, optim_state_dict=optimizers
    )
    trainer.step, *position = place.tolist()
    trainer.stream.position = Position(*position)
