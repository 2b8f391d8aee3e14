"""Writes what transformers loads: `config.json` and safetensors files."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import Read, new_directory, parameter_shapes, write_json
from codellama.weights.downloads import Progress
from codellama.weights.huggingface import (
    CONFIG,
    FIXED,
    INDEX,
    KEYS,
    WEIGHTS,
    hugging_face_name,
    interleaved_to_half_split,
    is_rotated,
)

FILE_BYTES = 5_000_000_000


def write_huggingface(
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
            file = WEIGHTS[0]
            if len(files) > 1:
                file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            tensors = dict[str, Tensor]()
            for name in names:
                tensor = read(name, None)
                if is_rotated(name):
                    tensor = interleaved_to_half_split(tensor, config.head_dim)
                tied = any(tensor.data_ptr() == other.data_ptr() for other in tensors.values())
                tensor = tensor.clone() if tied else tensor
                tensors[hugging_face_name(name)] = tensor.cpu().contiguous()
            save_file(tensors, scratch / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, file)
            if progress:
                progress(len(weight_map), len(shapes))
        write_json(scratch / CONFIG, settings_of(config, dtype))
        if len(files) > 1:
            size = config.parameter_count * dtype.itemsize
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            write_json(scratch / INDEX, index)


def settings_of(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The contents of `config.json`; keys that transformers has renamed stand under both names."""
    dtype_name = str(dtype).removeprefix("torch.")
    factor = config.rope_scaling_factor
    rope = {"rope_type": "default"} if factor == 1 else {"rope_type": "linear", "factor": factor}
    return {
        "architectures": ["LlamaForCausalLM"],
        **{theirs: getattr(config, ours) for ours, theirs in KEYS.items()},
        "intermediate_size": config.hidden_dim,
        "head_dim": config.head_dim,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "rope_scaling": None if factor == 1 else rope,
        **FIXED,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": dtype_name,
        "dtype": dtype_name,
    }
