"""The KV cache of 8 bits."""

import pytest
import torch

from codellama import CodeLlama, RequestError
from codellama.fast.quantized_kv_cache import QuantizedKVCache
from codellama.model.kv_cache import KVCache

SHAPE = {"n_layers": 2, "n_kv_heads": 3, "head_dim": 16}


def vectors(batch, seq, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = (2, batch, seq, SHAPE["n_kv_heads"], SHAPE["head_dim"])
    return torch.randn(size, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_is_off_by_half_a_step_at_most(dtype):
    cache = QuantizedKVCache(**SHAPE, batch_size=2, dtype=dtype)
    keys, values = vectors(2, 5, dtype)
    for given, kept in zip((keys, values), cache.write(0, keys, values), strict=True):
        assert kept.dtype == dtype
        exact = given.transpose(1, 2).float()
        step = exact.abs().amax(-1, keepdim=True) / 127
        rounding = 2 * torch.finfo(dtype).eps * exact.abs()
        assert ((kept.float() - exact).abs() <= 0.51 * step + rounding).all()


def test_vectors_of_zeros_stay_zeros():
    cache = QuantizedKVCache(**SHAPE, batch_size=1, dtype=torch.float16)
    keys, values = cache.write(0, *torch.zeros(2, 1, 4, 3, 16, dtype=torch.float16))
    assert not keys.any()
    assert not values.any()


def test_rows_of_different_lengths_are_copied_and_grown_like_those_of_an_exact_cache():
    def fill(kind):
        cache = kind(**SHAPE, batch_size=3, capacity=6)
        for layer in range(2):
            cache.write(layer, *vectors(3, 5, seed=layer))
        cache.lengths = [5, 2, 3]
        cache.copy_row(2, 0, 3)
        cache.lengths = [3, 2, 3]
        return cache, cache.write(0, *vectors(3, 4, seed=20))

    exact, (exact_keys, exact_values) = fill(KVCache)
    quantized, (keys, values) = fill(QuantizedKVCache)
    assert quantized.capacity == exact.capacity > 6
    for row, length in enumerate(exact.lengths):
        for one, other in ((keys, exact_keys), (values, exact_values)):
            assert torch.allclose(one[row, :, : length + 4], other[row, :, : length + 4], atol=2e-2)


def test_it_takes_half_of_bfloat16_and_a_scale_a_vector():
    quantized, exact = (
        kind(**SHAPE, batch_size=1, dtype=torch.bfloat16) for kind in (QuantizedKVCache, KVCache)
    )
    assert exact.bytes_per_token == 2 * 2 * 3 * 16 * 2
    assert quantized.bytes_per_token == 2 * 2 * 3 * (16 + 2)


def test_a_model_that_uses_it_predicts_nearly_the_same(checkpoint, llm):
    quantized = CodeLlama.load(checkpoint, "cpu", kv_dtype="int8")
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        cache, plain = quantized.model.new_cache(), llm.model.new_cache()
        assert isinstance(cache, QuantizedKVCache)
        pairs = [
            (quantized.model(part, cache), llm.model(part, plain)) for part in tokens.split(1, 1)
        ]
    for one, other in pairs:
        assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1] > 0.999


@pytest.mark.parametrize("batch_size", [1, 3])
def test_texts_do_not_depend_on_the_batch(checkpoint, batch_size):
    llm = CodeLlama.load(checkpoint, "cpu", kv_dtype="int8")
    prompts = ["def f():", "import", "class A:\n    x = 1"]
    together = llm.complete(prompts, max_new_tokens=8, batch_size=batch_size)
    alone = [llm.complete([prompt], max_new_tokens=8)[0] for prompt in prompts]
    assert [one.text for one in together] == [one.text for one in alone]


def test_other_types_are_refused(checkpoint):
    with pytest.raises(RequestError, match="kv_dtype is 'int4'; expected one of int8"):
        CodeLlama.load(checkpoint, "cpu", kv_dtype="int4")
