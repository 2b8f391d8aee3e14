"""Compiled steps: what they choose is what the model chooses, and they are compiled once."""

from itertools import product

import pytest
import torch
from random_models import random_model
from torch._dynamo.testing import CompileCounter

from codellama import CodeLlama, RequestError
from codellama.fast import compiled as compiled_steps
from codellama.fast.acceleration import accelerate
from codellama.fast.compiled import STEPS_PER_SYNC, CompiledSteps
from codellama.fast.quantized_kv_cache import QuantizedKVCache
from codellama.inference import decoding

PROMPTS = [[1, 300, 7, 9], [1], [1, *range(40, 51)], [1, 5, 6]]
GREEDY = {"max_new_tokens": 40, "stop_ids": []}
SAMPLED = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": 3, **GREEDY}


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch._dynamo.reset()


def pair(tokenizer, backend="eager", cache_type=None, **changes):
    """A model as it is, and the same one compiled."""
    plain, other = (CodeLlama(random_model(**changes), tokenizer) for _ in range(2))
    for llm in (plain, other):
        llm.model.cache_type = cache_type or llm.model.cache_type
    other.decoder.steps = CompiledSteps(other.model, backend)
    return plain, other


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
    plain, compiled = pair(tokenizer, backend="inductor")
    assert compiled.generate(PROMPTS[:2], **GREEDY) == plain.generate(PROMPTS[:2], **GREEDY)


@pytest.mark.parametrize(
    ("kv_heads", "batch_size", "cache_type"), [(4, 1, None), (2, 3, None), (2, 1, QuantizedKVCache)]
)
def test_logits_in_bfloat16_are_those_of_the_model(kv_heads, batch_size, cache_type):
    model = random_model(n_heads=4, n_kv_heads=kv_heads).bfloat16()
    model.cache_type = cache_type or model.cache_type
    accelerate(model)
    steps = CompiledSteps(model)
    caches = [model.new_cache(batch_size) for _ in range(2)]
    tokens = torch.arange(5, 5 + 3 * batch_size).view(batch_size, 3)
    with torch.no_grad():
        for cache in caches:
            model(tokens, cache)
            cache.lengths = [3 - row for row in range(batch_size)]  # ragged
        for step in range(3):
            new = torch.arange(batch_size)[:, None] + 40 + step
            with steps.cache_for(caches[0], 1) as static:
                found = steps(new, static).clone()
            expected = model(new, caches[1])
            assert (found - expected).abs().max() < 0.03 * expected.abs().max()
            caches[1].lengths = caches[0].lengths


def test_a_row_that_ends_before_tokens_are_looked_at_ends_there(tokenizer):
    plain, compiled = pair(tokenizer)
    compiled.decoder.steps.steps_per_sync = STEPS_PER_SYNC
    stop_id = plain.generate(PROMPTS[:1], **GREEDY)[0].tokens[5]
    options = {"max_new_tokens": 40, "stop_ids": [stop_id]}
    expected = plain.generate(PROMPTS, **options)
    assert {one.finish_reason for one in expected} >= {"stop"}
    assert compiled.generate(PROMPTS, **options) == expected


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
    compiled.decoder.steps._is_graph = True  # as on a GPU
    prompts = [[1, 300, 7, *range(10, 10 + length)] for length in (3, 40, 9, 1, 5)]
    for batch_size, length in [(1, 20), (1, 70), (4, 20), (3, 20), (1, 20), (2, 70)]:
        options = {"max_new_tokens": length, "stop_ids": [], "batch_size": batch_size}
        assert compiled.generate(prompts, **options) == plain.generate(prompts, **options)
    assert counter.frame_count == 3  # the first shape; any capacity; any number of rows


def test_a_batch_that_gets_smaller_keeps_its_addresses(tokenizer):
    _, compiled = pair(tokenizer)
    addresses = set()
    for rows in (4, 3, 1, 2):
        cache = compiled.model.new_cache(rows, 8)
        with compiled.decoder.steps.cache_for(cache, 1) as static:
            addresses.add((cache.keys[0].data_ptr(), static.starts.data_ptr()))
    assert len(addresses) == 1


