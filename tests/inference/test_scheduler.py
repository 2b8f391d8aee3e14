"""The decoding loop, against one plain forward pass of the whole sequence per token."""

import pytest
import torch
from random_models import random_model
from shared_data import shared

from codellama import CodeLlama
from codellama.inference import prefill
from codellama.inference.requests import Options, Prompt
from codellama.inference.scheduler import Decoder

# Sorting by length, sharing chunks of prefill and going through several all happen to these.
PROMPTS = [
    [1, 300, 7, 9],
    [1],
    [1, *range(40, 51)],
    [1, 5],
    [1, *range(100, 122)],
    [1, 9, 8, 7, 6],
    [1, *range(260, 268)],
]


@pytest.fixture(
    scope="module",
    params=[
        {"n_kv_heads": 4, "seed": 1},
        {"n_kv_heads": 2, "rope_theta": 1e6, "seed": 2},
        {"n_kv_heads": 1, "max_seq_len": 30, "seed": 3},
        "checkpoints/stories260K",
    ],
    ids=["multi-head", "grouped-query", "short-context", "stories260K"],
)
def llm(request, tokenizer):
    if isinstance(request.param, str):
        return CodeLlama.load(shared(request.param), device="cpu")
    return CodeLlama(random_model(**request.param), tokenizer)


@pytest.fixture(params=[4, 512])
def chunk(request, monkeypatch):
    monkeypatch.setattr(prefill, "PREFILL_CHUNK", request.param)


def watch(model):
    """A list that will hold the (batch, seq) shape of the tokens of every pass."""
    shapes = []
    model.tok_embeddings.register_forward_pre_hook(
        lambda _, inputs: shapes.append(tuple(inputs[0].shape))
    )
    return shapes


@torch.no_grad()
def logprobs(model, tokens):
    """Of each token after those before it; the first has 0."""
    scores = model(torch.tensor([tokens]))[0, :-1].log_softmax(-1)
    return [0.0, *scores[range(len(tokens) - 1), tokens[1:]].tolist()]


@torch.no_grad()
def greedy(model, prompt, max_new_tokens):
    """The most likely tokens, without a cache."""
    tokens = []
    while len(tokens) < max_new_tokens and len(prompt) + len(tokens) < model.config.max_seq_len:
        tokens.append(int(model(torch.tensor([prompt + tokens]))[0, -1].argmax()))
    return tokens


@pytest.fixture(scope="module")
def endless(llm):
    """What greedy decoding makes of each prompt if nothing stops it."""
    return [greedy(llm.model, prompt, 12) for prompt in PROMPTS]


def cut(tokens, stop_ids):
    for count, token in enumerate(tokens):
        if token in stop_ids:
            return tokens[:count], "stop"
    return tokens, "length"


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("batch_size", [3, 8])
def test_a_batch_gives_each_prompt_greedily_what_it_gets_alone(llm, endless, batch_size):
    stop_ids = [endless[0][2], endless[4][5]]
    expected = [cut(tokens, stop_ids) for tokens in endless]
    assert {reason for _, reason in expected} == {"stop", "length"}
    completions = llm.generate(
        PROMPTS, stop_ids, max_new_tokens=12, logprobs=True, batch_size=batch_size
    )
    assert [(found.tokens, found.finish_reason) for found in completions] == expected
    for prompt, found in zip(PROMPTS, completions, strict=True):
        plain = logprobs(llm.model, prompt + found.tokens)[len(prompt) :]
        assert found.logprobs == pytest.approx(plain, abs=1e-4)


@pytest.mark.usefixtures("chunk")
def test_logprobs_are_the_models_own_whatever_the_sampling(llm):
    options = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "seed": 0}
    completions = llm.generate(PROMPTS, [], max_new_tokens=6, logprobs=True, **options)
    for prompt, found in zip(PROMPTS, completions, strict=True):
        plain = logprobs(llm.model, prompt + found.tokens)[len(prompt) :]
        assert found.logprobs == pytest.approx(plain, abs=1e-4)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("max_new_tokens", [0, 3])
def test_echo_scores_the_prompt_as_well(llm, max_new_tokens):
    completions = llm.generate(PROMPTS, [], max_new_tokens=max_new_tokens, logprobs=True, echo=True)
    for prompt, found in zip(PROMPTS, completions, strict=True):
        assert found.tokens[: len(prompt)] == prompt
        assert len(found.tokens) == len(prompt) + max_new_tokens
        assert found.logprobs[0] == 0.0
        assert found.logprobs == pytest.approx(logprobs(llm.model, found.tokens), abs=1e-4)


def test_logprobs_come_only_when_asked_for(llm):
    assert llm.generate([[1]], max_new_tokens=2)[0].logprobs is None


@pytest.mark.usefixtures("chunk")
def test_the_same_seed_gives_the_same_tokens_whatever_else_is_in_the_batch(llm):
    options = {"max_new_tokens": 7, "temperature": 1.0, "top_p": 1.0}
    together = llm.generate(PROMPTS, [], seed=5, **options)
    for prompt, found in zip(PROMPTS, together, strict=True):
        assert llm.generate([prompt], [], seed=5, **options) == [found]


