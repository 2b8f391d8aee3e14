"""The only entry to this folder: loads a model with the fastest layers for this machine.

Slow: the plain layers are right everywhere, and fastest nowhere but on a GPU.
Instead:

| | 16 bits | 16 bits, `compile` | int8 | int4 |
|---|---|---|---|---|
| x86 | `SingleRowLinear` | `PrepackedLinear` | `PackedInt8Linear` | `Int4Linear` |
| AMX, bfloat16 | `SingleRowLinear` | `SingleRowLinear` | `PackedInt8Linear` | `Int4Linear` |
| other CPUs | `SingleRowLinear` | `SingleRowLinear` | `Int8Linear` | `Int4Linear` |
| CUDA, MPS | `nn.Linear` | `nn.Linear` | `Int8Linear` | `Int4Linear` |

Attention is `single_query_attention` everywhere; `compile` adds `CompiledStep`.
Gains: see each file and README.md.
Costs: see each file.
Not for: models that are trained or taken apart; `load_model` keeps the plain layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from codellama.errors import RequestError
from codellama.fast.attention import single_query_attention
from codellama.fast.compiled import CompiledStep, check_compiler
from codellama.fast.cpu_linear import SingleRowLinear, can_prepack, has_amx, prepack
from codellama.fast.quantization import Int8Linear, PackedInt8Linear, quantizing_weight_loader
from codellama.fast.quantized_checkpoint import QuantizedCheckpoint
from codellama.fast.quantized_kv_cache import QuantizedKVCache
from codellama.model.attention import Attention, grouped_query_attention
from codellama.model.transformer import Transformer
from codellama.weights import loading
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.downloads import Progress
from codellama.weights.loading import LoadOptions, WeightLoader


def load(
    checkpoint: Checkpoint,
    options: LoadOptions,
    progress: Progress | None = None,
    mesh: DeviceMesh | None = None,
) -> tuple[Transformer, Any]:
    """What `CodeLlama.load` runs: a model, and the step function for its decoding (see
    `inference.scheduler`), which is the model itself unless it is compiled. Errors are those of
    `CodeLlama.load`."""
    device = loading.torch_device(options.device) or loading.default_device()
    if mesh is not None:
        if options.compile:
            raise RequestError(
                "compiled models are for one process; leave out compile, or start one process"
            )
        device = torch.device(mesh.device_type)
    elif options.compile:
        check_compiler(device)
    weight_loader = _weight_loader(checkpoint, options, device, mesh)

    def load_fast(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
        weight_loader(model, name, read)
        _accelerate_layer(model, name.rpartition(".")[0], options.compile)

    model = loading.load_model(
        checkpoint,
        device,
        options.dtype,
        mmap=True,
        progress=progress,
        weight_loader=load_fast,
    )
    if options.kv_dtype is not None:
        model.cache_type = QuantizedKVCache
    accelerate(model)
    if mesh is not None:
        from codellama.fast import tensor_parallel

        tensor_parallel.parallelize(model, mesh)
    return model, CompiledStep(model) if options.compile else model


def accelerate(model: Transformer) -> Transformer:
    """Exchanges the attention and linear layers of a model by the table, in place; returns it.
    Other attention and layers that somebody has put there stay."""
    for name in [name for name, _ in model.named_modules()]:
        _accelerate_layer(model, name)
    return model


def _accelerate_layer(model: Transformer, name: str, compile: bool = False) -> None:
    """Exchanges one layer by the table."""
    layer = model.get_submodule(name)
    if isinstance(layer, Attention) and layer.attend is grouped_query_attention:
        layer.attend = single_query_attention
    elif isinstance(layer, Int8Linear) and can_prepack(layer.values.device):
        model.set_submodule(name, PackedInt8Linear(layer.values, layer.scales))
    elif type(layer) is nn.Linear and layer.bias is None and SingleRowLinear.suits(layer.weight):
        mapped_is_faster = layer.weight.dtype == torch.bfloat16 and has_amx()  # see `cpu_linear`
        if compile and can_prepack(layer.weight.device) and not mapped_is_faster:
            model.set_submodule(name, prepack(layer.weight.detach()))
        else:
            model.set_submodule(name, SingleRowLinear(layer.weight))


def _weight_loader(
    checkpoint: Checkpoint, options: LoadOptions, device: torch.device, mesh: DeviceMesh | None
) -> WeightLoader:
    mode = options.quantize
    plain: WeightLoader = loading.default_weight_loader
    if mesh is not None:
        from codellama.fast import tensor_parallel

        tensor_parallel.check_divisible(checkpoint.config, mesh.size())
        plain = tensor_parallel.sharded_weight_loader(mesh)
    if not isinstance(checkpoint, QuantizedCheckpoint):
        return quantizing_weight_loader(mode, plain, mesh) if mode else plain
    if mode not in (None, checkpoint.mode):
        raise RequestError(
            f"{checkpoint.directory} is quantized to {checkpoint.mode} already; leave out "
            "quantize, or load the checkpoint that it was made from"
        )
    dtype = loading.torch_dtype(options.dtype) or checkpoint.dtype
    return checkpoint.weight_loader(device, dtype, plain, mesh)
