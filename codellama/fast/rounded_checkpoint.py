"""Rounded checkpoints: `params.json` and one file with a model's tensors as `quantize` keeps them.

Slow: rounding a model takes seconds a billion weights, at every start.
Instead: `codellama.convert --to int4` rounds once.
Gains: the file is mapped and its 4-bit integers are used as they are, so that a model is there at
    once, in as much memory as its rounded weights take.
Costs: disk.
Not for: several processes. `load_model` reads such a directory as any other, into ordinary
    layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from codellama.errors import CheckpointError
from codellama.fast.int4 import BLOCK, Int4Linear, block_order
from codellama.fast.int8 import QuantizedLinear
from codellama.fast.quantize import layer_class
from codellama.model.transformer import Transformer
from codellama.weights.checkpoint import (
    COMPUTED,
    Checkpoint,
    Region,
    differences,
    new_directory,
    parameter_shapes,
)
from codellama.weights.downloads import read_json, read_safetensors
from codellama.weights.loading import ROUNDED, Place, place_whole
from codellama.weights.meta import PARAMS, described

MODES = ("int8", "int4")


class RoundedCheckpoint(Checkpoint):
    """A directory that `save_checkpoint` has written.

    Attributes:
        mode: "int8" or "int4".
        tensors: by their names in the rounded model.

    Raises:
        CheckpointError: a file is missing or damaged, or names, shapes and types are not those of
            the model in `params.json`.
    """

    file_count = 1

    def __init__(self, directory: Path) -> None:
        params = read_json(directory / PARAMS)
        self.directory = directory
        self.tensors, about = read_safetensors(directory / ROUNDED)
        self.mode = self.format = about.get("mode", "")
        order = about.get("block_order", "").split(",")
        size = len(order)
        ordered = size > 1 and BLOCK % size == 0 and set(order) == set(map(str, range(size)))
        if self.mode not in MODES or not ordered:
            raise CheckpointError(
                f"{directory / ROUNDED} does not say how it is rounded; write it anew with "
                "codellama.convert"
            )
        self.order = [int(row) for row in order]
        self.config = described(directory, params, self.tensors)
        self._layers = {
            name: layer_class(self.mode, name, shape)(shape[1], shape[0])
            for name, shape in parameter_shapes(self.config).items()
            if len(shape) == 2 and name != "tok_embeddings.weight"
        }
        self._check_tensors()
        self.dtypes = {self.tensors["tok_embeddings.weight"].dtype}

    @property
    def weight_bytes(self) -> int:
        """Size of the rounded weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def parts(self, name: str, region: Region | None) -> tuple[list[Tensor], int]:
        """A parameter, or the weight that integers stand for; see `Checkpoint.parts`."""
        if name in self._layers:
            tensor = self.layer(name, torch.device("cpu")).expanded().to(self.dtype)
        else:
            tensor = self.tensors[name]
        return [tensor if region is None else tensor[region]], 0

    def layer(self, name: str, device: torch.device) -> QuantizedLinear:
        """The layer of the weight `name`; on a CPU its integers stay mapped."""
        empty = self._layers[name]
        layer = type(empty)(empty.in_features, empty.out_features)
        owner = name.removesuffix("weight")
        buffers = {kind: self.tensors[owner + kind].to(device) for kind in layer.kinds}
        if isinstance(layer, Int4Linear):
            layer.keep_ordered(buffers, self.order)
        else:
            layer.keep(buffers)
        return layer

    def place(self, device: torch.device, finish: Callable[[QuantizedLinear], nn.Module]) -> Place:
        """Puts layers of integers into a model; `finish` as for `place_quantized`."""

        def place(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
            if name not in self._layers:
                return place_whole(model, name, read)
            layer = finish(self.layer(name, device))
            return model.set_submodule(name.removesuffix(".weight"), layer)

        return place

    def _check_tensors(self) -> None:
        expected: dict[str, tuple[int, ...]] = {}
        integers: dict[str, torch.dtype | None] = {}
        for name, shape in parameter_shapes(self.config).items():
            if (layer := self._layers.get(name)) is None:
                expected[name] = tuple(shape)
                continue
            owner = name.removesuffix("weight")
            expected |= {owner + kind: size for kind, size in layer.buffer_shapes().items()}
            integers |= {owner + kind: dtype for kind, dtype in layer.kinds.items()}
        problems = differences(expected, self.tensors)
        floating = self.tensors.get("tok_embeddings.weight", torch.empty(0)).dtype
        for name, tensor in self.tensors.items():
            if tensor.dtype != (integers.get(name) or floating) or floating not in COMPUTED:
                problems.append(f"{name} holds {tensor.dtype}")
        if problems:
            raise CheckpointError(
                f"{self.directory / ROUNDED}: the tensors are not those of the model in {PARAMS}, "
                f"rounded to {self.mode} ({'; '.join(problems[:4])}); write it anew with "
                "codellama.convert"
            )


def save_checkpoint(directory: str | Path, model: Transformer, mode: str) -> None:
    """Writes a model that was loaded with `place_quantized(mode)`.

    The directory appears when all of it is written.

    Raises:
        CheckpointError: the directory is taken.
    """
    order = ",".join(map(str, block_order(model.tok_embeddings.weight.device)))
    with new_directory(directory) as beside:
        save_file(model.state_dict(), beside / ROUNDED, {"mode": mode, "block_order": order})
        (beside / PARAMS).write_text(json.dumps(model.config.to_params(), indent=2) + "\n")
