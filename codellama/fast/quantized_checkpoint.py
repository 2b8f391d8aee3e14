"""Quantized models on disk.

Slow: rounding at every start takes seconds to minutes.
Instead: `codellama.convert --to int4` rounds once and writes the tensors of the quantized model.
Gains: the file is mapped and its 4-bit integers used as they are: the model is there at once.
Costs: disk.
Not for: training. `load_model` reads such a directory as any other, into ordinary layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from codellama.errors import CheckpointError
from codellama.fast.quantization import (
    GROUP,
    Int4Linear,
    Int8Linear,
    block_rows,
    pack_nibbles,
    quantizing_weight_loader,
    unpack_nibbles,
)
from codellama.model.transformer import Transformer
from codellama.weights.checkpoint import (
    COMPUTED,
    PARAMS,
    Checkpoint,
    Slices,
    differences,
    new_directory,
    parameter_shapes,
    reader,
)
from codellama.weights.downloads import read_json, read_safetensors
from codellama.weights.loading import QUANTIZED, WeightLoader, default_weight_loader
from codellama.weights.meta import described, own_slices

MODES = ("int8", "int4")
BLOCK_ROWS = {
    text: rows for rows in (32, 64) for text in (str(rows), ",".join(map(str, range(rows))))
}
"""How a file says how many rows of 4 bits are packed together; older ones list their numbers."""

ALIGNMENT = 16
"""Bytes to which PyTorch's kernel for 8 bits needs its integers aligned, or it crashes (2.13); a
tensor in a file starts at any multiple of 8."""


class QuantizedCheckpoint(Checkpoint):
    """A directory that `save_checkpoint` has written, with `tensors` of `mode` "int8" or "int4".

    Raises:
        CheckpointError: a file is missing or damaged, or names, shapes and types are not those of
            the model in `params.json`.
    """

    file_count = 1

    def __init__(self, directory: Path) -> None:
        params = read_json(directory / PARAMS)
        self.directory = directory
        self.tensors, about = read_safetensors(directory / QUANTIZED)
        self.mode = self.format = about.get("mode", "")
        self.block = BLOCK_ROWS.get(about.get("block_rows", about.get("block_order", "")), 0)
        if self.mode not in MODES or not self.block:
            raise CheckpointError(
                f"{directory / QUANTIZED} does not say how it is quantized; write it anew with "
                "codellama.convert"
            )
        self.config = described(directory, params, self.tensors)
        embedding = self.tensors.get("tok_embeddings.weight", torch.empty(0))
        self.dtypes = {embedding.dtype} & COMPUTED or {torch.float32}
        with torch.device("meta"):
            model = Transformer(self.config).to(self.dtype)
        quantize = quantizing_weight_loader(self.mode)
        read = reader(dict(model.named_parameters()))
        for name in parameter_shapes(self.config):
            quantize(model, name, partial(read, name))
        expected = model.state_dict()
        problems = differences({name: one.shape for name, one in expected.items()}, self.tensors)
        for name, tensor in self.tensors.items():
            if name in expected and tensor.dtype != expected[name].dtype:
                problems.append(f"{name} holds {tensor.dtype}")
        if problems:
            raise CheckpointError(
                f"{directory / QUANTIZED}: the tensors are not those of the model in {PARAMS}, "
                f"quantized to {self.mode} ({'; '.join(problems[:4])}); write it anew with "
                "codellama.convert"
            )

    @property
    def weight_bytes(self) -> int:
        """Size of the quantized weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def parts(self, name: str, slices: Slices | None) -> tuple[list[Tensor], int]:
        """A parameter, or the weight that integers stand for; see `Checkpoint.parts`."""
        layer = self._layer(name, torch.device("cpu"), self.dtype)
        tensor = self.tensors[name] if layer is None else layer.dequantize().to(self.dtype)
        return [tensor if slices is None else tensor[slices]], 0

    def weight_loader(
        self,
        device: torch.device,
        dtype: torch.dtype,
        otherwise: WeightLoader = default_weight_loader,
        mesh: DeviceMesh | None = None,
    ) -> WeightLoader:
        """Puts layers of integers into a model of `dtype`; on a CPU the integers stay mapped. Each
        of the processes of a `mesh` takes its slices. `otherwise` takes the other parameters."""

        def load(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
            slices = own_slices(name, model.get_parameter(name).shape, mesh)
            if (layer := self._layer(name, device, dtype, slices)) is None:
                return otherwise(model, name, read)
            return model.set_submodule(name.removesuffix(".weight"), layer)

        return load

    def _layer(
        self, name: str, device: torch.device, dtype: torch.dtype, slices: Slices | None = None
    ) -> Int8Linear | Int4Linear | None:
        """The layer of integers for the weight `name`, or for slices of it, if it is quantized."""
        owner = name.removesuffix("weight")
        rows, columns = slices or (slice(None), slice(None))
        if (values := self.tensors.get(f"{owner}values")) is not None:
            values = values[rows, columns].contiguous().to(device)
            if values.data_ptr() % ALIGNMENT:
                values = values.clone()
            return Int8Linear(values, self.tensors[f"{owner}scales"][rows].to(device, dtype))
        if (packed := self.tensors.get(f"{owner}packed")) is not None:
            both = self.tensors[f"{owner}scales_and_zeros"]
            block = block_rows(device)
            if slices is not None or block != self.block:
                values = unpack_nibbles(packed, self.block, torch.uint8).T[rows, columns]
                if len(values) % block or values.shape[1] % GROUP:
                    raise CheckpointError(
                        f"{self.directory}: {name} in 4 bits does not divide into so many parts; "
                        "start fewer processes"
                    )
                packed = pack_nibbles(values, block)
                groups = slice(*(one and one // GROUP for one in (columns.start, columns.stop)))
                both = both[groups, rows].contiguous()
            return Int4Linear(packed.to(device), both.to(device, dtype))
        return None


def save_checkpoint(directory: str | Path, model: Transformer, mode: str) -> None:
    """Writes a model that was loaded with `quantizing_weight_loader(mode)` to a new directory,
    which appears when all of it is written; raises CheckpointError if it is taken."""
    block = block_rows(model.tok_embeddings.weight.device)
    about = {"mode": mode, "block_rows": str(block)}
    with new_directory(directory) as temporary:
        save_file(model.state_dict(), temporary / QUANTIZED, about)
        (temporary / PARAMS).write_text(json.dumps(model.config.to_params(), indent=2) + "\n")
