"""Recipe files, and what is wrong with them."""

import inspect
import json
from dataclasses import fields, replace

import pytest

from codellama.errors import CodeLlamaError, DataError
from codellama.training.recipe import Recipe, Stage, difference, read_recipe
from codellama.training.trainer import learning_rate

STAGE = {"name": "short", "tokens": 1_000, "sequence": 64, "batch_tokens": 128} | {
    "learning_rate": 1e-3
}
MODEL = {"dim": 32, "n_layers": 1, "n_heads": 2, "vocab_size": 400}


def write(directory, **fields):
    path = directory / "recipe.json"
    path.write_text(json.dumps({"model": MODEL, "stages": [STAGE], **fields}))
    return str(path)


@pytest.mark.parametrize("name", ["paper", "tiny"])
def test_a_recipe_that_comes_along_trains_a_new_model(name):
    recipe = read_recipe(name)
    assert recipe.model is not None
    assert recipe.stages[-1].rope_theta == 1e6
    assert recipe.stages[-1].sequence > recipe.stages[0].sequence
    assert recipe.model.parameter_count * 2 < 24e6


def test_the_tiny_model_has_grouped_queries_and_ends_at_16k():
    recipe = read_recipe("tiny")
    assert recipe.model.n_kv_heads < recipe.model.n_heads
    assert recipe.stages[-1].sequence == 16_384


def test_fine_tuning_takes_the_papers_sequence_learning_rate_and_base():
    recipe = read_recipe("finetune", ckpt="CodeLlama-7b")
    [stage] = recipe.stages
    assert (stage.sequence, stage.learning_rate, stage.rope_theta) == (16_384, 2e-5, 1e6)
    assert stage.activation_checkpointing
    with pytest.raises(DataError, match="neither model nor ckpt"):
        read_recipe("finetune")


def test_a_recipe_survives_its_file(tmp_path):
    recipe = read_recipe(write(tmp_path, data=["stdlib", "x"], seed=-3))
    (tmp_path / "again.json").write_text(recipe.to_json())
    assert read_recipe(str(tmp_path / "again.json")) == recipe
    assert (recipe.data, recipe.seed) == (("stdlib", "x"), -3)


def test_every_field_is_told_in_the_docstring():
    for kind in (Stage, Recipe):
        for field in fields(kind):
            assert f"\n    {field.name}: " in inspect.getdoc(kind)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tokens": -1}, "stage 'short': tokens is -1; expected a whole number from 0 up to 1e+15"),
        ({"tokens": 1.5}, "tokens is 1.5; expected a whole number"),
        ({"tokens": True}, "tokens is True; expected a whole number"),
        ({"sequence": 0}, "sequence is 0; expected a whole number from 1 up to 1e+09"),
        ({"learning_rate": 0}, "learning_rate is 0; expected a number from 1e-30 up to 1"),
        ({"learning_rate": "high"}, "learning_rate is 'high'; expected a number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        (
            {"rope_theta": -1e6},
            "expected a number from 1e-06 up to 1e+12",
        ),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"final_ratio": 2}, "final_ratio is 2; expected a number from 0 up to 1"),
        ({"beta2": 1}, "beta2 is 1; expected a number from 0 up to 0.99999"),
        ({"infilling": -0.5}, "infilling is -0.5; expected a number from 0 up to 1"),
        ({"activation_checkpointing": 1}, "activation_checkpointing is 1; expected true or false"),
        ({"optimizer": "sgd"}, "stage 'short': optimizer is 'sgd'; expected one of adamw, muon"),
        ({"name": 3}, "name is 3; expected a text"),
        ({"data": [3]}, "data is (3,); expected a text"),
        ({"data": []}, "stage 'short': data is empty"),
        ({"learning_rat": 1}, "unexpected keyword argument 'learning_rat'; its fields are name, "),
        ({"x" * 9_999: 1}, "unexpected keyword argument"),
    ],
)
def test_a_stage_that_cannot_be_followed_is_refused_by_its_name_and_field(tmp_path, changes, says):
    with pytest.raises(DataError) as error:
        read_recipe(write(tmp_path, stages=[STAGE | changes]))
    assert says in str(error.value)
    assert len(str(error.value)) <= 900


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stages": []}, "0 tokens"),
        ({"stages": 3}, "damaged, or no recipe"),
        ({"stages": [3]}, "a stage 3 argument after ** must be a mapping, not int; its fields are"),
        ({"stages": [{"name": "short"}]}, "missing 4 required positional arguments: 'tokens'"),
        ({"stages": [STAGE, STAGE]}, "have one name"),
        ({"stages": [STAGE | {"tokens": 0}]}, "0 tokens"),
        ({"model": None}, "neither model nor ckpt"),
        ({"ckpt": "x"}, "both model and ckpt"),
        ({"model": 3}, "the model 3 argument after ** must be a mapping"),
        ({"model": MODEL | {"dim": 33}}, "dim 33"),
        ({"model": MODEL | {"dims": 32}}, "got an unexpected keyword argument 'dims'; its"),
        ({"model": {"dim": 32}}, "the model {'dim': 32} missing 3 required"),
        ({"data": []}, "the recipe: data is empty"),
        ({"data": [3]}, "the recipe: data is (3,); expected a text"),
        ({"seed": 10**22}, "seed is"),
        ({"stage": 1}, "unexpected keyword argument 'stage'"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(tmp_path, changes, says):
    with pytest.raises(CodeLlamaError) as error:
        read_recipe(write(tmp_path, **changes))
    assert says in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"3", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000]
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content):
    path = tmp_path / "recipe.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="recipe"):
        read_recipe(str(path))


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(DataError, match="papr; expected finetune, instruct, paper, tiny or a file"):
        read_recipe("papr")


