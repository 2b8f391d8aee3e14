"""How documents are cut in three, and what becomes of the parts."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_checkpoint import tokenizer_model
from shared_data import shared

from codellama import PromptError, Tokenizer, prompts
from codellama.training import infilling

BOS = 1
# SentencePiece writes a space as ▁, so that one cannot be told from the other.
texts = st.text(st.characters(codec="utf-8", exclude_characters="▁"))
seeds = st.integers(0, 2**32)


@pytest.fixture(scope="module")
def code_llama():
    return Tokenizer(shared("tokenizers/codellama-infill.model"))


@settings(deadline=None, derandomize=True)
@given(document=st.text(), seed=seeds)
def test_the_parts_of_any_text_rejoin_to_it(document, seed):
    assert "".join(infilling.cut(document, random.Random(seed))) == document


def test_both_cuts_are_uniform_and_independent():
    document, draws, random_numbers = "012345678", 22_000, random.Random(0)
    places = len(document) + 1
    counts = Counter()
    for _ in range(draws):
        prefix, middle, _ = infilling.cut(document, random_numbers)
        counts[len(prefix), len(prefix) + len(middle)] += 1
    chi_squared = 0.0
    for first in range(places):
        for second in range(first, places):
            expected = draws * (1 + (first < second)) / places**2
            chi_squared += (counts.pop((first, second)) - expected) ** 2 / expected
    assert not counts
    assert chi_squared < 91.9  # which chance exceeds once in a thousand, with 54 degrees of freedom


def test_half_of_the_examples_have_the_suffix_first(tokenizer, monkeypatch):
    monkeypatch.setattr(infilling, "cut", lambda *_: ("def", " f", "():"))
    count, random_numbers = 1_000, random.Random(0)
    examples = [infilling.transform(tokenizer, "def f():", random_numbers) for _ in range(count)]
    suffix_first = sum(ids[2] == tokenizer.suffix_id for ids in examples)
    assert suffix_first == pytest.approx(count / 2, abs=4 * count**0.5 / 2)


@settings(deadline=None, derandomize=True)
@given(prefix=texts, middle=texts, suffix=texts)
def test_prefix_first_is_the_prompt_then_the_middle_then_its_end(tokenizer, prefix, middle, suffix):
    ids = infilling.example(tokenizer, (prefix, middle, suffix), suffix_first=False)
    prompt = prompts.infilling(tokenizer, prefix, suffix)
    continuation = tokenizer.encode_continuation(middle)
    assert ids == [*prompt, *continuation, tokenizer.eot_id]
    assert tokenizer.decode(continuation, continuation=True) == middle


@settings(deadline=None, derandomize=True)
@given(prefix=texts, middle=texts, suffix=texts)
def test_suffix_first_is_the_prompt_without_its_prefix_then_prefix_and_middle_as_one(
    tokenizer, prefix, middle, suffix
):
    ids = infilling.example(tokenizer, (prefix, middle, suffix), suffix_first=True)
    prompt = prompts.infilling(tokenizer, prefix, suffix, suffix_first=True)
    start = prompt.index(tokenizer.middle_id) + 1
    assert ids[:start] == prompt[:start]
    assert ids[start:] == [*tokenizer.encode(prefix + middle), tokenizer.eot_id]


@settings(deadline=None, derandomize=True)
@given(document=texts, seed=seeds, suffix_first=st.booleans())
def test_an_example_holds_all_of_its_document(tokenizer, document, seed, suffix_first):
    pre, suf, mid = tokenizer.prefix_id, tokenizer.suffix_id, tokenizer.middle_id
    parts = infilling.cut(document, random.Random(seed))
    ids = infilling.example(tokenizer, parts, suffix_first)
    assert (ids[:2], ids[-1]) == ([BOS, pre], tokenizer.eot_id)
    suffix, middle = ids.index(suf), ids.index(mid)
    head = tokenizer.decode(ids[middle + 1 :], continuation=not suffix_first)
    if not suffix_first:
        head = tokenizer.decode(ids[2:suffix]) + head
    tail = tokenizer.decode(ids[suffix + 1 : middle], continuation=True)
    assert head + tail == document


@pytest.mark.parametrize("suffix_first", [False, True])
def test_a_vocabulary_without_infilling_tokens_is_refused(tmp_path, monkeypatch, suffix_first):
    monkeypatch.setattr("codellama.training.tokenizer.EXTRA_PIECES", ())
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer_model(400))
    with pytest.raises(PromptError, match="no infilling tokens"):
        infilling.example(Tokenizer(path), ("a", "b", "c"), suffix_first)


@pytest.mark.parametrize("suffix_first", [False, True])
@pytest.mark.parametrize("parts", [("a <EOT>", "b", "c"), ("a", "b", "c <PRE>")])
def test_text_around_the_gap_that_spells_a_control_token_is_refused(
    code_llama, parts, suffix_first
):
    with pytest.raises(PromptError, match="control token"):
        infilling.example(code_llama, parts, suffix_first)


@pytest.mark.parametrize("parts", [("", "a <EOT>", ""), ("a <E", "OT>", "")])
def test_a_control_token_in_prefix_and_middle_together_is_refused(code_llama, parts):
    with pytest.raises(PromptError, match="▁<EOT>"):
        infilling.example(code_llama, parts, suffix_first=True)
