"""The generation loop, against one plain forward pass of the whole sequence per token."""

import pytest
import torch
from random_models import random_model

from codellama import generate_tokens
from codellama.inference.sampling import sample

PROMPT = [1, 300, 7, 9]


@torch.no_grad()
def without_cache(model, prompt, count, seed=0, **options):
    generator, tokens = torch.Generator().manual_seed(seed), []
    while len(tokens) < count:
        logits = model(torch.tensor([prompt + tokens]))[0, -1]
        tokens.append(int(sample(logits, generator=generator, **options)))
    return tokens


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"temperature": 0.9, "top_k": 40, "top_p": 0.8}]
)
def test_tokens_are_those_of_passes_without_a_cache(heads, options):
    model = random_model(heads, n_kv_heads=heads)
    generator = torch.Generator().manual_seed(3)
    found = list(generate_tokens(model, PROMPT, 12, **options, generator=generator))
    assert found == without_cache(model, PROMPT, 12, seed=3, **options)


def test_it_is_greedy_by_default_and_ends_before_a_stop_id():
    model = random_model()
    whole = list(generate_tokens(model, PROMPT, 9))
    assert whole == without_cache(model, PROMPT, 9, temperature=0.0)
    assert (
        list(generate_tokens(model, PROMPT, 9, stop_ids=[whole[4]]))
        == whole[: whole.index(whole[4])]
    )
    assert list(generate_tokens(model, PROMPT, 0)) == []


def test_each_token_takes_one_pass_over_one_token():
    model, shapes = random_model(), []
    model.tok_embeddings.register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape))
    )
    list(generate_tokens(model, PROMPT, 4))
    assert shapes == [(1, 4), (1, 1), (1, 1), (1, 1)]


def test_logits_may_be_changed_at_each_step():
    model, seen = random_model(), []

    def forbid(logits, tokens):
        seen.append(list(tokens))
        return logits.index_fill(0, torch.tensor(tokens, dtype=torch.long), -torch.inf)

    found = list(generate_tokens(model, PROMPT, 20, process_logits=forbid))
    assert len({*found}) == 20
    assert seen == [found[:count] for count in range(20)]


def test_it_leaves_the_callers_modes_and_random_numbers_alone():
    model = random_model()
    before = torch.get_rng_state()
    for _ in generate_tokens(model, PROMPT, 3, temperature=1.0, generator=torch.Generator()):
        assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
