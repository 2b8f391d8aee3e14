"""Prompts with a value to be found again, and whether the model's number is that value."""

from types import SimpleNamespace

import pytest
import torch
from random_models import random_model

from codellama import CodeLlama
from codellama.errors import DataError, RequestError
from codellama.evaluation.key_retrieval import (
    KEY,
    QUESTION,
    KeyRetrievalArguments,
    functions,
    key_retrieval,
    surroundings,
)
from codellama.evaluation.results import Results

FILES = ["".join(f"def f{n}_{m}(x):\n    return {m} * x\n\n" for m in range(12)) for n in range(9)]
FILES += [
    "x = 1\n",
    "class A:\n    def method(self):\n        pass\n",
    "no python: at all",
    "def f0_0(): 0",
]


@pytest.fixture(scope="module")
def filler():
    return functions(FILES, 10**6)


def test_filler_is_each_function_but_methods_once_in_an_order_of_its_own(filler):
    assert len(filler) == len(set(filler)) == 9 * 12 + 1
    assert not any("method" in text for text in filler)
    assert filler != sorted(filler)
    assert filler == functions(reversed(FILES), 10**6)
    assert filler != functions(FILES, 10**6, seed=1)
    assert 200 <= sum(map(len, functions(FILES, 200))) < 1000


@pytest.mark.parametrize("position", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("length", [200, 700])
def test_a_prompt_has_its_length_and_the_key_its_position(tokenizer, filler, length, position):
    before, behind = surroundings(tokenizer, filler, length, position)
    longest = max(len(tokenizer.encode(text)) for text in filler)
    size = len(tokenizer.encode(before + KEY.format(42) + behind + QUESTION, bos=True))
    assert length - longest - 4 <= size <= length + 4
    fixed = len(tokenizer.encode(KEY.format(42) + QUESTION, bos=True))
    key_at = len(tokenizer.encode(before))
    assert abs(key_at - position * (length - fixed)) <= longest + 4
    assert before + behind == "".join(filler[: (before + behind).count("def ")])


def test_each_cell_is_asked_once_with_the_rotary_settings_asked_for(tokenizer, tmp_path):
    llm = CodeLlama(random_model(vocab_size=tokenizer.vocab_size, max_seq_len=400), tokenizer)
    cells = KeyRetrievalArguments((200, 200), (0.5,), 2, rope_theta=5e5, rope_scaling_factor=4.0)
    results = Results(tmp_path / "results.jsonl")
    assert list(key_retrieval(llm, FILES, cells, results)) == [(200, 0.5)]
    assert len(results.path.read_text().splitlines()) == 2
    config = llm.model.config
    assert (config.rope_theta, config.rope_scaling_factor) == (5e5, 4.0)


def test_too_few_functions_are_refused(tokenizer, filler):
    with pytest.raises(DataError, match="tokens of 1,000,000"):
        surroundings(tokenizer, filler, 1_000_000, 0.0)


@pytest.mark.parametrize("values", [{"examples": 0}, {"length": (0,)}, {"position": (1.5,)}])
def test_cells_that_cannot_be_are_refused(values):
    with pytest.raises(RequestError, match="expected a"):
        KeyRetrievalArguments(**values)


@pytest.mark.parametrize("right", [True, False])
def test_the_first_number_decides(llm, monkeypatch, right):
    asked = []

    def generate(prompts, **options):
        [ids] = prompts
        asked.append(ids)
        assert options == {"stop_ids": [], "max_new_tokens": 4}
        value = llm.tokenizer.decode(ids).split('at the end"\n    return ')[1][:2]
        return [SimpleNamespace(text=f"{value}\n" if right else f"{int(value) + 1}, {value}")]

    monkeypatch.setattr(llm, "generate", generate)
    cells = KeyRetrievalArguments(length=(200, 300), position=(0.0, 0.5), examples=3)
    found = key_retrieval(llm, FILES, cells)
    assert found == {(n, p): float(right) for n in (200, 300) for p in (0.0, 0.5)}
    assert len(set(map(tuple, asked))) == 12


def test_a_second_start_asks_for_what_is_missing_alone(llm, tmp_path):
    cells, path = (
        KeyRetrievalArguments(length=(200,), position=(0.0, 0.5), examples=3),
        tmp_path / "results.jsonl",
    )
    first = key_retrieval(llm, FILES, cells, Results(path, "run"))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]))
    assert key_retrieval(llm, FILES, cells, Results(path, "run")) == first
    assert path.read_text() == "".join(lines)


def test_another_base_and_scaled_positions_take_effect(tokenizer):
    tokens = torch.arange(3, 60)[None]
    logits = {}
    for name, cells in {
        "own": KeyRetrievalArguments(),
        "base": KeyRetrievalArguments(rope_theta=1e6),
        "scaled": KeyRetrievalArguments(rope_scaling_factor=4.0),
    }.items():
        llm = CodeLlama(random_model(), tokenizer)
        cells.override_rope(llm.model)
        logits[name] = llm.model(tokens)
    assert not torch.allclose(logits["own"], logits["base"])
    assert not torch.allclose(logits["own"], logits["scaled"])
