"""Hugging Face's checkpoint format: `config.json` and safetensors files.

The weights are those of Meta's files, under other names, and two matrices have their rows in
another order. Meta rotates the channel pairs (0, 1), (2, 3), …; Hugging Face rotates channel `i`
with channel `i + head_dim / 2`. So Hugging Face stores the rows of each query and key head with all
even channels first, then all odd ones.
"""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import (
    Checkpoint,
    Read,
    Region,
    check_tensors,
    new_directory,
    parameter_shapes,
)
from codellama.weights.downloads import Progress, read_json, read_safetensors
from codellama.weights.huggingface_config import CONFIG, model_config, settings_of

SINGLE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FILE_BYTES = 5_000_000_000
_NAMES = {
    "tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def hugging_face_name(name: str) -> str:
    """The parameter `name` of `Transformer` as Hugging Face calls it."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("layers."):
        return f"{_NAMES[stem]}.weight"
    _, layer, stem = stem.split(".", 2)
    return f"model.layers.{layer}.{_NAMES[stem]}.weight"


def neighbours_to_halves(rows: Tensor, head_dim: int) -> Tensor:
    """Query or key rows from Meta's order to Hugging Face's.

    Shape:
        (heads * head_dim, dim) -> the same
    """
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def halves_to_neighbours(rows: Tensor, head_dim: int) -> Tensor:
    """Query or key rows from Hugging Face's order to Meta's; undoes `neighbours_to_halves`."""
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def _is_rotated(name: str) -> bool:
    return name.split(".")[-2] in ("wq", "wk")


class HuggingFaceCheckpoint(Checkpoint):
    """A directory in Hugging Face's format.

    Raises:
        CheckpointError: `config.json` or a weight file is missing or damaged, the architecture is
            not Code Llama's, or names and shapes are not those of the model in `config.json`.
    """

    format = "Hugging Face"

    def __init__(self, directory: Path) -> None:
        path = directory / CONFIG
        settings = read_json(path)
        self.directory = directory
        self.config = model_config(path, settings)
        weight_paths = _weight_paths(directory)
        self.file_count = len(weight_paths)
        self.tensors = {
            name: tensor
            for weight_path in weight_paths
            for name, tensor in read_safetensors(weight_path)[0].items()
            if not name.endswith("rotary_emb.inv_freq")
        }
        embedding = self.tensors.get("model.embed_tokens.weight")
        if settings.get("tie_word_embeddings") and embedding is not None:
            self.tensors.setdefault("lm_head.weight", embedding)
        expected = {
            hugging_face_name(name): shape for name, shape in parameter_shapes(self.config).items()
        }
        self.dtypes = check_tensors(path, expected, [self.tensors])

    def parts(self, name: str, region: Region | None) -> tuple[list[Tensor], int]:
        """The one tensor, in Meta's order; a region of query or key rows has to consist of whole
        heads. See `Checkpoint.parts`."""
        tensor = self.tensors[hugging_face_name(name)]
        if region is not None:
            tensor = tensor[region]
        if _is_rotated(name):
            tensor = halves_to_neighbours(tensor, self.config.head_dim)
        return [tensor], 0


def save_checkpoint(
    directory: str | Path,
    config: ModelConfig,
    read: Read,
    *,
    file_bytes: int = FILE_BYTES,
    progress: Progress | None = None,
) -> None:
    """Writes `config.json` and safetensors files that transformers loads.

    Memory grows by one file at most. The files appear when all of them are written.

    Args:
        directory: where to write; must not exist, or be empty.
        read: gives the parameters: `Checkpoint.read`, or `reader` of a state dict.
        file_bytes: size of a file, which its last parameter may exceed.
        progress: told parameters done and parameters in all, after each file.

    Raises:
        CheckpointError: the directory is taken.
    """
    shapes = parameter_shapes(config)
    dtype = read("tok_embeddings.weight", None).dtype
    offsets = accumulate((shape.numel() * dtype.itemsize for shape in shapes.values()), initial=0)
    files: dict[int, list[str]] = {}
    for name, offset in zip(shapes, offsets, strict=False):
        files.setdefault(offset // file_bytes, []).append(name)
    weight_map: dict[str, str] = {}
    with new_directory(directory) as scratch:
        for number, names in enumerate(files.values(), 1):
            file = SINGLE_FILE
            if len(files) > 1:
                file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            tensors = {}
            for name in names:
                tensor = read(name, None)
                if _is_rotated(name):
                    tensor = neighbours_to_halves(tensor, config.head_dim)
                tensors[hugging_face_name(name)] = tensor.cpu().contiguous()
            save_file(tensors, scratch / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, file)
            if progress:
                progress(len(weight_map), len(shapes))
        contents: dict[str, Any] = {CONFIG: settings_of(config, dtype)}
        if len(files) > 1:
            size = config.parameter_count * dtype.itemsize
            contents[INDEX] = {"metadata": {"total_size": size}, "weight_map": weight_map}
        for file, content in contents.items():
            (scratch / file).write_text(json.dumps(content, indent=2) + "\n")


def _weight_paths(directory: Path) -> list[Path]:
    """The safetensors files: those that the index names, or the single one."""
    if (directory / INDEX).is_file():
        weight_map = read_json(directory / INDEX).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{directory / INDEX} has no weight_map; download it again")
        names = sorted(set(map(str, weight_map.values())))
        if odd := [name for name in names if Path(name).name != name]:
            raise CheckpointError(f"{directory / INDEX} names {odd[0]!r}, which is not a file name")
    else:
        names = [SINGLE_FILE]
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise CheckpointError(
            f"{directory} lacks {', '.join(missing[:3])}; download what is missing (weights in "
            "other formats than safetensors are not read)"
        )
    return [directory / name for name in names]
