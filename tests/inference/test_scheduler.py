"""The scheduler, against the generation loop for each prompt alone."""

import pytest
import torch
from random_models import random_model
from shared_data import shared

from codellama import CodeLlama, generate_tokens
from codellama.inference import prefill
from codellama.inference.requests import Options, Prompt
from codellama.inference.sampling import repetition_penalty, token_healing
from codellama.inference.scheduler import Scheduler

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


@pytest.fixture(scope="module")
def endless(llm):
    """What the loop makes of each prompt greedily if nothing stops it."""
    most = llm.model.config.max_seq_len
    return [
        list(generate_tokens(llm.model, prompt, min(12, most - len(prompt)))) for prompt in PROMPTS
    ]


SAMPLING = [
    {},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 7},
    {"repetition_penalty": 1.3},
    {"heal": True},
    {"heal": True, "temperature": 1.0, "top_p": 1.0, "seed": 1},
]


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("options", SAMPLING, ids=str)
@pytest.mark.parametrize("speculate", [0, 3])
def test_every_sequence_gets_what_the_loop_gives_its_prompt_alone(llm, options, speculate):
    """For any order, batch, length, stop id, seed, healing and drafts."""
    model, seed = llm.model, options.get("seed")
    lengths, stop_ids = [0, 1, 12, 2, 9, 5, 7], [300, 301, *range(30, 60)]
    sampling = {"top_p": 0.95, **options}
    heal, penalty = sampling.pop("heal", False), sampling.pop("repetition_penalty", 1)
    sampling.pop("seed", None)
    expected = []
    for prompt, length in zip(PROMPTS, lengths, strict=True):
        ids, process = prompt, repetition_penalty(penalty) if penalty != 1 else None
        if heal and len(prompt) > 1:
            ids, _, process = token_healing(llm.tokenizer, prompt)
        length = min(length, model.config.max_seq_len - len(prompt))
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        sampled = generate_tokens(
            model, ids, length, **sampling, stop_ids=stop_ids, generator=generator,
            process_logits=process,
        )  # fmt: skip
        expected.append(list(sampled))
    for batch_size, order in ((1, 1), (2, -1), (3, 1), (20, -1)):
        sequences = [
            llm._sequence(
                Prompt(prompt, frozenset(stop_ids), True),
                Options(max_new_tokens=length, speculate=speculate, **options),
            )
            for prompt, length in zip(PROMPTS, lengths, strict=True)
        ]
        for _ in Scheduler(model, sequences[::order], batch_size).run():
            pass
        assert [sequence.tokens for sequence in sequences] == expected


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
@pytest.mark.parametrize(("max_new_tokens", "batch_size"), [(0, 8), (0, 2), (3, 8)])
def test_echo_scores_the_prompt_as_well(llm, max_new_tokens, batch_size):
    options = {"logprobs": True, "echo": True, "batch_size": batch_size}
    completions = llm.generate(PROMPTS, [], max_new_tokens=max_new_tokens, **options)
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
    assert (llm.timing.prompt_tokens, llm.timing.decoded_tokens) == (4, 2 * 3)
    llm.generate([[1, 7]], [], max_new_tokens=1)
    assert (llm.timing.prompt_tokens, llm.timing.decoded_tokens) == (6, 6)
    llm.generate([[1, 7, 8]], [], max_new_tokens=1, num_samples=5)
    assert (llm.timing.prompt_tokens, llm.timing.decoded_tokens) == (9, 6)


def test_after_generation_the_model_still_trains(tokenizer):
    llm = CodeLlama(random_model(), tokenizer)
    llm.generate(PROMPTS, max_new_tokens=5)
    llm.model(torch.tensor(PROMPTS[2:3])).logsumexp(-1).sum().backward()
    assert all(weight.grad is not None for weight in llm.model.parameters())


def test_a_waiting_sequence_takes_the_place_of_a_row_that_ends(llm):
    shapes = watch(llm.model)
    sequences = [
        llm._sequence(Prompt([1, 5], frozenset(), True), Options(max_new_tokens=length))
        for length in (2, 8, 3, 2)
    ]
    for _ in Scheduler(llm.model, sequences, 2).run():
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
