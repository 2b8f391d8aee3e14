"""Compiled steps: what they choose is what the model chooses, and they are compiled once."""

from itertools import product

import pytest
import torch
from caches import append, empty_cache, new_tokens
from random_models import random_model
from torch._dynamo.testing import CompileCounter

from codellama import CodeLlama, KVCache, RequestError
from codellama.fast import compiled as compiled_steps
from codellama.fast.acceleration import accelerate
from codellama.fast.compiled import (
    CPU_CAPACITY_STEP,
    CompiledStep,
    StaticKVCache,
    StaticQuantizedKVCache,
)
from codellama.fast.quantized_kv_cache import QuantizedKVCache

PROMPTS = [[1, 300, 7, 9], [1], [1, *range(40, 51)], [1, 5, 6]]
GREEDY = {"max_new_tokens": 40, "stop_ids": []}
SAMPLED = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": 3, **GREEDY}


def pair(tokenizer, backend="eager", cache_type=None, **changes):
    """A model as it is, and the same one compiled."""
    models = [random_model(**changes) for _ in range(2)]
    for model in models:
        model.cache_type = cache_type or model.cache_type
    step = CompiledStep(models[1], backend)
    return CodeLlama(models[0], tokenizer), CodeLlama(models[1], tokenizer, step)


@pytest.mark.parametrize("cache_type", [None, QuantizedKVCache], ids=["exact", "int8"])
def test_each_prompt_gets_what_the_model_gives_it(tokenizer, cache_type):
    llms = pair(tokenizer, cache_type=cache_type)
    for options, batch_size in product((GREEDY, SAMPLED), (1, 2, 4)):
        asked = {**options, "batch_size": batch_size, "logprobs": True}
        expected, found = (llm.generate(PROMPTS, **asked) for llm in llms)
        for one, other in zip(found, expected, strict=True):
            assert one.tokens == other.tokens
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_the_compiler_that_users_get_gives_the_same_tokens(tokenizer):
    plain, compiled = pair(tokenizer, backend="inductor", n_layers=1)
    assert compiled.generate(PROMPTS[:2], **GREEDY) == plain.generate(PROMPTS[:2], **GREEDY)


@pytest.mark.parametrize(
    ("kv_heads", "batch_size", "cache_type"), [(4, 1, None), (2, 3, None), (2, 1, QuantizedKVCache)]
)
def test_logits_in_bfloat16_are_those_of_the_model(kv_heads, batch_size, cache_type):
    model = random_model(n_layers=1, n_heads=4, n_kv_heads=kv_heads).bfloat16()
    model.cache_type = cache_type or model.cache_type
    accelerate(model)
    step = CompiledStep(model)
    static, plain = step.new_cache(batch_size), model.new_cache(batch_size)
    tokens = torch.arange(5, 5 + 3 * batch_size).view(batch_size, 3)
    with torch.no_grad():
        for cache in (static, plain):
            model(tokens, cache)
            cache.lengths = [3 - row for row in range(batch_size)]  # ragged
        for number in range(3):
            new = torch.arange(batch_size)[:, None] + 40 + number
            found, expected = step(new, static), model(new, plain)
            assert (found - expected).abs().max() < 0.03 * expected.abs().max()
            assert static.lengths == plain.lengths


def test_any_number_of_steps_and_requests_compile_once(tokenizer):
    counter = CompileCounter()
    _, compiled = pair(tokenizer, backend=counter)
    for prompt in PROMPTS:
        compiled.generate([prompt], **GREEDY)
    assert counter.frame_count == 1


def test_any_number_of_rows_and_any_capacity_compile_once_more(tokenizer):
    counter = CompileCounter()
    plain, compiled = pair(tokenizer, backend=counter, max_seq_len=2048)
    prompts = [[1, 300, 7, *range(10, 10 + length)] for length in (3, 500, 40, 9, 1)]
    for batch_size in (4, 1, 3):
        options = {"max_new_tokens": 20, "stop_ids": [], "batch_size": batch_size}
        assert compiled.generate(prompts, **options) == plain.generate(prompts, **options)
    assert counter.frame_count == 2


def test_for_a_graph_rows_and_capacity_compile_once_each(tokenizer, monkeypatch):
    monkeypatch.setattr(compiled_steps, "GPU_CAPACITY_STEP", 64)  # few tokens take several
    counter = CompileCounter()
    plain, compiled = pair(tokenizer, backend=counter, max_seq_len=2048)
    compiled._step_function._is_graph = True  # as on a GPU
    prompts = [[1, 300, 7, *range(10, 10 + length)] for length in (3, 40, 9, 1, 5)]
    for batch_size, length in [(1, 20), (1, 70), (4, 20), (3, 20), (1, 20), (2, 70)]:
        options = {"max_new_tokens": length, "stop_ids": [], "batch_size": batch_size}
        assert compiled.generate(prompts, **options) == plain.generate(prompts, **options)
    assert counter.frame_count == 3  # the first shape; any capacity; any number of rows


@torch._dynamo.config.patch(recompile_limit=3)  # compilations of one code
def test_any_number_of_models_compile_in_one_process(tokenizer):
    for n_layers in (1, 2):  # two compilations each
        _, compiled = pair(tokenizer, n_layers=n_layers)
        for batch_size in (1, 2):
            compiled.generate(PROMPTS[:2], max_new_tokens=3, batch_size=batch_size)


def test_a_chat_goes_on_from_a_static_cache(tokenizer):
    plain, compiled = pair(tokenizer, max_seq_len=2048)
    answers = []
    for llm in (plain, compiled):
        messages = [{"role": "user", "content": "x"}]
        first = "".join(llm.stream_chat(messages, max_new_tokens=20))
        messages += [
            {"role": "assistant", "content": first.strip() or "y"},
            {"role": "user", "content": "z"},
        ]
        answers.append((first, "".join(llm.stream_chat(messages, max_new_tokens=20))))
    assert answers[0] == answers[1]