@torch._dynamo.config.patch(recompile_limit=3)  # compilations of one code
def test_any_number_of_models_compile_in_one_process(tokenizer):
    for n_layers in (1, 2):  # two compilations each
        _, compiled = pair(tokenizer, n_layers=n_layers)
        for batch_size in (1, 2):
            compiled.generate(PROMPTS[:2], max_new_tokens=3, batch_size=batch_size)


def test_requests_are_stepped_in_the_same_buffers(tokenizer):
    _, compiled = pair(tokenizer)
    compiled.generate(PROMPTS[:1], **GREEDY)
    buffers = compiled.decoder.steps._buffers
    for prompt in PROMPTS[1:]:
        compiled.generate([prompt], **GREEDY)
        assert compiled.decoder.steps._buffers is buffers


def test_a_cache_that_is_put_aside_keeps_what_it_held(tokenizer):
    _, compiled = pair(tokenizer)
    steps, model = compiled.decoder.steps, compiled.model
    caches = [model.new_cache() for _ in range(2)]
    with torch.no_grad():
        for number, cache in enumerate(caches):
            model(torch.tensor([PROMPTS[number]]), cache)
            with steps.cache_for(cache, 1) as static:
                steps(torch.tensor([[5]]), static)
        assert caches[0].keys[0] is not caches[1].keys[0]
        for number, cache in enumerate(caches):
            found = model(torch.tensor([[6]]), cache)[0, -1]
            expected = model(torch.tensor([[*PROMPTS[number], 5, 6]]))[0, -1]
            assert torch.allclose(found, expected, atol=1e-4)


def test_tokens_are_looked_at_once_in_many_steps_unless_they_are_streamed(tokenizer, monkeypatch):
    lengths = []
    _, compiled = pair(tokenizer)
    extend = decoding._Batch._extend
    monkeypatch.setattr(
        decoding._Batch, "_extend", lambda self: lengths.append(len(t := extend(self))) or t
    )
    compiled.generate(PROMPTS[:1], **GREEDY)
    assert set(lengths) == {1}  # nothing waits on a CPU
    compiled.decoder.steps.steps_per_sync = STEPS_PER_SYNC  # as on a GPU
    lengths.clear()
    compiled.generate(PROMPTS[:1], stop_ids=[], max_new_tokens=2 * STEPS_PER_SYNC + 4)
    assert lengths == [STEPS_PER_SYNC, STEPS_PER_SYNC, 3]  # one token came out of the prompt's pass
    lengths.clear()
    "".join(compiled.stream("def f():", max_new_tokens=5))
    assert set(lengths) == {1}


def test_a_conversation_goes_on_from_a_cache_that_was_static(tokenizer):
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
    compiled.decoder.steps = CompiledSteps(compiled.model, "eager")
    options = {"max_new_tokens": 20}
    assert compiled.complete(["def f("], **options) == plain.complete(["def f("], **options)


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_rounded_weights_take_more_rows_than_their_kernels(checkpoint, quantize):
    plain = CodeLlama.load(checkpoint, "cpu", torch.float32, quantize=quantize)
    compiled = CodeLlama.load(checkpoint, "cpu", torch.float32, quantize=quantize)
    compiled.decoder.steps = CompiledSteps(compiled.model, "eager")
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


def test_streams_in_turns_keep_their_buffers(tokenizer, monkeypatch):
    plain, compiled = pair(tokenizer)
    moves, move = [], compiled_steps.move
    monkeypatch.setattr(compiled_steps, "move", lambda *of: moves.append(of) or move(*of))
    texts = ["def f(", "class A"]
    options = {"max_new_tokens": 12, "temperature": 1.0, "seed": 1}
    streams = [compiled.stream(text, **options) for text in texts]
    found = ["", ""]
    while pieces := [next(stream, None) for stream in streams]:
        if pieces == [None, None]:
            break
        found = [text + (piece or "") for text, piece in zip(found, pieces, strict=True)]
    assert found == [one.text for one in plain.complete(texts, **options)]
    assert len(moves) == 2
