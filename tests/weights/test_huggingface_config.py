import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from codellama import CheckpointError, ModelConfig
from codellama.weights.huggingface_config import model_config, settings_of
from codellama.weights.variants import VARIANTS

PATH = Path("config.json")
CONFIG = ModelConfig(64, 2, 4, 512, n_kv_heads=2, rope_theta=1e6)


def settings(config: ModelConfig = CONFIG, **changes) -> dict:
    """What is written for a model, with changes; `...` leaves a key out."""
    written = json.loads(json.dumps(settings_of(config, torch.bfloat16)))
    return {key: value for key, value in {**written, **changes}.items() if value is not ...}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_published_models_are_read_as_they_are_written(name):
    config = VARIANTS[name].config
    assert model_config(PATH, settings(config)) == config


@pytest.mark.parametrize("hidden_dim", [86, 172, 1000, 4097, 11008])
def test_any_hidden_width_can_be_expressed(hidden_dim):
    assert model_config(PATH, settings(intermediate_size=hidden_dim)).hidden_dim == hidden_dim


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({}, 1e6),
        ({"rope_parameters": ...}, 1e6),
        ({"rope_theta": ...}, 1e6),
        ({"rope_parameters": ..., "rope_theta": ...}, 1e4),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": ..., "rope_scaling": None}, 1e6),
        ({"rope_parameters": {"rope_type": None, "rope_theta": None}}, 1e6),
        ({"rope_parameters": None, "rope_theta": None}, 1e4),
    ],
)
def test_the_rotary_base_is_found_wherever_a_release_put_it(changes, theta):
    assert model_config(PATH, settings(**changes)).rope_theta == theta


@pytest.mark.parametrize(
    ("config", "given", "context"),
    [
        (VARIANTS["CodeLlama-34b"].config, 16_384, 102_400),
        (VARIANTS["CodeLlama-34b"].config, 8192, 8192),
        (CONFIG, 16_384, 16_384),
    ],
)
def test_only_the_published_length_of_training_does_not_bound_use(config, given, context):
    found = model_config(PATH, settings(config, max_position_embeddings=given))
    assert found.max_seq_len == context


@pytest.mark.parametrize("absent", [..., None])
def test_what_is_left_out_is_what_transformers_takes(absent):
    keys = ("rms_norm_eps", "max_position_embeddings", "num_key_value_heads", "hidden_act")
    found = model_config(PATH, settings(**dict.fromkeys(keys, absent)))
    assert found == replace(CONFIG, norm_eps=1e-6, max_seq_len=2048, n_kv_heads=4)


def test_the_norms_epsilon_is_written_and_read():
    config = replace(CONFIG, norm_eps=1e-6)
    assert model_config(PATH, settings(config)) == config


def test_linear_scaling_of_positions_is_written_and_read():
    config = replace(CONFIG, rope_scaling_factor=4.0)
    assert model_config(PATH, settings(config)) == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mistral"}, "'mistral'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}, "rope_parameters": ...}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, "rope_scaling_factor is 'x'"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling_factor is 0"),
        ({"rope_parameters": "default"}, "rope_parameters is 'default'"),
        ({"rope_scaling": [1]}, "rope_scaling is [1]"),
        ({"rope_parameters": ..., "rope_theta": "1e6"}, "rope_theta is '1e6'; expected a number"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"head_dim": 32}, "head_dim is 32"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"intermediate_size": ...}, "lacks intermediate_size"),
        ({"hidden_size": 0}, "hidden_size is 0; a positive number"),
        ({"hidden_size": 10**400}, "hidden_size is 1000"),
        ({"hidden_size": "64"}, "hidden_size is '64'; expected a whole number"),
        ({"intermediate_size": "x"}, "intermediate_size is 'x'; expected a whole number"),
        ({"intermediate_size": -5}, "intermediate_size is -5; a positive number"),
        ({"num_hidden_layers": ..., "vocab_size": None}, "lacks num_hidden_layers, vocab_size"),
        ({"max_position_embeddings": "x"}, "max_position_embeddings is 'x'"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4'; expected a whole number"),
        ({"num_attention_heads": 5}, "hidden_size 64 over num_attention_heads 5"),
    ],
)
def test_other_architectures_and_nonsense_are_refused(changes, says):
    with pytest.raises(CheckpointError) as error:
        model_config(PATH, settings(**changes))
    assert says in str(error.value)
    assert "config.json" in str(error.value)
