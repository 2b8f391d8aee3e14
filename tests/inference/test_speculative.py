"""Drafts change how fast a text comes, and nothing else."""

from functools import partial

import pytest
import torch
from random_models import random_model

from codellama import CodeLlama, RequestError
from codellama.inference.speculative import DraftModel, PromptLookup

REPEATING = "x = f(a, b)\ny = f(a, b)\nz = f("


@pytest.fixture(scope="module")
def llm(tokenizer):
    return CodeLlama(random_model(1, vocab_size=tokenizer.vocab_size), tokenizer)


@pytest.fixture(params=["lookup", "itself", "another"])
def speculating(request, llm, tokenizer):
    """The same model, with drafts that are sometimes, always or hardly ever right."""
    other = CodeLlama(llm.model, tokenizer)
    if request.param == "itself":
        other._new_drafter = partial(DraftModel, llm.model)
    elif request.param == "another":
        draft = random_model(2, dim=32, n_layers=1, vocab_size=tokenizer.vocab_size)
        other._new_drafter = partial(DraftModel, draft)
    return other


@pytest.mark.parametrize("speculate", [1, 3, 8])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 5, "top_p": 0.9}])
def test_with_drafts_the_text_is_the_same(llm, speculating, speculate, options):
    prompts = [REPEATING, "def g():\n    return 1\n" * 3, "", "a"]
    options = {"max_new_tokens": 33, "logprobs": True, **options}
    plain = llm.complete(prompts, **options)
    drafted = speculating.complete(prompts, speculate=speculate, **options)
    for expected, found in zip(plain, drafted, strict=True):
        assert found.tokens == expected.tokens
        assert found.text == expected.text
        assert found.finish_reason == expected.finish_reason
        assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-4)


def test_with_drafts_a_text_ends_at_its_stop_string(llm, speculating):
    [whole] = llm.complete([REPEATING], max_new_tokens=40)
    stop = whole.text[10:13]
    [expected] = llm.complete([REPEATING], max_new_tokens=40, stop=[stop])
    [found] = speculating.complete([REPEATING], max_new_tokens=40, stop=[stop], speculate=8)
    assert (found.text, found.finish_reason) == (expected.text, "stop")


def test_a_model_that_drafts_for_itself_saves_passes(llm, tokenizer):
    other = CodeLlama(llm.model, tokenizer)
    other._new_drafter = partial(DraftModel, llm.model)
    passes = []
    hook = llm.model.register_forward_hook(lambda *_: passes.append(1))
    other.complete([REPEATING], max_new_tokens=41, speculate=7)
    hook.remove()
    assert len(passes) == 5  # forty tokens after the first, eight a pass


def test_sampled_tokens_come_as_often_as_the_model_says():
    """With drafts, the second new token has the distribution of ancestral sampling."""
    model, draft = random_model(3, vocab_size=8), random_model(4, vocab_size=8)
    with torch.no_grad():
        model.output.weight *= 4  # from 0.02 to 0.3
    llm = CodeLlama(model, _FewTokens())
    llm._new_drafter = partial(DraftModel, draft)
    rounds = 3000
    completions = llm.generate(
        [[1]], stop_ids=[], max_new_tokens=3, temperature=1.0, top_p=1.0, seed=0,
        num_samples=rounds, batch_size=500, speculate=2,
    )  # fmt: skip
    found = torch.bincount(torch.tensor([one.tokens[1] for one in completions]), minlength=8)
    with torch.no_grad():
        first = model(torch.tensor([[1]]))[0, -1].softmax(-1)
        pairs = torch.tensor([[1, token] for token in range(8)])
        second = model(pairs)[:, -1].softmax(-1)
    expected = first @ second
    deviation = (expected * (1 - expected) / rounds).sqrt()
    assert ((found / rounds - expected).abs() < 4 * deviation).all()


class _FewTokens:
    """A vocabulary whose tokens have no text."""

    eos_id, control_ids = 2, frozenset()
    vocab_size, _implicit_space = 8, False
    bytes_of = [b""] * 8


def test_lookup_finds_what_followed_the_longest_copy():
    lookup = PromptLookup()
    text = [1, 2, 3, 4, 9, 9, 2, 3, 5, 8, 1, 2, 3]
    assert lookup(text, 3) == [4, 9, 9]
    assert lookup([*text, 5], 2) == [8, 1]
    assert PromptLookup()([1, 2, 3], 4) == []


def test_a_draft_model_forgets_what_was_not_kept(llm):
    drafter = DraftModel(llm.model)
    ids = [1, 5, 6, 7]
    drafter(ids, 4)
    other = [*ids, 300, 301]
    assert drafter(other, 4) == DraftModel(llm.model)(other, 4)


def test_a_draft_model_reads_a_chunk_at_a_time(llm, monkeypatch):
    ids = [1, *range(40, 60)]
    expected = DraftModel(llm.model)(ids, 4)
    monkeypatch.setattr("codellama.inference.speculative.PREFILL_CHUNK", 6)
    read = []
    hook = llm.model.tok_embeddings.register_forward_pre_hook(
        lambda _, inputs: read.append(inputs[0].numel())
    )
    assert DraftModel(llm.model)(ids, 4) == expected
    hook.remove()
    assert read == [6, 6, 6, 3, 1, 1, 1]


def test_drafts_take_no_more_capacity_than_may_be_generated(llm, monkeypatch):
    capacities = []
    new_cache = type(llm.model).new_cache
    monkeypatch.setattr(
        type(llm.model),
        "new_cache",
        lambda self, rows=1, capacity=0: (
            capacities.append(capacity) or new_cache(self, rows, min(capacity, 99))
        ),
    )
    llm.complete(["a"], max_new_tokens=5, speculate=10**9)
    assert max(capacities) < 30


def test_a_draft_model_of_another_vocabulary_is_refused(llm, checkpoint, tokenizer):
    wider = CodeLlama(random_model(1, vocab_size=600), tokenizer)
    with pytest.raises(RequestError, match="512 token ids, the model 600"):
        wider.load_draft(checkpoint)
