"""The hyper-parameters of a model as Hugging Face writes them: `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from codellama.model.config import CODE_LLAMA_CONTEXT, ConfigError, ModelConfig
from codellama.weights.downloads import CheckpointError

CONFIG = "config.json"


def settings_of(config: ModelConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The contents of `config.json`; what changed its name between releases under both names."""
    dtype_name = str(dtype).removeprefix("torch.")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_seq_len,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": dtype_name,
        "dtype": dtype_name,
    }


def model_config(path: Path, settings: Mapping[str, Any]) -> ModelConfig:
    """The model that a `config.json` describes, if it is one of Code Llama's architecture."""
    if settings.get("model_type") != "llama":
        raise CheckpointError(
            f"{path} describes a model of type {settings.get('model_type')!r}; expected 'llama', "
            "Code Llama's architecture"
        )
    for key, only in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if settings.get(key, only) != only:
            raise CheckpointError(
                f"{path}: {key} is {settings[key]!r}; Code Llama's architecture has {only!r}"
            )
    theta = _rope_theta(path, settings)
    keys = {
        "dim": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "vocab_size": "vocab_size",
        "norm_eps": "rms_norm_eps",
    }
    params = {ours: settings[theirs] for ours, theirs in keys.items() if theirs in settings}
    context = settings.get("max_position_embeddings")
    if theta > 10_000 and context == 16_384:
        context = CODE_LLAMA_CONTEXT  # they give the length of training, not of use
    try:
        hidden = settings["intermediate_size"]
        multiple_of, multiplier = _feed_forward_shape(settings["hidden_size"], hidden)
        config = ModelConfig.from_params(
            {
                **params,
                "rope_theta": theta,
                "max_seq_len": context,
                "multiple_of": multiple_of,
                "ffn_dim_multiplier": multiplier,
            }
        )
    except KeyError as error:
        raise CheckpointError(f"{path} lacks {error.args[0]}") from None
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if settings.get("head_dim") not in (None, config.head_dim):
        raise CheckpointError(
            f"{path}: head_dim is {settings['head_dim']}; Code Llama's architecture has "
            f"hidden_size / num_attention_heads = {config.head_dim}"
        )
    return config


def _rope_theta(path: Path, settings: Mapping[str, Any]) -> float:
    """The rotary base, from wherever the release that wrote the file put it."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            f"{path} asks for rotary scaling of type {kind!r}, which Code Llama does not use; "
            "expected 'default'"
        )
    return rope.get("rope_theta", settings.get("rope_theta", 10_000.0))


def _feed_forward_shape(dim: int, hidden_dim: int) -> tuple[int, float]:
    """`multiple_of` and `ffn_dim_multiplier` that give a hidden width: those of a published size
    if they do, else others."""
    plain = int(2 * 4 * dim / 3)
    plain_widths = ((2**power, 1.0) for power in range(12, -1, -1))
    for multiple_of, multiplier in ((256, 1.0), (4096, 1.3), *plain_widths):
        if multiple_of * -(-int(multiplier * plain) // multiple_of) == hidden_dim:
            return multiple_of, multiplier
    return 1, (hidden_dim + 0.5) / plain
