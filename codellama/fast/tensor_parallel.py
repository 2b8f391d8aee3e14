"""Tensor parallelism: one model laid over several processes, each with a device of its own.

Slow or impossible: a model that one device cannot hold, or reads too slowly.
Instead: the plan of Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053) with PyTorch's DTensor. The
    first matrices of attention and feed-forward are sharded by rows (heads and hidden channels),
    the second ones by columns, and an all-reduce adds the partial results. The embedding is sharded
    by channels, the output by vocabulary. Quantized layers, which are no DTensors, exchange the
    same by hooks.
Gains: memory divided by the processes.
Costs: two all-reduces a block.
Not for: compiled models.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from codellama.errors import RequestError
from codellama.fast.cpu_linear import FrozenLinear
from codellama.model.attention import Attention
from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.weights.loading import WeightLoader, default_weight_loader
from codellama.weights.meta import own_slices, shard_dimension


def sharded_weight_loader(mesh: DeviceMesh) -> WeightLoader:
    """Reads this process's shard of each parameter, and nothing else."""

    def load(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
        dimension = shard_dimension(name)
        if dimension is None:
            return default_weight_loader(model, name, read)
        shard = read(own_slices(name, model.get_parameter(name).shape, mesh))
        whole = DTensor.from_local(shard, mesh, [Shard(dimension)], run_check=False)
        return default_weight_loader(model, name, lambda: whole)

    return load


def parallelize(model: Transformer, mesh: DeviceMesh) -> None:
    """Lets a model whose shards are loaded exchange activations."""
    gathered = ColwiseParallel(input_layouts=Replicate(), output_layouts=Replicate())
    first, second = ColwiseParallel(), RowwiseParallel()  # named after the transposed matrix
    plan = {
        "tok_embeddings": gathered,
        **{f"layers.*.attention.{name}": first for name in ("wq", "wk", "wv")},
        "layers.*.attention.wo": second,
        **{f"layers.*.feed_forward.{name}": first for name in ("w1", "w3")},
        "layers.*.feed_forward.w2": second,
        "output": gathered,
    }
    modules = dict(model.named_modules())
    frozen = {name: one for name, one in modules.items() if isinstance(one, FrozenLinear)}
    for name, layer in frozen.items():
        if name == "output":
            layer.register_forward_hook(lambda _, __, own: _gather(own, mesh))
            del plan["output"]
        elif shard_dimension(f"{name}.weight") == 1:
            layer.register_forward_hook(lambda _, __, own: _add_up(own, mesh))
    if frozen:  # all matrices of the blocks
        plan = {name: style for name, style in plan.items() if not name.startswith("layers.")}
    parallelize_module(model, mesh, plan)
    for module in modules.values():
        if isinstance(module, Attention):
            module.n_kv_heads //= mesh.size()


def _add_up(own: Tensor, mesh: DeviceMesh) -> Tensor:
    """The sum of all processes' tensors."""
    dist.all_reduce(own, group=mesh.get_group())
    return own


def _gather(own: Tensor, mesh: DeviceMesh) -> Tensor:
    """All processes' tensors, joined along the last dimension."""
    parts = [torch.empty_like(own) for _ in range(mesh.size())]
    dist.all_gather(parts, own.contiguous(), mesh.get_group())
    return torch.cat(parts, -1)


def check_divisible(config: ModelConfig, size: int) -> None:
    """Raises RequestError if a model cannot be sharded evenly among `size` processes."""
    sharded = {
        "key-value heads": config.n_kv_heads,
        "hidden channels": config.hidden_dim,
        "channels": config.dim,
        "token ids": config.vocab_size,
    }
    for what, count in sharded.items():
        if count % size:
            raise RequestError(
                f"the model's {count} {what} cannot be sharded evenly among {size} processes; "
                f"start a number of processes that divides {count}"
            )
