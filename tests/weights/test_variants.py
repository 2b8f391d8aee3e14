"""The published checkpoints, against figures that are written out here."""

from dataclasses import replace

import pytest
import torch

from codellama import ModelConfig, Transformer
from codellama.weights.variants import VARIANTS, matching

# name: parameters, vocabulary, base of the rotary embedding, tokens of a training sequence,
# tokens of context, infilling, chat
PUBLISHED = {
    "CodeLlama-7b": (6_738_546_688, 32016, 1e6, 16384, 102_400, "yes", None),
    "CodeLlama-7b-Python": (6_738_415_616, 32000, 1e6, 16384, 102_400, "no", None),
    "CodeLlama-7b-Instruct": (6_738_546_688, 32016, 1e6, 16384, 102_400, "yes", "[INST]"),
    "CodeLlama-13b": (13_016_028_160, 32016, 1e6, 16384, 102_400, "yes", None),
    "CodeLlama-13b-Python": (13_015_864_320, 32000, 1e6, 16384, 102_400, "no", None),
    "CodeLlama-13b-Instruct": (13_016_028_160, 32016, 1e6, 16384, 102_400, "yes", "[INST]"),
    "CodeLlama-34b": (33_743_970_304, 32000, 1e6, 16384, 102_400, "no", None),
    "CodeLlama-34b-Python": (33_743_970_304, 32000, 1e6, 16384, 102_400, "no", None),
    "CodeLlama-34b-Instruct": (33_743_970_304, 32000, 1e6, 16384, 102_400, "no", "[INST]"),
    "CodeLlama-70b": (68_976_910_336, 32016, 1e6, 16384, 102_400, "yes", None),
    "CodeLlama-70b-Python": (68_976_910_336, 32016, 1e4, 4096, 4096, "unstated", None),
    "CodeLlama-70b-Instruct": (68_976_910_336, 32016, 1e4, 4096, 4096, "unstated", "Source:"),
}

# size: dim, layers, heads, kv heads, hidden, shards
SIZES = {
    "7b": (4096, 32, 32, 32, 11008, 1),
    "13b": (5120, 40, 40, 40, 13824, 2),
    "34b": (8192, 48, 64, 8, 22016, 4),
    "70b": (8192, 80, 64, 8, 28672, 8),
}

every_variant = pytest.mark.parametrize("name", PUBLISHED)


def test_the_twelve_are_listed_under_their_names():
    assert list(VARIANTS) == list(PUBLISHED)
    assert all(variant.name == name for name, variant in VARIANTS.items())


@every_variant
def test_figures_are_the_published_ones(name):
    variant = VARIANTS[name]
    config = variant.config
    assert PUBLISHED[name] == (
        config.parameter_count,
        config.vocab_size,
        config.rope_theta,
        variant.trained_context,
        config.max_seq_len,
        variant.infilling,
        variant.chat,
    )
    assert config.norm_eps == 1e-5


@every_variant
def test_shape_is_that_of_the_size(name):
    variant = VARIANTS[name]
    config = variant.config
    assert SIZES[name.split("-")[1]] == (
        config.dim,
        config.n_layers,
        config.n_heads,
        config.n_kv_heads,
        config.hidden_dim,
        variant.shards,
    )


@every_variant
def test_published_parameter_count_follows_from_the_shape(name):
    dim, layers, heads, kv_heads, hidden, _ = SIZES[name.split("-")[1]]
    parameters, vocabulary, *_ = PUBLISHED[name]
    wq = wo = dim * dim
    wk = wv = dim * (dim // heads) * kv_heads
    w1 = w2 = w3 = dim * hidden
    attention_norm = ffn_norm = norm = dim
    tok_embeddings = output = vocabulary * dim
    block = wq + wk + wv + wo + w1 + w2 + w3 + attention_norm + ffn_norm
    assert parameters == tok_embeddings + layers * block + norm + output


@every_variant
def test_model_has_the_published_number_of_parameters(name):
    with torch.device("meta"):
        model = Transformer(VARIANTS[name].config)
    assert sum(weight.numel() for weight in model.parameters()) == PUBLISHED[name][0]


@pytest.mark.parametrize(
    "alike",
    [
        ["CodeLlama-7b", "CodeLlama-7b-Instruct"],
        ["CodeLlama-7b-Python"],
        ["CodeLlama-13b", "CodeLlama-13b-Instruct"],
        ["CodeLlama-13b-Python"],
        ["CodeLlama-34b", "CodeLlama-34b-Python", "CodeLlama-34b-Instruct"],
        ["CodeLlama-70b"],
        ["CodeLlama-70b-Python", "CodeLlama-70b-Instruct"],
    ],
)
def test_configuration_matches_all_checkpoints_that_share_it(alike):
    for name in alike:
        assert [variant.name for variant in matching(VARIANTS[name].config)] == alike


def test_published_file_is_recognised():
    params = {
        "dim": 8192,
        "n_layers": 80,
        "n_heads": 64,
        "n_kv_heads": 8,
        "multiple_of": 4096,
        "ffn_dim_multiplier": 1.3,
        "norm_eps": 1e-5,
        "rope_theta": 1_000_000,
        "vocab_size": -1,
    }
    config = ModelConfig.from_params(params, vocab_size=32016)
    assert [variant.name for variant in matching(config)] == ["CodeLlama-70b"]


def test_chosen_context_makes_no_other_model():
    config = VARIANTS["CodeLlama-7b-Python"].config
    assert matching(replace(config, max_seq_len=2048)) == matching(config)


@pytest.mark.parametrize(
    "change",
    [{"vocab_size": 32001}, {"rope_theta": 1e4}, {"n_layers": 31}, {"norm_eps": 1e-6}],
)
def test_any_other_configuration_matches_none(change):
    assert matching(replace(VARIANTS["CodeLlama-7b"].config, **change)) == []
