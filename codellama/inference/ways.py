"""The ways to hold and run a model: which there are, and which go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from codellama.inference.compiled import can_compile
from codellama.inference.requests import RequestError
from codellama.weights.layout import Layout
from codellama.weights.packing import Reordered, can_pack
from codellama.weights.quantize import MODES, Quantized

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def check_ways(
    device: torch.device,
    mesh: DeviceMesh | None,
    quantize: str | None,
    kv_dtype: str | None,
    pack: bool,
    compile: bool,
) -> None:
    """Catches ways that do not exist, here or together; the arguments are those of
    `CodeLlama.load`.

    Raises:
        RequestError: with the reason.
    """
    if kv_dtype not in (None, "int8"):
        raise RequestError(f"kv_dtype is {kv_dtype!r}; expected int8")
    if quantize is not None and quantize not in MODES:
        raise RequestError(f"quantize is {quantize!r}; expected {' or '.join(MODES)}")
    if mesh is not None and (quantize or pack or compile):
        raise RequestError("quantize, pack and compile are for one process; leave out the mesh")
    if pack and quantize == "int4":
        raise RequestError("packed matrices are not of 4 bits; leave out pack")
    if pack and not can_pack(device):
        raise RequestError("pack is for x86 processors, with PyTorch's libraries for them")
    if compile and not can_compile(device):
        raise RequestError(
            "torch.compile needs a C++ compiler on the path (g++ or clang++), or CUDA; install "
            "one, or leave out compile"
        )


def layout_for(mesh: DeviceMesh | None, quantize: str | None, pack: bool) -> Layout | None:
    """How to hold a model; None: whole, as it is."""
    if pack:
        return Reordered(quantize)
    if quantize is not None:
        return Quantized(quantize)
    if mesh is not None:
        from codellama.inference.parallel import TensorParallel

        return TensorParallel(mesh)
    return None
