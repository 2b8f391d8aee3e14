"""`params.json` becomes a configuration, and every shape follows from it."""

import json
import warnings
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import random_model

from codellama import ConfigError, ModelConfig

SMALL = {"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 512}


@st.composite
def configs(draw) -> ModelConfig:
    """Any configuration that describes a model."""
    n_kv_heads = draw(st.integers(1, 8))
    n_heads = n_kv_heads * draw(st.integers(1, 8))
    return ModelConfig(
        dim=n_heads * 2 * draw(st.integers(1, 64)),
        n_layers=draw(st.integers(1, 80)),
        n_heads=n_heads,
        vocab_size=draw(st.integers(1, 32016)),
        n_kv_heads=n_kv_heads,
        multiple_of=draw(st.integers(1, 4096)),
        ffn_dim_multiplier=draw(st.floats(0.5, 2.0)),
        norm_eps=draw(st.floats(1e-8, 1e-3)),
        rope_theta=draw(st.sampled_from([500.0, 1e4, 1e6]) | st.floats(1.0, 1e9)),
        rope_scaling_factor=draw(st.floats(1.0, 16.0)),
        max_seq_len=draw(st.sampled_from([4096, 100 * 1024]) | st.integers(1, 2**20)),
    )


def test_every_key_becomes_the_field_of_its_name():
    params = {
        "dim": 96,
        "n_layers": 3,
        "n_heads": 6,
        "vocab_size": 500,
        "n_kv_heads": 2,
        "multiple_of": 32,
        "ffn_dim_multiplier": 1.3,
        "norm_eps": 1e-6,
        "rope_theta": 1_000_000,
        "rope_scaling_factor": 4.0,
        "max_seq_len": 2048,
    }
    assert asdict(ModelConfig.from_params(params)) == params


def test_what_is_not_given_is_what_metas_code_takes():
    config = ModelConfig.from_params(SMALL)
    assert asdict(config) == SMALL | {
        "n_kv_heads": 4,
        "multiple_of": 256,
        "ffn_dim_multiplier": 1.0,
        "norm_eps": 1e-5,
        "rope_theta": 1e4,
        "rope_scaling_factor": 1.0,
        "max_seq_len": 4096,
    }


@pytest.mark.parametrize("key", ["n_kv_heads", "ffn_dim_multiplier", "rope_theta"])
def test_null_counts_as_not_given(key):
    assert ModelConfig.from_params(SMALL | {key: None}) == ModelConfig.from_params(SMALL)


@pytest.mark.parametrize("stored", [{}, {"vocab_size": -1}, {"vocab_size": None}])
def test_vocabulary_that_the_file_leaves_open_is_the_embeddings(stored):
    params = {key: SMALL[key] for key in ("dim", "n_layers", "n_heads")} | stored
    assert ModelConfig.from_params(params, vocab_size=32016).vocab_size == 32016


def test_vocabulary_that_the_embedding_confirms_is_taken():
    assert ModelConfig.from_params(SMALL, vocab_size=512).vocab_size == 512


@pytest.mark.parametrize(
    ("given", "context"),
    [
        ({"rope_theta": 1e4}, 4096),
        ({"rope_theta": 1e6}, 102_400),
        ({"rope_theta": 1e6, "max_seq_len": 777}, 777),
    ],
)
def test_context_follows_from_the_rotary_base_unless_given(given, context):
    assert ModelConfig.from_params(SMALL | given).max_seq_len == context


def test_unknown_keys_are_ignored_with_a_warning_that_names_them():
    with pytest.warns(UserWarning, match="ignoring unknown beta, quantized"):
        config = ModelConfig.from_params(SMALL | {"quantized": True, "beta": "x"})
    assert config == ModelConfig.from_params(SMALL)


def test_the_rotary_scaling_of_llama_3_is_refused():
    with pytest.raises(ConfigError, match="use_scaled_rope is Llama 3's rotary scaling"):
        ModelConfig.from_params(SMALL | {"use_scaled_rope": True})


def test_known_keys_are_read_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ModelConfig.from_params(SMALL | {"n_kv_heads": 2, "rope_theta": 1e6})


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [(["dim"], "lacks dim"), (["vocab_size", "n_heads"], "lacks n_heads, vocab_size")],
)
def test_missing_keys_are_named(missing, sentence):
    params = {key: value for key, value in SMALL.items() if key not in missing}
    with pytest.raises(ConfigError, match=sentence):
        ModelConfig.from_params(params)


def test_vocabulary_left_open_without_an_embedding_is_an_error():
    with pytest.raises(ConfigError, match="lacks vocab_size"):
        ModelConfig.from_params(SMALL | {"vocab_size": -1})


