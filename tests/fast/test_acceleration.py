"""The one door to what is fast: what it puts where, and that nothing else changes."""

import shutil

import pytest
import torch
from torch import nn

from codellama import CodeLlama, RequestError, load_model
from codellama.fast import acceleration
from codellama.fast.acceleration import accelerate
from codellama.fast.attention import single_query_attention
from codellama.fast.compiled import CompiledStep
from codellama.fast.cpu_linear import PrepackedLinear, SingleRowLinear, can_prepack
from codellama.fast.quantization import Int4Linear, Int8Linear, quantizing_weight_loader
from codellama.fast.quantized_checkpoint import save_checkpoint
from codellama.fast.quantized_kv_cache import QuantizedKVCache
from codellama.model.attention import Attention

TOKENS = torch.tensor([[1, 300, 7, 9, 40, 41]])
LINEAR = (nn.Linear, PrepackedLinear, Int8Linear, Int4Linear)


@pytest.fixture(params=["x86", "x86 with AMX", "other CPUs"])
def processor(request, monkeypatch):
    """The kind of processor that the layers are chosen for."""
    prepacks = request.param != "other CPUs"
    if prepacks and not can_prepack(torch.device("cpu")):
        pytest.skip("this PyTorch has no library for this processor")
    monkeypatch.setattr(acceleration, "can_prepack", lambda _: prepacks)
    monkeypatch.setattr(acceleration, "has_amx", lambda: request.param == "x86 with AMX")
    return request.param


@pytest.fixture
def prepacks(processor):
    """Whether the processor has libraries for prepacked weights."""
    return processor != "other CPUs"


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch):
    """Nothing is compiled to see which layers there are."""
    monkeypatch.setattr(acceleration, "CompiledStep", lambda model: CompiledStep(model, "eager"))


def layers(model) -> list[nn.Module]:
    """All linear layers."""
    return [module for module in model.modules() if isinstance(module, LINEAR)]


def classes(model) -> set[type]:
    """Classes of the linear layers, and of those alone that hold anything."""
    assert len(layers(model)) == 7 * len(model.layers) + 1
    return {
        PrepackedLinear if isinstance(layer, PrepackedLinear) else type(layer)
        for layer in layers(model)
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("options", "on_x86", "elsewhere"),
    [
        ({}, {SingleRowLinear}, {SingleRowLinear}),
        ({"compile": True}, {PrepackedLinear}, {SingleRowLinear}),
        ({"quantize": "int8"}, {PrepackedLinear}, {Int8Linear}),
        ({"quantize": "int8", "compile": True}, {PrepackedLinear}, {Int8Linear}),
        # The output, which matters most, has 8 bits also with int4.
        ({"quantize": "int4"}, {Int4Linear, PrepackedLinear}, {Int4Linear, Int8Linear}),
    ],
    ids=["16 bits", "16 bits compiled", "int8", "int8 compiled", "int4"],
)
def test_each_kind_of_weight_gets_its_layer(
    checkpoint, processor, prepacks, options, on_x86, elsewhere, dtype
):
    if (options, dtype, processor) == ({"compile": True}, torch.bfloat16, "x86 with AMX"):
        on_x86 = {SingleRowLinear}
    llm = CodeLlama.load(checkpoint, "cpu", dtype, **options)
    found = classes(llm.model)
    if options.get("quantize") == "int4":  # small matrices of 4 bits do not fill its blocks
        assert Int4Linear in found and found <= on_x86 | elsewhere
        expected = PrepackedLinear if prepacks else Int8Linear
        assert isinstance(llm.model.output, expected)
    else:
        assert found == (on_x86 if prepacks else elsewhere)
    attention = [module for module in llm.model.modules() if isinstance(module, Attention)]
    assert {module.attend for module in attention} == {single_query_attention}
    assert isinstance(llm._step_function, CompiledStep) == bool(options.get("compile"))


@pytest.mark.parametrize("compile", [True, False])
def test_weights_of_32_bits_keep_the_layers_of_pytorch(checkpoint, prepacks, compile):
    model = CodeLlama.load(checkpoint, "cpu", torch.float32, compile=compile).model
    assert classes(model) == {nn.Linear}


def test_on_other_devices_16_bits_keep_the_layers_of_pytorch(checkpoint):
    model = load_model(checkpoint, "cpu", torch.bfloat16).to("meta")
    assert classes(accelerate(model)) == {nn.Linear}