def test_drafts_are_checked_by_the_model_as_it_is(tokenizer):
    plain, compiled = pair(tokenizer)
    expected = plain.generate(PROMPTS, **GREEDY)
    assert compiled.generate(PROMPTS, speculate=3, **GREEDY) == expected


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
def test_a_checkpoint_loads_to_be_compiled(checkpoint, quantize):
    plain = CodeLlama.load(checkpoint, "cpu", quantize=quantize)
    compiled = CodeLlama.load(checkpoint, "cpu", quantize=quantize, compile=True)
    compiled._step_function = CompiledStep(compiled.model, "eager")
    options = {"max_new_tokens": 20}
    assert compiled.complete(["def f("], **options) == plain.complete(["def f("], **options)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_quantized_weights_take_more_rows_than_their_kernels(checkpoint, quantize):
    plain = CodeLlama.load(checkpoint, "cpu", torch.float32, quantize=quantize)
    compiled = CodeLlama.load(checkpoint, "cpu", torch.float32, quantize=quantize)
    compiled._step_function = CompiledStep(compiled.model, "eager")
    prompts, options = [[1, 300 + row] for row in range(50)], {"max_new_tokens": 4, "stop_ids": []}
    found = compiled.generate(prompts, batch_size=50, **options)
    assert found == plain.generate(prompts, batch_size=50, **options)


def test_processes_that_share_a_model_do_not_compile_it(checkpoint):
    with pytest.raises(RequestError, match="are for one process"):
        CodeLlama.load(checkpoint, mesh=object(), compile=True)


def test_without_a_compiler_the_need_for_one_is_told(checkpoint, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RequestError, match=r"needs a C\+\+ compiler"):
        CodeLlama.load(checkpoint, "cpu", compile=True)


def test_what_runs_in_inference_mode_leaves_buffers_that_can_be_written_to(tokenizer):
    plain, compiled = pair(tokenizer)
    with torch.inference_mode():
        compiled.generate(PROMPTS[:1], **GREEDY)
    assert compiled.generate(PROMPTS, **GREEDY) == plain.generate(PROMPTS, **GREEDY)


def test_streams_in_turns_do_not_disturb_each_other(tokenizer):
    plain, compiled = pair(tokenizer)
    texts = ["def f(", "class A"]
    options = {"max_new_tokens": 12, "temperature": 1.0, "seed": 1}
    streams = [compiled.stream(text, **options) for text in texts]
    found = ["", ""]
    while any(pieces := [next(stream, None) or "" for stream in streams]):
        found = [text + piece for text, piece in zip(found, pieces, strict=True)]
    assert found == [one.text for one in plain.complete(texts, **options)]


def test_on_a_gpu_the_buffers_of_a_cache_that_is_gone_are_used_again(tokenizer):
    _, compiled = pair(tokenizer)
    step = compiled._step_function
    step._is_graph = True  # as on a GPU

    def address(cache):
        return cache.keys[0].data_ptr()

    first, other = step.new_cache(4, 9), step.new_cache(4, 9)
    addresses = address(first), address(other)
    assert addresses[0] != addresses[1]
    first.lengths = [9] * 4
    del first
    again = step.new_cache(3, 5)  # of the same capacity, in some of the rows
    assert (address(again), again.lengths) == (addresses[0], [0] * 4)
    del other
    assert address(step.new_cache(5, 9)) not in addresses  # which takes more rows


kinds = pytest.mark.parametrize(
    ("kind", "static"), [(KVCache, StaticKVCache), (QuantizedKVCache, StaticQuantizedKVCache)]
)


@kinds
@pytest.mark.parametrize("lengths", [[3, 3], [5, 2], [0, 4]])
def test_a_compiled_pass_sees_all_of_a_static_cache_and_counts_on_the_device(kind, static, lengths):
    ordinary, cache = (empty_cache(2, 9, one) for one in (kind, static))
    for one in (ordinary, cache):
        append(one, new_tokens(2, 5))
        one.lengths = list(lengths)

    @torch.compile(backend="eager", fullgraph=True)
    def run(cache, tokens):
        facts = cache.needs_mask(1), cache.key_count(1), cache.next_positions(1)
        return append(cache, tokens), facts

    for seed in (1, 2):
        step = new_tokens(2, 1, seed)
        cache.starts = torch.tensor(cache.lengths)[:, None]
        found, (needs_mask, keys, positions) = run(cache, step)
        assert (needs_mask, keys, positions[:, 0].tolist()) == (True, 9, ordinary.lengths)
        expected = append(ordinary, step)
        for row, length in enumerate(ordinary.lengths):
            assert torch.equal(found[:, :, row, :, :length], expected[:, :, row, :, :length])
        cache.advance(1)
        assert cache.lengths == ordinary.lengths


@kinds
def test_elsewhere_a_static_cache_is_an_ordinary_one_that_grows_in_few_sizes(kind, static):
    ordinary, cache = (empty_cache(2, 4, one) for one in (kind, static))
    for seq in (3, 1, 4):
        new = new_tokens(2, seq, seq)
        assert cache.needs_mask(seq) == ordinary.needs_mask(seq)
        assert torch.equal(cache.next_positions(seq), ordinary.next_positions(seq))
        assert torch.equal(append(cache, new), append(ordinary, new))
    assert cache.lengths == ordinary.lengths == [8, 8]
    assert cache.capacity == CPU_CAPACITY_STEP
