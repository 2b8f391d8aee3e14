"""The one door to this folder: loads a model that is held and run the fastest way here.

| | 16 bits | 16 bits, `compile` | int8 | int4 |
|---|---|---|---|---|
| x86 | `SingleRowLinear` | `PrepackedLinear` | `PrepackedLinear` | `Int4Linear` |
| other CPUs | `SingleRowLinear` | `SingleRowLinear` | `Int8Linear` | `Int4Linear` |
| CUDA, MPS | `nn.Linear` | `nn.Linear` | `Int8Linear` | `Int4Linear` |

Attention of single queries is `single_query_attention` everywhere. `compile` adds
`CompiledSteps`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from codellama.errors import RequestError
from codellama.fast.compiled import CompiledSteps, check_compiler
from codellama.fast.int8 import Int8Linear, QuantizedLinear
from codellama.fast.int8_kv_cache import Int8KVCache
from codellama.fast.prepacked import PrepackedLinear, can_prepack
from codellama.fast.quantize import place_quantized
from codellama.fast.rounded_checkpoint import RoundedCheckpoint
from codellama.fast.single_query_attention import single_query_attention
from codellama.fast.single_row_linear import SingleRowLinear
from codellama.inference.generation import CodeLlama
from codellama.model.attention import Attention
from codellama.model.transformer import Transformer
from codellama.weights.downloads import Progress
from codellama.weights.loading import (
    LoadOptions,
    Place,
    default_device,
    load_model,
    load_tokenizer,
    open_checkpoint,
    place_whole,
    torch_device,
)

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def load_accelerated(
    directory: str | Path,
    options: LoadOptions,
    *,
    progress: Progress | None = None,
    mesh: DeviceMesh | None = None,
) -> CodeLlama:
    """As `CodeLlama.load`, whose arguments it takes.

    Raises:
        CheckpointError, RequestError: as `CodeLlama.load`.
    """
    device = torch_device(options.device) or default_device()
    if options.compile:
        check_compiler(device)
    if mesh is None:
        place = _place(directory, options, device)
        model = load_model(directory, device, options.dtype, progress, place=place)
    else:
        model = _load_parallel(directory, options, progress, mesh)
    accelerate(model)
    if options.kv_dtype is not None:
        model.cache_type = Int8KVCache
    llm = CodeLlama(model, load_tokenizer(directory, model.config.vocab_size))
    if options.compile:
        llm.decoder.steps = CompiledSteps(model)
    if mesh is not None:
        from codellama.fast.tensor_parallel import from_first_rank

        llm.draw_seed = partial(from_first_rank, torch.Generator().seed, mesh)
    return llm


def accelerate(model: Transformer) -> Transformer:
    """Lets a loaded model attend by `single_query_attention`, and on a CPU multiply its weights of
    16 bits by `SingleRowLinear`; changes it in place, and returns it."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Attention):
            module.attend = single_query_attention
        if type(module) is nn.Linear and SingleRowLinear.suits(module.weight):
            model.set_submodule(name, SingleRowLinear.sharing(module))
    return model


def _place(directory: str | Path, options: LoadOptions, device: torch.device) -> Place:
    """How the table above puts parameters into a model."""
    checkpoint = open_checkpoint(directory)
    prepacks = can_prepack(device)

    def finish(layer: QuantizedLinear) -> nn.Module:
        if prepacks and isinstance(layer, Int8Linear):
            return PrepackedLinear.from_int8(layer)
        return layer

    if isinstance(checkpoint, RoundedCheckpoint):
        if options.quantize not in (None, checkpoint.mode):
            raise RequestError(
                f"{directory} is rounded to {checkpoint.mode} already; leave out quantize, or load "
                "the checkpoint that it was made from"
            )
        return checkpoint.place(device, finish)
    if options.quantize is not None:
        return place_quantized(options.quantize, finish)
    return place_prepacked if options.compile and prepacks else place_whole


def place_prepacked(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
    """Prepacks matrices of 16 bits as they are read; leaves other parameters alone."""
    owner = name.removesuffix(".weight")
    weight = read()
    if isinstance(model.get_submodule(owner), nn.Linear) and weight.dtype.itemsize == 2:
        model.set_submodule(owner, PrepackedLinear.from_weight(weight))
    else:
        place_whole(model, name, lambda: weight)


def _load_parallel(
    directory: str | Path, options: LoadOptions, progress: Progress | None, mesh: DeviceMesh
) -> Transformer:
    """Lays a model over the processes of a mesh."""
    from codellama.fast import tensor_parallel

    if options.quantize or options.compile:
        raise RequestError(
            "quantize and compile are for one process; leave them out, or start one process"
        )
    checkpoint = open_checkpoint(directory)
    if isinstance(checkpoint, RoundedCheckpoint):
        raise RequestError(
            f"{directory} is rounded to {checkpoint.mode}, for one process; load the checkpoint "
            "that it was made from"
        )
    tensor_parallel.check_divisible(checkpoint.config, mesh.size())
    place, device = tensor_parallel.place_share(mesh), torch.device(mesh.device_type)
    model = load_model(directory, device, options.dtype, progress, place=place)
    tensor_parallel.parallelize(model, mesh)
    return model
