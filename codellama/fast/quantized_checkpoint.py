"""Rounded models: matrices become integers while they are read, or are stored as such.

Slow: rounding a loaded model takes memory for both forms, and at every start some seconds.
Instead: `quantizing_weight_loader` rounds one matrix after the other. `codellama.convert --to int4`
    rounds once, and writes `params.json` and one file with the tensors of the rounded model.
Gains: a 7B in int4 is loaded within 5.5 GB of memory. The file is mapped and its 4-bit integers are
    used as they are, so that the model is there at once.
Costs: disk.
Not for: embedding and norms, which stay as they are, and several processes. `load_model` reads such
    a directory as any other, into ordinary layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from codellama.errors import CheckpointError
from codellama.fast import int4
from codellama.fast.int8 import Int8Linear
from codellama.model.transformer import Transformer
from codellama.weights.checkpoint import (
    COMPUTED,
    PARAMS,
    Checkpoint,
    Slices,
    differences,
    new_directory,
)
from codellama.weights.downloads import read_json, read_safetensors
from codellama.weights.loading import QUANTIZED, WeightLoader, default_weight_loader
from codellama.weights.meta import described

MODES = ("int8", "int4")
BLOCK_ORDERS = {block: ",".join(map(str, range(block))) for block in (32, 64)}
"""How the file tells how many rows of 4 bits are packed together."""


def quantizing_weight_loader(mode: str) -> WeightLoader:
    """Rounds the matrices of a model as they are read, in mode "int8" or "int4".

    In mode "int4" the output matrix, which matters most, has 8 bits, and so have matrices whose
    shapes the 4-bit kernel does not take.
    """

    def place(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
        owner = name.removesuffix(".weight")
        if not isinstance(model.get_submodule(owner), nn.Linear):
            return default_weight_loader(model, name, read)
        weight = read()
        fits = weight.shape[0] % int4.BLOCK == 0 and weight.shape[1] % int4.GROUP == 0
        layer = int4.Int4Linear if mode == "int4" and fits and owner != "output" else Int8Linear
        return model.set_submodule(owner, layer.from_weight(weight))

    return place


class QuantizedCheckpoint(Checkpoint):
    """A directory that `save_checkpoint` has written.

    Attributes:
        mode: "int8" or "int4".
        block: rows of a weight of 4 bits that are packed together.
        tensors: by their names in the rounded model.

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
        blocks = {order: block for block, order in BLOCK_ORDERS.items()}
        self.block = blocks.get(about.get("block_order", ""), 0)
        if self.mode not in MODES or not self.block:
            raise CheckpointError(
                f"{directory / QUANTIZED} does not say how it is rounded; write it anew with "
                "codellama.convert"
            )
        self.config = described(directory, params, self.tensors)
        embedding = self.tensors.get("tok_embeddings.weight", torch.empty(0))
        self.dtypes = {embedding.dtype} & COMPUTED or {torch.float32}
        with torch.device("meta"):
            self._empty = Transformer(self.config).to(self.dtype)
        place = quantizing_weight_loader(self.mode)
        for name, parameter in dict(self._empty.named_parameters()).items():
            place(self._empty, name, parameter.detach)
        expected = self._empty.state_dict()
        problems = differences({name: one.shape for name, one in expected.items()}, self.tensors)
        for name, tensor in self.tensors.items():
            if name in expected and tensor.dtype != expected[name].dtype:
                problems.append(f"{name} holds {tensor.dtype}")
        if problems:
            raise CheckpointError(
                f"{directory / QUANTIZED}: the tensors are not those of the model in {PARAMS}, "
                f"rounded to {self.mode} ({'; '.join(problems[:4])}); write it anew with "
                "codellama.convert"
            )

    @property
    def weight_bytes(self) -> int:
        """Size of the rounded weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def parts(self, name: str, region: Slices | None) -> tuple[list[Tensor], int]:
        """A parameter, or the weight that integers stand for; see `Checkpoint.parts`."""
        layer = self._layer(name, torch.device("cpu"), self.dtype)
        tensor = self.tensors[name] if layer is None else layer.dequantize().to(self.dtype)
        return [tensor if region is None else tensor[region]], 0

    def place(self, device: torch.device, dtype: torch.dtype) -> WeightLoader:
        """Puts layers of integers into a model of `dtype`; on a CPU the integers stay mapped."""

        def place(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
            if (layer := self._layer(name, device, dtype)) is None:
                return default_weight_loader(model, name, read)
            return model.set_submodule(name.removesuffix(".weight"), layer)

        return place

    def _layer(
        self, name: str, device: torch.device, dtype: torch.dtype
    ) -> Int8Linear | int4.Int4Linear | None:
        """The layer of integers for the weight `name`, if it is rounded."""
        owner = name.removesuffix(".weight")
        empty = self._empty.get_submodule(owner)
        if not isinstance(empty, Int8Linear | int4.Int4Linear):
            return None
        buffers = {}
        for kind, _ in empty.named_buffers():
            tensor = self.tensors[f"{owner}.{kind}"]
            buffers[kind] = tensor.to(device, dtype if tensor.is_floating_point() else None)
        if isinstance(empty, int4.Int4Linear) and self.block != (block := int4.block_rows(device)):
            values = int4.unpack_nibbles(buffers["packed"], self.block, torch.uint8).T
            buffers["packed"] = int4.pack_nibbles(values, block)
        return type(empty)(**buffers)


def save_checkpoint(directory: str | Path, model: Transformer, mode: str) -> None:
    """Writes a model that was loaded with `quantizing_weight_loader(mode)`.

    The directory appears when all of it is written.

    Raises:
        CheckpointError: the directory is taken.
    """
    order = BLOCK_ORDERS[int4.block_rows(model.tok_embeddings.weight.device)]
    with new_directory(directory) as temporary:
        save_file(model.state_dict(), temporary / QUANTIZED, {"mode": mode, "block_order": order})
        (temporary / PARAMS).write_text(json.dumps(model.config.to_params(), indent=2) + "\n")
