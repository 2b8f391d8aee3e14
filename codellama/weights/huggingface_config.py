"""The hyper-parameters of a model as Hugging Face writes them: `config.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from codellama.errors import CheckpointError, ConfigError
from codellama.model.config import ModelConfig
from codellama.weights.variants import matching

CONFIG = "config.json"
_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "multiple_of": "intermediate_size",  # until `_feed_forward_shape` takes it apart
    "vocab_size": "vocab_size",
    "norm_eps": "rms_norm_eps",
    "rope_theta": "rope_theta",
    "max_seq_len": "max_position_embeddings",
}
_DEFAULTS = {"num_key_value_heads": 0, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
"""What transformers takes for a key that is missing; 0 key and value heads: as many as queries."""
_FIXED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
}
"""What Code Llama's architecture does not leave open."""


def settings_of(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The contents of `config.json`. A key that was renamed between releases of transformers stands
    under both names."""
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
        CheckpointError: the architecture is not Code Llama's, a key is missing, or the values
            describe no model.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    settings = {"model_type": None, **_DEFAULTS, **settings}
    for key, only in _FIXED.items():
        if settings.get(key, only) != only:
            raise CheckpointError(
                f"{path}: {key} is {settings[key]!r}; Code Llama's architecture has {only!r}"
            )
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
        if config.max_seq_len == variant.trained_context:  # the model is used for longer texts
            return replace(config, max_seq_len=variant.config.max_seq_len)
    return config


def _rope(path: Path, settings: Mapping[str, Any]) -> tuple[Any, Any]:
    """The rotary base and the factor of linear scaling. Their keys depend on the release of
    transformers that wrote the file."""
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
    """`multiple_of` and `ffn_dim_multiplier` for a hidden width: those of a published size if they
    give it, else others."""
    plain = int(2 * 4 * dim / 3)
    plain_widths = ((2**power, 1.0) for power in range(12, -1, -1))
    for multiple_of, multiplier in ((256, 1.0), (4096, 1.3), *plain_widths):
        if multiple_of * -(-int(multiplier * plain) // multiple_of) == hidden_dim:
            return multiple_of, multiplier
    return 1, (hidden_dim + 0.5) / plain
