"""Hugging Face's checkpoint format: `config.json` and safetensors files.

The weights are Meta's under other names, but for the rows of two matrices. Meta rotates the channel
pairs (0, 1), (2, 3), …; Hugging Face rotates channel `i` with `i + head_dim / 2`. So it stores the
rows of each query and key head with all even channels first, then all odd ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from codellama.errors import CheckpointError, ConfigError
from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import (
    Checkpoint,
    Read,
    Slices,
    check_tensors,
    new_directory,
    parameter_shapes,
)
from codellama.weights.downloads import Progress, read_json, read_safetensors
from codellama.weights.variants import matching

CONFIG = "config.json"
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
_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "multiple_of": "intermediate_size",  # replaced by `_feed_forward_shape`
    "vocab_size": "vocab_size",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "max_seq_len": "max_position_embeddings",
}
_DEFAULTS = {"num_key_value_heads": 0, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
"""What transformers takes for a key that is missing; 0 key and value heads: as many as queries."""
_FIXED = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
"""What Code Llama's architecture does not leave open."""


def hugging_face_name(name: str) -> str:
    """The parameter `name` of `Transformer` as Hugging Face calls it."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("layers."):
        return f"{_NAMES[stem]}.weight"
    _, layer, stem = stem.split(".", 2)
    return f"model.layers.{layer}.{_NAMES[stem]}.weight"


def interleaved_to_half_split(rows: Tensor, head_dim: int) -> Tensor:
    """Query or key rows from Meta's order to Hugging Face's.

    Shape:
        (heads * head_dim, dim) -> the same
    """
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def half_split_to_interleaved(rows: Tensor, head_dim: int) -> Tensor:
    """Query or key rows from Hugging Face's order to Meta's; undoes `interleaved_to_half_split`."""
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
        shapes = parameter_shapes(self.config)
        expected = {hugging_face_name(name): shape for name, shape in shapes.items()}
        self.dtypes = check_tensors(path, expected, [self.tensors])

    def parts(self, name: str, region: Slices | None) -> tuple[list[Tensor], int]:
        """As `Checkpoint.parts`; a region of query or key rows has to consist of whole heads."""
        tensor = self.tensors[hugging_face_name(name)]
        if region is not None:
            tensor = tensor[region]
        if _is_rotated(name):
            tensor = half_split_to_interleaved(tensor, self.config.head_dim)
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
            tensors = dict[str, Tensor]()
            for name in names:
                tensor = read(name, None)
                if _is_rotated(name):
                    tensor = interleaved_to_half_split(tensor, config.head_dim)
                tied = any(tensor.data_ptr() == other.data_ptr() for other in tensors.values())
                tensor = tensor.clone() if tied else tensor
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
    else:
        names = [SINGLE_FILE]
    present = {path.name for path in directory.iterdir()}  # no name leads out of the directory
    if missing := [name for name in names if name not in present]:
        raise CheckpointError(
            f"{directory} lacks {', '.join(missing[:3])}; download what is missing (weights in "
            "other formats than safetensors are not read)"
        )
    return [directory / name for name in names]


def settings_of(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The contents of `config.json`; keys that transformers has renamed stand under both names."""
    dtype_name = str(dtype).removeprefix("torch.")
    factor = config.rope_scaling_factor
    rope = {"rope_type": "default"} if factor == 1 else {"rope_type": "linear", "factor": factor}
    return {
        "architectures": ["LlamaForCausalLM"],
        **{theirs: getattr(config, ours) for ours, theirs in _KEYS.items()},
        "intermediate_size": config.hidden_dim,
        "head_dim": config.head_dim,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "rope_scaling": None if factor == 1 else rope,
        **_FIXED,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": dtype_name,
        "dtype": dtype_name,
    }


def model_config(path: Path, settings: Mapping[str, Any]) -> ModelConfig:
    """The model that a `config.json` describes. As in transformers, null counts as not given.

    Raises:
        CheckpointError: another architecture, a missing key, or values that describe no model.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    settings = {"model_type": None, **_DEFAULTS, **settings}
    for key, only in _FIXED.items():
        if settings.get(key, only) != only:
            raise CheckpointError(f"{path}: {key} is {settings[key]!r}; Code Llama has {only!r}")
    settings["rope_theta"], factor = _rope(path, settings)
    if missing := [key for key in _KEYS.values() if key not in settings]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    try:
        config = ModelConfig(
            **{ours: settings[theirs] for ours, theirs in _KEYS.items()},
            rope_scaling_factor=factor,
        )
    except ConfigError as error:
        reason = re.sub(r"\w+", lambda word: _KEYS.get(word[0], word[0]), str(error))
        raise CheckpointError(f"{path}: {reason}") from None
    multiple_of, multiplier = _feed_forward_shape(config.dim, settings["intermediate_size"])
    config = replace(config, multiple_of=multiple_of, ffn_dim_multiplier=multiplier)
    if settings.get("head_dim", config.head_dim) != config.head_dim:
        raise CheckpointError(
            f"{path}: head_dim is {settings['head_dim']!r}; Code Llama's architecture has "
            f"hidden_size / num_attention_heads = {config.head_dim}"
        )
    for variant in matching(config):
        if config.max_seq_len == variant.trained_context:  # the files give the length in training
            return replace(config, max_seq_len=variant.config.max_seq_len)
    return config


def _rope(path: Path, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """The rotary base and the factor of linear scaling; keys depend on transformers' release."""
    theta: Any = settings.get("rope_theta", 10_000.0)
    factor: Any = 1.0
    for key in ("rope_scaling", "rope_parameters"):
        rope = settings.get(key, {})
        if not isinstance(rope, dict):
            raise CheckpointError(f"{path}: {key} is {rope!r}; expected an object")
        kind = rope.get("rope_type") or rope.get("type") or "default"
        if kind not in ("default", "linear"):
            raise CheckpointError(
                f"{path}: {key} asks for rotary scaling of type {kind!r}; expected 'default' or "
                "'linear'"
            )
        if kind == "linear":
            factor = rope.get("factor")
        if rope.get("rope_theta") is not None:
            theta = rope["rope_theta"]
    return theta, factor


def _feed_forward_shape(dim: int, hidden_dim: int) -> tuple[int, float]:
    """`multiple_of` and `ffn_dim_multiplier` for a hidden width; a published size's if they fit."""
    plain = int(2 * 4 * dim / 3)
    plain_widths = ((2**power, 1.0) for power in range(12, -1, -1))
    for multiple_of, multiplier in ((256, 1.0), (4096, 1.3), *plain_widths):
        if multiple_of * -(-int(multiplier * plain) // multiple_of) == hidden_dim:
            return multiple_of, multiplier
    return 1, (hidden_dim + 0.5) / plain
