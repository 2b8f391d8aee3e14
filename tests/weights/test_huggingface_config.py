import json
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
    ],
)
def test_the_rotary_base_is_found_wherever_a_release_put_it(changes, theta):
    assert model_config(PATH, settings(**changes)).rope_theta == theta


@pytest.mark.parametrize(("theta", "context"), [(1e6, 102_400), (1e4, 16_384)])
def test_the_length_of_training_does_not_bound_code_llamas_use(theta, context):
    rope = {"rope_type": "default", "rope_theta": theta}
    found = model_config(PATH, settings(rope_parameters=rope, max_position_embeddings=16_384))
    assert found.max_seq_len == context


def test_without_key_value_heads_there_are_as_many_as_query_heads():
    assert model_config(PATH, settings(num_key_value_heads=...)).n_kv_heads == 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mistral"}, "'mistral'"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": ...}, "'linear'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "'llama3'"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"head_dim": 32}, "head_dim is 32"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"intermediate_size": ...}, "lacks intermediate_size"),
        ({"num_attention_heads": "4"}, "expected a whole number"),
        ({"num_attention_heads": 5}, "n_heads 5"),
    ],
)
def test_other_architectures_and_nonsense_are_refused(changes, says):
    with pytest.raises(CheckpointError) as error:
        model_config(PATH, settings(**changes))
    assert says in str(error.value)
    assert "config.json" in str(error.value)
