"""Hugging Face's checkpoint format: `config.json` and weights in safetensors or PyTorch files.

The weights are Meta's under other names, but for the rows of two matrices. Meta rotates the channel
pairs (0, 1), (2, 3), …; Hugging Face rotates channel `i` with `i + head_dim / 2`. So it stores the
rows of each query and key head with all even channels first, then all odd ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from codellama.errors import CheckpointError, ConfigError
from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import (
    Checkpoint,
    Slices,
    check_tensors,
    parameter_shapes,
    plain_names,
)
from codellama.weights.downloads import read_json, read_safetensors, read_torch
from codellama.weights.recognised import not_a_checkpoint
from codellama.weights.variants import matching

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In the order in which transformers prefers them; `.index.json` behind it names several files."""
INDEX = f"{WEIGHTS[0]}.index.json"
NAMES = {
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
KEYS = {
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
FIXED = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
"""What Code Llama's architecture does not leave open."""


def hugging_face_name(name: str) -> str:
    """The parameter `name` of `Transformer` as Hugging Face calls it."""
    stem = name.removesuffix(".weight")
    if not stem.startswith("layers."):
        return f"{NAMES[stem]}.weight"
    _, layer, stem = stem.split(".", 2)
    return f"model.layers.{layer}.{NAMES[stem]}.weight"


def interleaved_to_half_split(rows: Tensor, head_dim: int) -> Tensor:
    """Query or key rows from Meta's order to Hugging Face's.

    Shape:
        (heads * head_dim, dim) -> the same
    """
    return rows.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def half_split_to_interleaved(rows: Tensor, head_dim: int) -> Tensor:
    """Query or key rows from Hugging Face's order to Meta's; undoes `interleaved_to_half_split`."""
    return rows.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def is_rotated(name: str) -> bool:
    """Whether a parameter's rows are those of query or key heads."""
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
        weight_paths = _weight_paths(directory)
        settings = read_json(path)
        self.directory = directory
        self.config = model_config(path, settings)
        self.file_count = len(weight_paths)
        tensors = dict[str, Tensor]()
        for one in weight_paths:
            tensors |= read_torch(one) if one.suffix == ".bin" else read_safetensors(one)[0]
        self.tensors = plain_names(tensors)
        embedding = self.tensors.get("model.embed_tokens.weight")
        if settings.get("tie_word_embeddings") and embedding is not None:
            self.tensors.setdefault("lm_head.weight", embedding)
        shapes = parameter_shapes(self.config)
        expected = {hugging_face_name(name): shape for name, shape in shapes.items()}
        self.dtypes = check_tensors(path, expected, [self.tensors])

    def parts(self, name: str, slices: Slices | None) -> tuple[list[Tensor], int]:
        """As `Checkpoint.parts`; slices of query or key rows have to consist of whole heads."""
        tensor = self.tensors[hugging_face_name(name)]
        if slices is not None:
            tensor = tensor[slices]
        if is_rotated(name):
            tensor = half_split_to_interleaved(tensor, self.config.head_dim)
        return [tensor], 0


def _weight_paths(directory: Path) -> list[Path]:
    """The files of weights that transformers would take."""
    present = {path.name for path in directory.iterdir()}  # no name leads out of the directory
    candidates = [one for name in WEIGHTS for one in (name, f"{name}.index.json")]
    name = next((name for name in candidates if name in present), None)
    if name is None:
        otherwise = f"has {CONFIG}, but no {WEIGHTS[0]}; download the weights to the same place"
        raise not_a_checkpoint(directory, otherwise)
    if not name.endswith(".json"):
        return [directory / name]
    weight_map = read_json(directory / name).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{directory / name} has no weight_map; download it again")
    files = sorted(set(map(str, weight_map.values())))
    if missing := [file for file in files if file not in present]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise CheckpointError(
            f"{directory} lacks {', '.join(missing[:3])}{more}, which {name} names; download "
            "what is missing"
        )
    return [directory / file for file in files]


def model_config(path: Path, settings: Mapping[str, Any]) -> ModelConfig:
    """The model that a `config.json` describes. As in transformers, null counts as not given.

    Raises:
        CheckpointError: another architecture, a missing key, or values that describe no model.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    settings = {"model_type": None, **_DEFAULTS, **settings}
    if isinstance(quantization := settings.get("quantization_config", {}), dict) and quantization:
        method = quantization.get("quant_method", "an unknown method")
        raise CheckpointError(
            f"{path}: the weights are quantized by {method}, which is not read; download the "
            "model in 16 bits (codellama.convert quantizes it to int8 or int4)"
        )
    for key, only in FIXED.items():
        if settings.get(key, only) != only:
            raise CheckpointError(f"{path}: {key} is {settings[key]!r}; Code Llama has {only!r}")
    settings["rope_theta"], factor = _rope(path, settings)
    if missing := [key for key in KEYS.values() if key not in settings]:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    try:
        config = ModelConfig(
            **{ours: settings[theirs] for ours, theirs in KEYS.items()},
            rope_scaling_factor=factor,
        )
    except ConfigError as error:
        reason = re.sub(r"\w+", lambda word: KEYS.get(word[0], word[0]), str(error))
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