@pytest.mark.parametrize("seeds", [(1, 2), (None, None)])
def test_other_seeds_give_other_tokens(llm, seeds):
    options = {"max_new_tokens": 25, "temperature": 1.5, "top_p": 1.0}
    first, second = (llm.generate([[1]], [], seed=seed, **options) for seed in seeds)
    assert first != second


@pytest.mark.parametrize("seed", [None, 3])
def test_sampling_leaves_the_callers_random_numbers_alone(llm, seed):
    before = torch.get_rng_state()
    llm.generate([[1]], max_new_tokens=3, temperature=1.0, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("echo", [False, True])
def test_the_end_of_the_context_ends_a_row_as_its_length_does(tokenizer, echo):
    model = random_model(max_seq_len=16)
    prompts = [[1, *range(50, 49 + length)] for length in (16, 3, 15, 10)]
    completions = CodeLlama(model, tokenizer).generate(
        prompts, [], max_new_tokens=9, logprobs=True, echo=echo
    )
    new = [0, 9, 1, 6]
    for prompt, found, count in zip(prompts, completions, new, strict=True):
        assert len(found.tokens) == len(found.logprobs) == count + echo * len(prompt)
        assert found.finish_reason == "length"


def test_rows_that_have_ended_leave_the_batch(tokenizer):
    model = random_model(max_seq_len=8)
    passes = watch(model)
    prompts = [[1, *range(50, 49 + length)] for length in (6, 2, 8, 4)]
    CodeLlama(model, tokenizer).generate(prompts, [], max_new_tokens=99)
    # The full prompt never enters; the others have 2, 6 and 4 tokens to go, one from prefill.
    assert passes == [(3, 6), (3, 1), (2, 1), (2, 1), (1, 1), (1, 1)]


def test_no_pass_holds_more_prompts_than_batch_size(tokenizer):
    model = random_model()
    passes = watch(model)
    CodeLlama(model, tokenizer).generate(PROMPTS, [], max_new_tokens=3, batch_size=2)
    assert {batch for batch, _ in passes} == {1, 2}


def test_prefill_reads_no_more_than_a_chunk_at_a_time(tokenizer, monkeypatch):
    monkeypatch.setattr(prefill, "PREFILL_CHUNK", 6)
    model = random_model()
    passes = watch(model)
    CodeLlama(model, tokenizer).generate(PROMPTS, [], max_new_tokens=1)
    assert max(batch * seq for batch, seq in passes) == 6
    assert sum(batch * seq for batch, seq in passes) < 1.2 * sum(map(len, PROMPTS))


def test_timing_counts_the_tokens_that_went_through_the_model(tokenizer):
    llm = CodeLlama(random_model(), tokenizer)
    llm.generate([[1, 5, 6], [1]], [], max_new_tokens=4)
    assert (llm.decoder.timing.prompt_tokens, llm.decoder.timing.decoded_tokens) == (4, 2 * 3)
    llm.generate([[1, 7]], [], max_new_tokens=1)
    assert (llm.decoder.timing.prompt_tokens, llm.decoder.timing.decoded_tokens) == (6, 6)
    llm.generate([[1, 7, 8]], [], max_new_tokens=1, num_samples=5)
    assert (llm.decoder.timing.prompt_tokens, llm.decoder.timing.decoded_tokens) == (9, 6)


def test_after_generation_the_model_still_trains(tokenizer):
    llm = CodeLlama(random_model(), tokenizer)
    llm.generate(PROMPTS, max_new_tokens=5)
    llm.model(torch.tensor(PROMPTS[2:3])).logsumexp(-1).sum().backward()
    assert all(weight.grad is not None for weight in llm.model.parameters())


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
def test_a_batch_that_is_refilled_gives_each_prompt_what_it_gets_alone(llm, size):
    lengths = [0, 1, 9, 2, 5, 1, 3]
    alone = [
        llm.generate([prompt], stop_ids=[], max_new_tokens=length)[0]
        for prompt, length in zip(PROMPTS, lengths, strict=True)
    ]
    sequences = [
        llm._sequence(Prompt(prompt, frozenset(), True), Options(max_new_tokens=length))
        for prompt, length in zip(PROMPTS, lengths, strict=True)
    ]
    for _ in Decoder(llm.model).run(sequences, batch_size=size):
        pass
    assert [sequence.tokens for sequence in sequences] == [one.tokens for one in alone]


def test_a_waiting_sequence_takes_the_place_of_a_row_that_ends(llm):
    shapes = watch(llm.model)
    sequences = [
        llm._sequence(Prompt([1, 5], frozenset(), True), Options(max_new_tokens=length))
        for length in (2, 8, 3, 2)
    ]
    for _ in Decoder(llm.model).run(sequences, batch_size=2):
        pass
    assert [batch for batch, seq in shapes if seq == 1] == [2, 2, 2, 2, 1, 1, 1]


def test_samples_of_one_prompt_share_its_prefill(llm):
    shapes = watch(llm.model)
    prompt = [1, *range(40, 51)]
    options = {"max_new_tokens": 6, "stop_ids": [], "temperature": 1.0, "batch_size": 4}
    samples = llm.generate([prompt], num_samples=4, seed=3, **options)
    assert shapes[0] == (1, len(prompt))
    assert sum(batch * seq for batch, seq in shapes) == len(prompt) + 4 * 5
    for number, sample in enumerate(samples):
        [alone] = llm.generate([prompt], seed=3 + number, **options)
        assert sample.tokens == alone.tokens
