"""The paper's figures, found for the checkpoints that it measured."""

import pytest

from codellama import ModelConfig
from codellama.evaluation.paper import FIGURES, published
from codellama.weights.variants import VARIANTS


def test_all_figures_are_of_published_variants():
    assert {variant for variant, _ in FIGURES} == set(VARIANTS)
    assert len(FIGURES) == 12 * 6 + 2 * 2 + 2 + 2 * 6 + 6 * 9


@pytest.mark.parametrize(
    ("variant", "measure", "name", "shown"),
    [
        ("CodeLlama-7b-Python", "humaneval pass@1", "", "38.4 (Table 2)"),
        ("CodeLlama-7b", "mbpp pass@100", "codellama-7b", "82.5 (Table 2)"),
        ("CodeLlama-13b", "random_span spm_pass@1", "CodeLlama-13b", "41.9 (Table 14)"),
        ("CodeLlama-13b", "single_line spm_exact_match", "CodeLlama-13b", "74.5 (Table 6)"),
        (
            "CodeLlama-7b-Instruct",
            "mbpp_chat pass@1",
            "CodeLlama-7b-Instruct",
            "37.4 (Table 8)",
        ),
        ("CodeLlama-34b", "key_retrieval 24000/0.2", "CodeLlama-34b", "0.0 (Table 17)"),
        (
            "CodeLlama-7b",
            "humaneval pass@10",
            "mine",
            "CodeLlama-7b 59.6, CodeLlama-7b-Instruct 64.3 (Table 2)",
        ),
        ("CodeLlama-7b", "humaneval pass@2", "", ""),
    ],
)
def test_figures_stand_beside_the_checkpoints_they_are_of(variant, measure, name, shown):
    assert published(VARIANTS[variant].config, measure, name) == shown


def test_other_models_have_none():
    assert published(ModelConfig(64, 2, 4, 512), "humaneval pass@1", "CodeLlama-7b") == ""
