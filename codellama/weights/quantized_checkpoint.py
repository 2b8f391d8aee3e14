"""Rounded checkpoints: `params.json` and one file with a model's tensors as `quantize` keeps them.

They are mapped from disk and used as they are, so that a model is there at once, in as much memory
as its rounded weights take.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from torch import Tensor

from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.weights.checkpoint import COMPUTED, Checkpoint, Region, differences, new_directory
from codellama.weights.downloads import CheckpointError, read_json, read_safetensors
from codellama.weights.meta import PARAMS, described
from codellama.weights.quantize import BLOCK, MODES, Quantized, QuantizedLinear, block_order

FILE = "quantized.safetensors"
INTEGERS = {"values": torch.int8, "packed": torch.uint8}


class QuantizedCheckpoint(Checkpoint):
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
        self.tensors, about = read_safetensors(directory / FILE)
        self.mode = self.format = about.get("mode", "")
        order = about.get("block_order", "").split(",")
        size = len(order)
        ordered = size > 1 and BLOCK % size == 0 and set(order) == set(map(str, range(size)))
        if self.mode not in MODES or not ordered:
            raise CheckpointError(
                f"{directory / FILE} does not say how it is rounded; write it anew with "
                "codellama.convert"
            )
        self.order = [int(row) for row in order]
        self.config = described(directory, params, self.tensors)
        self._empty_model = _empty_model(self.config, self.mode)
        self._check_tensors()
        self.dtypes = {self.tensors["tok_embeddings.weight"].dtype}

    @property
    def weight_bytes(self) -> int:
        """Size of the rounded weights."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def model(self, device: torch.device) -> Transformer:
        """The model, with the file's tensors in place; on a CPU they stay mapped."""
        model = _empty_model(self.config, self.mode)
        for name, module in model.named_modules():
            if isinstance(module, QuantizedLinear):
                module.restore(self._buffers(name, module, device), self.order)
        rest = {name: self.tensors[name].to(device) for name, _ in model.named_parameters()}
        model.load_state_dict(rest, strict=False, assign=True)
        return model.requires_grad_(False)

    def parts(self, name: str, region: Region | None) -> tuple[list[Tensor], int]:
        """A parameter, or the weight that rounded numbers stand for; see `Checkpoint.parts`."""
        if name in self.tensors:
            tensor = self.tensors[name]
        else:
            owner = name.rpartition(".")[0]
            empty = cast(QuantizedLinear, self._empty_model.get_submodule(owner))
            module = type(empty)(empty.in_features, empty.out_features)
            module.restore(self._buffers(owner, module, torch.device("cpu")), self.order)
            tensor = module.expanded().to(self.dtype)
        return [tensor if region is None else tensor[region]], 0

    def _buffers(
        self, owner: str, module: QuantizedLinear, device: torch.device
    ) -> dict[str, Tensor]:
        return {name: self.tensors[f"{owner}.{name}"].to(device) for name in module.buffer_shapes}

    def _check_tensors(self) -> None:
        expected: dict[str, tuple[int, ...]] = {}
        for owner, module in self._empty_model.named_modules():
            if isinstance(module, QuantizedLinear):
                shapes = module.buffer_shapes
                expected |= {f"{owner}.{name}": shape for name, shape in shapes.items()}
                module.weight = None
        rest = self._empty_model.named_parameters()
        expected |= {name: tuple(weight.shape) for name, weight in rest}
        problems = differences(expected, self.tensors)
        floating = self.tensors.get("tok_embeddings.weight", torch.empty(0)).dtype
        for name, tensor in self.tensors.items():
            kind = INTEGERS.get(name.rpartition(".")[2], floating)
            if tensor.dtype != kind or floating not in COMPUTED:
                problems.append(f"{name} holds {tensor.dtype}")
        if problems:
            raise CheckpointError(
                f"{self.directory / FILE}: the tensors are not those of the model in {PARAMS}, "
                f"rounded to {self.mode} ({'; '.join(problems[:4])}); write it anew with "
                "codellama.convert"
            )


def save_checkpoint(directory: str | Path, model: Transformer, mode: str) -> None:
    """Writes a model that was loaded with the layout `Quantized(mode)`.

    The directory appears when all of it is written.

    Raises:
        CheckpointError: the directory is taken.
    """
    order = ",".join(map(str, block_order(model.tok_embeddings.weight.device)))
    with new_directory(directory) as beside:
        save_file(model.state_dict(), beside / FILE, {"mode": mode, "block_order": order})
        (beside / PARAMS).write_text(json.dumps(model.config.to_params(), indent=2) + "\n")


def _empty_model(config: ModelConfig, mode: str) -> Transformer:
    """The rounded model's layers, without memory."""
    with torch.device("meta"):
        model = Transformer(config)
    Quantized(mode).prepare(model)
    return model
