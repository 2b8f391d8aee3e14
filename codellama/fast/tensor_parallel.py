"""Tensor parallelism: one model laid over several processes, each with a device of its own.

Slow or impossible: a model that one device cannot hold, or reads too slowly.
Instead: the plan of Megatron-LM (Shoeybi et al. 2019, arXiv 1909.08053) with PyTorch's DTensor. The
    first matrices of attention and feed-forward are sharded by rows (heads and hidden channels),
    the second ones by columns, and an all-reduce adds the partial results. The embedding is sharded
    by channels, the output by vocabulary.
Gains: memory divided by the processes.
Costs: two all-reduces a block.
Not for: quantized and compiled models.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from codellama.errors import RequestError
from codellama.model.attention import Attention
from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.weights.loading import WeightLoader, default_weight_loader
from codellama.weights.meta import shard_dimension, shard_slices


def sharded_weight_loader(mesh: DeviceMesh) -> WeightLoader:
    """Reads this process's shard of each parameter, and nothing else."""

    def load(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
        dimension = shard_dimension(name)
        if dimension is None:
            return default_weight_loader(model, name, read)
        shape = model.get_parameter(name).shape
        shard = read(shard_slices(name, shape, mesh.get_local_rank(), mesh.size()))
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
    parallelize_module(model, mesh, plan)
    for module in model.modules():
        if isinstance(module, Attention):
            module.n_kv_heads //= mesh.size()


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