@pytest.fixture
def three():
    rates = {"a": 1e-3, "b": 5e-4, "c": 1e-4}
    stages = [
        Stage(n, 1_000 * (i + 1), 64 << i, 128, rate) for i, (n, rate) in enumerate(rates.items())
    ]
    return replace(read_recipe("finetune", ckpt="x"), stages=tuple(stages))


@pytest.mark.parametrize("tokens", [1, 7, 600, 6_000, 123_457])
def test_all_stages_share_the_tokens_as_before(three, tokens):
    scaled = three.scaled(tokens, None, None)
    assert scaled.tokens == tokens
    for stage, before in zip(scaled.stages, three.stages, strict=True):
        assert stage.tokens == pytest.approx(tokens * before.tokens / 6_000, abs=1)
    assert scaled.scaled(tokens, None, None) == scaled


def test_sequences_are_as_long_as_asked_at_most(three):
    assert [s.sequence for s in three.scaled(None, 100, None).stages] == [64, 100, 100]


def test_learning_rates_keep_their_ratios(three):
    rates = [stage.learning_rate for stage in three.scaled(None, None, 4e-3).stages]
    assert rates == pytest.approx([4e-3, 2e-3, 4e-4])


def test_recipes_differ_by_lines_of_their_files():
    paper = read_recipe("paper")
    assert difference(paper, replace(paper, about="in other words")) == ""
    other = read_recipe("paper", seed=1).scaled(None, 999, None)
    assert (
        difference(paper, other) == '- "sequence": 8192, + "sequence": 999, - "seed": 0 + "seed": 1'
    )


def test_data_are_one_source_or_a_list_and_others_replace_those_of_the_stages(tmp_path):
    path = write(tmp_path, data="x", stages=[STAGE | {"data": ["y", "z"]}])
    recipe = read_recipe(path)
    assert (recipe.data, recipe.stages[0].data) == (("x",), ("y", "z"))
    other = read_recipe(path, data=["w"])
    assert (other.data, other.stages[0].data) == (("w",), None)


def test_instructions_are_learned_at_llama_2_chats_learning_rate():
    recipe = read_recipe("instruct", ckpt="CodeLlama-7b")
    assert recipe.data == ("instructions.jsonl",)
    assert (recipe.stages[0].sequence, recipe.stages[0].learning_rate) == (4_096, 2e-5)


@pytest.mark.parametrize(("tokens", "steps"), [(0, 0), (1, 1), (256, 1), (257, 2), (2_560, 10)])
def test_steps_are_as_few_as_see_all_tokens(tokens, steps):
    assert Stage("a", tokens, 64, 256, 1e-3).steps == steps


def test_a_batch_is_the_nearest_number_of_whole_sequences():
    sizes = [
        Stage("a", 9_999, 64, tokens, 1e-3).batch_size for tokens in (1, 64, 90, 100, 640, 660)
    ]
    assert sizes == [1, 1, 1, 2, 10, 10]


def test_a_batch_is_no_larger_than_the_stage():
    stage = Stage("a", 100, 64, 10_000, 1e-3)
    assert (stage.batch_size, stage.steps) == (2, 1)


def test_the_learning_rate_rises_linearly_to_its_peak():
    stage = Stage("a", 100 * 256, 64, 256, 3e-3, warmup_steps=10)
    rates = [learning_rate(stage, step) for step in range(10)]
    assert rates == pytest.approx([3e-4 * step for step in range(1, 11)])


@pytest.mark.parametrize("warmup_steps", [0, 10])
@pytest.mark.parametrize("ratio", [1 / 30, 0.5, 1.0])
def test_the_learning_rate_falls_as_a_cosine_to_its_last(warmup_steps, ratio):
    stage = Stage("a", 100 * 256, 64, 256, 3e-3, warmup_steps, ratio)
    rates = [learning_rate(stage, step) for step in range(warmup_steps, 101)]
    assert rates[0] == pytest.approx(3e-3)
    assert rates[len(rates) // 2] == pytest.approx(3e-3 * (1 + ratio) / 2)
    assert rates[-1] == pytest.approx(3e-3 * ratio)


def test_the_warm_up_takes_a_tenth_of_a_stage_at_most():
    stage = Stage("a", 20 * 256, 64, 256, 3e-3, warmup_steps=10_000)
    assert learning_rate(stage, 0) == pytest.approx(1.5e-3)
    assert learning_rate(stage, 1) == pytest.approx(3e-3)
    assert learning_rate(stage, 3) < 3e-3