def test_a_kv_cache_of_8_bits_is_used_where_it_is_asked_for(checkpoint, llm):
    quantized = CodeLlama.load(checkpoint, "cpu", kv_dtype="int8")
    assert type(quantized.model.new_cache()) is QuantizedKVCache
    assert type(llm.model.new_cache()) is not QuantizedKVCache


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03), (torch.float16, 0.004)]
)
@pytest.mark.parametrize("compile", [True, False])
@torch.no_grad()
def test_fast_and_plain_logits_agree(checkpoint, prepacks, dtype, error, compile):
    fast = CodeLlama.load(checkpoint, "cpu", dtype, compile=compile).model
    plain = CodeLlama.load(checkpoint, "cpu", dtype, fast=False).model
    caches = fast.new_cache(), plain.new_cache()
    for part in (TOKENS, TOKENS[:, :1], TOKENS[:, :1]):  # prefill, then decoding
        found, expected = fast(part, caches[0]), plain(part, caches[1])
        assert (found - expected).abs().max() < error * expected.abs().max()


def test_fast_and_plain_texts_agree_in_float32(checkpoint):
    prompts, options = ["def f(", "", "import os"], {"max_new_tokens": 24, "logprobs": True}
    fast, plain = (CodeLlama.load(checkpoint, "cpu", fast=fast) for fast in (True, False))
    for one, other in zip(
        fast.complete(prompts, **options), plain.complete(prompts, **options), strict=True
    ):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_an_accelerated_model_has_the_same_parameters_and_still_trains(checkpoint):
    model = load_model(checkpoint, "cpu", torch.bfloat16)
    before = dict(model.named_parameters())
    assert accelerate(model) is model
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    model(TOKENS).logsumexp(-1).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("fast", [True, False])
def test_a_draft_model_is_as_fast_as_it_is_asked_to_be(checkpoint, fast):
    llm = CodeLlama.load(checkpoint, "cpu", torch.bfloat16)
    llm.load_draft(checkpoint, fast=fast)
    modules = llm._new_drafter().model.modules()
    attends = {module.attend for module in modules if hasattr(module, "attend")}
    assert (attends == {single_query_attention}) == fast
    [plain] = llm.complete(["def f("], max_new_tokens=12)
    [drafted] = llm.complete(["def f("], max_new_tokens=12, speculate=4)
    assert drafted.tokens == plain.tokens


@pytest.mark.parametrize(
    "options",
    [{"quantize": "int8"}, {"kv_dtype": "int8"}, {"compile": True}, {"mesh": ...}],
    ids=str,
)
def test_the_plain_model_refuses_what_only_the_fast_one_does(checkpoint, options):
    with pytest.raises(RequestError, match="the work of codellama/fast; leave them out"):
        CodeLlama.load(checkpoint, "cpu", fast=False, **options)


@pytest.fixture(scope="module")
def quantized(checkpoint, tmp_path_factory):
    directory = tmp_path_factory.mktemp("quantized") / "int8"
    model = load_model(
        checkpoint, "cpu", torch.bfloat16, weight_loader=quantizing_weight_loader("int8")
    )
    save_checkpoint(directory, model, "int8")
    shutil.copy(checkpoint / "tokenizer.model", directory)
    return directory


def test_a_quantized_checkpoint_keeps_its_integers(quantized, prepacks):
    model = CodeLlama.load(quantized, "cpu").model
    assert classes(model) == {PrepackedLinear if prepacks else Int8Linear}
    plain = CodeLlama.load(quantized, "cpu", fast=False).model
    assert classes(plain) == {nn.Linear}
    with torch.no_grad():
        both = torch.stack([model(TOKENS).flatten(), plain(TOKENS).flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.999


def test_a_quantized_checkpoint_is_not_quantized_another_way(quantized):
    with pytest.raises(RequestError, match="is quantized to int8 already; leave out quantize"):
        CodeLlama.load(quantized, "cpu", quantize="int4")


def test_what_somebody_has_changed_stays(checkpoint):
    model = load_model(checkpoint, "cpu", torch.bfloat16)
    attention = model.layers[0].attention
    attention.attend = attend = lambda *of: single_query_attention(*of)
    attention.wo = linear = nn.Linear(64, 64, dtype=torch.bfloat16)
    accelerate(model)
    assert attention.attend is attend and attention.wo is linear
    assert type(attention.wq) is not nn.Linear