def test_vocabulary_that_contradicts_the_embedding_is_an_error_with_both_numbers():
    with pytest.raises(ConfigError, match=r"vocab_size 32000.* 32016 rows"):
        ModelConfig.from_params(SMALL | {"vocab_size": 32000}, vocab_size=32016)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("dim", "64", "a whole number"),
        ("n_layers", 2.5, "a whole number"),
        ("n_heads", True, "a whole number"),
        ("vocab_size", [512], "a whole number"),
        ("norm_eps", "1e-5", "a number"),
        ("rope_theta", False, "a number"),
    ],
)
def test_values_that_are_no_numbers_are_errors(key, value, expected):
    with pytest.raises(ConfigError, match=rf"{key} is .*; expected {expected}"):
        ModelConfig.from_params(SMALL | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dim", 0),
        ("n_layers", -2),
        ("n_heads", 0),
        ("vocab_size", -512),
        ("n_kv_heads", -4),
        ("multiple_of", 0),
        ("ffn_dim_multiplier", -1.3),
        ("norm_eps", 0.0),
        ("rope_theta", -1e4),
        ("max_seq_len", -1),
    ],
)
def test_numbers_that_are_not_positive_are_errors(key, value):
    with pytest.raises(ConfigError, match=rf"{key} is {value}; expected .* (from 1|above 0) up"):
        ModelConfig.from_params(SMALL | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dim", 2**70),
        ("n_layers", 10**6),
        ("vocab_size", 10**20),
        ("multiple_of", 10**30),
        ("ffn_dim_multiplier", 1e308),
        ("ffn_dim_multiplier", 1e-9),
        ("ffn_dim_multiplier", 1e6),
        ("norm_eps", float("inf")),
        ("rope_theta", 10**400),
        ("max_seq_len", 10**20),
    ],
)
def test_numbers_beyond_all_reason_are_errors(key, value):
    with pytest.raises(ConfigError, match=rf"{key} .* up to [\d,e+]+"):
        ModelConfig.from_params(SMALL | {key: value})


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({"dim": 66}, "dim 66 over n_heads 4"),
        ({"dim": 12}, "dim 12 over n_heads 4 .* even"),
        ({"n_kv_heads": 3}, "n_heads 4 is not a multiple of n_kv_heads 3"),
        ({"n_kv_heads": 8}, "n_heads 4 is not a multiple of n_kv_heads 8"),
    ],
)
def test_heads_that_do_not_divide_what_they_share_are_errors(shape, sentence):
    with pytest.raises(ConfigError, match=sentence):
        ModelConfig(**SMALL | shape)


@given(configs())
@settings(deadline=None)
def test_configuration_survives_the_way_through_a_file(config):
    assert ModelConfig.from_params(json.loads(json.dumps(config.to_params()))) == config


def test_written_files_leave_out_what_follows_from_the_rest():
    assert not {"n_kv_heads", "max_seq_len"} & set(ModelConfig(**SMALL).to_params())


@pytest.mark.parametrize(
    ("dim", "multiple_of", "multiplier", "hidden"),
    [
        (4096, 256, 1.0, 11008),
        (5120, 256, 1.0, 13824),
        (8192, 256, 1.0, 22016),
        (8192, 4096, 1.3, 28672),
        (96, 256, 1.0, 256),
        (96, 64, 1.0, 256),
        (64, 1, 2.0, 340),
        (80, 1, 1.5, 319),
    ],
)
def test_hidden_width_is_rounded_up_as_meta_does(dim, multiple_of, multiplier, hidden):
    config = ModelConfig(dim, 2, 8, 512, multiple_of=multiple_of, ffn_dim_multiplier=multiplier)
    assert config.hidden_dim == hidden


def test_head_width_is_the_models_width_over_the_query_heads():
    assert ModelConfig(8192, 2, 64, 512, n_kv_heads=8).head_dim == 128


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_parameter_count_is_the_models(n_kv_heads):
    model = random_model(n_kv_heads=n_kv_heads)
    assert model.config.parameter_count == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("n_kv_heads", [4, 2, 1])
def test_cache_bytes_are_those_that_the_models_cache_takes(n_kv_heads):
    model = random_model(n_kv_heads=n_kv_heads)
    cache = model.new_cache(batch_size=1, capacity=10)
    taken = sum(store.nbytes for store in cache.keys + cache.values)
    assert model.config.kv_cache_bytes(10, bytes_per_number=4) == taken
    assert model.config.kv_cache_bytes(10) == taken // 2


def test_numbers_of_numpy_become_python_s():
    config = ModelConfig(np.int64(64), np.int32(2), 4, np.int64(512), rope_theta=np.float32(1e6))
    params = json.loads(json.dumps(config.to_params()))
    assert (params["dim"], params["rope_theta"]) == (64, 1e6)
