"""Prompts with a value to be found again, and whether the model's number is that value."""

import pytest
import torch
from random_models import random_model

from codellama import CodeLlama
from codellama.errors import DataError, RequestError
from codellama.evaluation import key_retrieval as module
from codellama.evaluation.key_retrieval import (
    QUESTION,
    Cells,
    answers,
    functions,
    key_retrieval,
    prompts,
)

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
    cells = Cells(examples=7)
    found = prompts(tokenizer, filler, (length, position), cells)
    assert len({value for value, _ in found}) == 7
    longest = max(len(tokenizer.encode(text)) for text in filler)
    for value, ids in found:
        text = tokenizer.decode(ids)
        before, _, after = text.partition(f"    return {value}\n\n\n")
        assert after.endswith(QUESTION)
        assert length - longest - 4 <= len(ids) <= length + 4
        key_at = len(tokenizer.encode(before))
        assert abs(key_at - position * length) < longest + 80
        assert text.count("my_function()") == 2


def test_more_examples_than_values_repeat_them(tokenizer, filler):
    found = prompts(tokenizer, filler, (200, 0.0), Cells(examples=100))
    assert len(found) == 100
    assert {value for value, _ in found} == set(range(10, 100))


def test_too_few_functions_are_refused(tokenizer, filler):
    with pytest.raises(DataError, match="tokens of 1,000,000"):
        prompts(tokenizer, filler, (1_000_000, 0.0), Cells())


@pytest.mark.parametrize("values", [{"examples": 0}, {"length": (0,)}, {"position": (1.5,)}])
def test_cells_that_cannot_be_are_refused(values):
    with pytest.raises(RequestError, match="have to be"):
        Cells(**values)


@pytest.mark.parametrize("chunk", [7, 512])
def test_reusing_the_cache_changes_no_answer(llm, filler, monkeypatch, chunk):
    monkeypatch.setattr(module, "CHUNK", chunk)
    asked = [ids for _, ids in prompts(llm.tokenizer, filler, (300, 0.6), Cells(examples=5))]
    asked += [asked[0][:40], asked[0]]
    expected = llm.generate(asked, max_new_tokens=module.ANSWER_TOKENS, stop_ids=[])
    assert list(answers(llm, asked)) == [one.text for one in expected]


class Oracle:
    """Stands for the answers of a model that has the value, or another number first."""

    def __init__(self, right):
        self.right = right

    def __call__(self, llm, asked):
        for ids in asked:
            [value] = module.re.findall(r"return (\d\d)\n\n\n", llm.tokenizer.decode(ids))[:1] or [
                0
            ]
            text = llm.tokenizer.decode(ids)
            value = text.split('at the end"\n    return ')[1][:2]
            yield f"{value}\n\n" if self.right else f"{int(value) + 1}, {value}"


@pytest.mark.parametrize("right", [True, False])
def test_the_first_number_decides(llm, monkeypatch, right):
    monkeypatch.setattr(module, "answers", Oracle(right))
    cells = Cells(length=(200, 300), position=(0.0, 0.5), examples=3)
    found = key_retrieval(llm, FILES, cells)
    assert found == {(n, p): float(right) for n in (200, 300) for p in (0.0, 0.5)}


def test_another_base_and_scaled_positions_take_effect(tokenizer):
    tokens = torch.arange(3, 60)[None]
    logits = {}
    for name, cells in {
        "own": Cells(),
        "base": Cells(rope_theta=1e6),
        "scaled": Cells(rope_scaling_factor=4.0),
    }.items():
        llm = CodeLlama(random_model(), tokenizer)
        cells.override_rope(llm.model)
        logits[name] = llm.model(tokens)
    assert not torch.allclose(logits["own"], logits["base"])
    assert not torch.allclose(logits["own"], logits["scaled"])
