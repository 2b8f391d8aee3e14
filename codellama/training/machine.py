"""How to train on one device, or on one for each process of torchrun; changes results by rounding.

Several processes shard a model by fully sharded data parallelism (Rajbhandari et al. 2020, arXiv
1910.02054; Zhao et al. 2023, arXiv 2304.11277), PyTorch's `fully_shard`. Each keeps a slice of the
weights, gradients and optimiser's state. Before a block runs, they gather its weights, and free
them afterwards; its gradients are averaged. Each computes other sequences of the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from codellama.distributed import broadcast, init_mesh
from codellama.errors import RequestError
from codellama.model.transformer import Transformer
from codellama.training.packing import PADDING

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
    """Where this process computes, and with which others."""

    device: torch.device
    dtype: torch.dtype | None = None  # of matrix products; None: float32, as the weights are
    mesh: DeviceMesh | None = None  # the processes that share the model; None: this one is alone

    @classmethod
    def best(cls, device: torch.device) -> Machine:
        """What is fastest on a device; joins the other processes if torchrun started this one."""
        mesh = init_mesh(device)
        device = torch.device(mesh.device_type) if mesh else device
        return cls(device, fast_dtype(device), mesh)

    @property
    def processes(self) -> int:
        """The number of processes that train together."""
        return self.mesh.size() if self.mesh else 1

    @property
    def rank(self) -> int:
        """This process's number; process 0 writes and reports."""
        return self.mesh.get_rank() if self.mesh else 0

    def place(self, model: Transformer) -> Transformer:
        """The model in float32, ready to train here. Of several processes, each copies its slice of
        `model`, which may have any dtype and be mapped from disk.

        Raises:
            RequestError: of several processes, for a model of other modules or parameters.
        """
        if self.mesh is None:
            return model.to(self.device, torch.float32)
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
        from torch.distributed.tensor import DTensor

        with torch.device("meta"):
            shared = Transformer(model.config)
        whole = dict(model.named_parameters())
        kinds, own = ([*map(type, one.modules())] for one in (shared, model))
        shapes = {name: weight.shape for name, weight in shared.named_parameters()}
        if kinds != own or shapes != {name: weight.shape for name, weight in whole.items()}:
            raise RequestError(
                "a model whose modules were changed cannot be shared by several processes; train "
                "it in one"
            )
        # Block inputs stay as they are: cosines in bfloat16 would ruin the rotary embedding.
        policy = MixedPrecisionPolicy(
            param_dtype=self.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for part in (*shared.layers, shared):
            fully_shard(part, mesh=self.mesh, mp_policy=policy)
        shared.to_empty(device=self.device)
        for name, weight in shared.named_parameters():
            weight.requires_grad_(whole[name].requires_grad)
            slices = whole[name].detach().chunk(self.processes)
            if isinstance(weight, DTensor) and self.rank < len(slices):
                weight.to_local().detach().copy_(slices[self.rank])
        return shared

    def autocast(self) -> torch.autocast:
        """Lets matrix products have `dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def share(self, rows: Tensor) -> Tensor:
        """The rows of a batch that this process computes, as many as any other, on its device."""
        rows = F.pad(rows, (0, 0, 0, -len(rows) % self.processes), value=PADDING)
        return rows[self.rank :: self.processes].to(self.device, torch.long)

    def mean(self, loss: Tensor) -> float:
        """The mean of the processes' losses."""
        if self.mesh:
            dist.all_reduce(loss)
        return loss.item() / self.processes

    def once(self, write: Callable[[], object]) -> None:
        """Calls `write` in the first process; the others wait, and raise what it raises."""

        def attempt() -> Exception | None:
            try:
                write()
            except (ValueError, OSError) as error:
                return error
            return None

        if error := broadcast(attempt, self.mesh):
            raise error
