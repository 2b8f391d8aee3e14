"""Quantized matrices, against the same arithmetic in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from random_models import random_model
from torch.utils._python_dispatch import TorchDispatchMode

from codellama import CodeLlama, RequestError, load_model
from codellama.fast import cpu_linear, quantization
from codellama.fast.acceleration import accelerate
from codellama.fast.cpu_linear import SLICE, can_prepack
from codellama.fast.quantization import (
    BLOCK,
    GROUP,
    MAX_PART,
    Int4Linear,
    Int8Linear,
    PackedInt8Linear,
    pack_nibbles,
    quantize_rows,
    quantizing_weight_loader,
    split_activations,
    unpack_nibbles,
)
from codellama.weights.loading import weight_bytes

SHAPES = {Int8Linear: (100, 48), Int4Linear: (192, 96)}


def quantized(kind, dtype=torch.float32, seed=0, shape=None):
    out, width = shape or SHAPES[kind]
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return kind.from_weight(weight), weight


def layer_width(layer):
    return layer.dequantize().shape[1]


@pytest.mark.parametrize("kind", SHAPES)
def test_every_weight_is_off_by_half_a_step_at_most(kind):
    layer, weight = quantized(kind)
    if kind is Int8Linear:
        steps = weight.abs().amax(1, keepdim=True).expand_as(weight) / 127
    else:
        groups = weight.unflatten(1, (-1, GROUP))
        spread = (groups.amax(-1) - groups.amin(-1)) / 15
        steps = spread.repeat_interleave(GROUP, 1)
    assert ((layer.dequantize() - weight).abs() <= steps / 2 * 1.001 + 1e-6).all()


class LargestFloat32(TorchDispatchMode):
    """Notes the size of the largest float32 tensor that an operator returns."""

    numbers = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        results = operator(*args, **(kwargs or {}))
        for result in results if isinstance(results, tuple) else (results,):
            if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
                self.numbers = max(self.numbers, result.numel())
        return results


@pytest.mark.parametrize("kind", SHAPES)
def test_a_large_weight_is_quantized_piece_by_piece(kind):
    _, weight = quantized(kind, torch.bfloat16, shape=(3 * SLICE + 128, 64))
    with LargestFloat32() as largest:
        layer = kind.from_weight(weight)
    assert 0 < largest.numbers <= SLICE * 64
    pieces = [kind.from_weight(piece).dequantize() for piece in weight.split(SLICE)]
    assert torch.equal(layer.dequantize(), torch.cat(pieces))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 16, 17, 48, 49])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_few_and_many_rows_give_the_product_with_the_quantized_weight(kind, rows, dtype):
    layer, _ = quantized(kind, dtype)
    x = torch.randn(rows, layer_width(layer), generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = F.linear(x.double(), layer.dequantize().double())
    error = (layer(x).double() - exact).abs().max() / exact.abs().max()
    assert error < {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}[dtype]


@pytest.mark.parametrize("width", [8, 20, 52, 100])
def test_rows_that_do_not_fill_the_kernels_vectors_are_right_too(width):
    layer, _ = quantized(Int8Linear, shape=(33, width))
    x = torch.randn(2, width)
    assert torch.allclose(layer(x), F.linear(x, layer.dequantize()), atol=1e-4)


@pytest.fixture(params=["with", "without"])
def kernel(request, monkeypatch):
    """Whether the device has a kernel for 4 bits."""
    if request.param == "without":
        monkeypatch.setattr(quantization, "kernel_rows", lambda _: 0)


@pytest.mark.parametrize("kind", SHAPES)
def test_weights_dequantize_alike_in_one_graph_on_any_device(kind, kernel):
    layer, _ = quantized(kind)
    compiled = torch.compile(layer.dequantize, backend="eager", fullgraph=True)
    assert torch.equal(compiled(), layer.dequantize())


def test_layers_are_the_same_with_and_without_a_kernel(monkeypatch):
    expected = quantized(Int4Linear)[0].dequantize()
    monkeypatch.setattr(quantization, "kernel_rows", lambda _: 0)
    assert torch.equal(quantized(Int4Linear)[0].dequantize(), expected)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("rows", [(1, 1), (2, 1), (50, 1)])
def test_what_is_fused_is_the_product_with_the_quantized_weight(kind, rows, kernel):
    layer, _ = quantized(kind)
    x = torch.randn(*rows, SHAPES[kind][1], generator=torch.Generator().manual_seed(1))
    expected = F.linear(x, layer.dequantize())
    fused = torch.compile(layer, backend="eager", fullgraph=True)
    for found in layer(x), fused(x):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-4)


def test_leading_dimensions_are_kept():
    layer, _ = quantized(Int4Linear)
    assert layer(torch.randn(2, 3, layer_width(layer))).shape == (2, 3, len(layer.dequantize()))
    assert layer(torch.randn(5, 7, layer_width(layer))).shape == (5, 7, len(layer.dequantize()))


@pytest.mark.parametrize("block", [32, 64])
def test_nibbles_come_back_in_order(block):
    values = torch.randint(0, 16, (128, 64), generator=torch.Generator().manual_seed(0))
    values = values.to(torch.uint8)
    packed = pack_nibbles(values, block)
    assert packed.shape == (128, 32)
    assert torch.equal(unpack_nibbles(packed, block, torch.uint8), values.T)


@pytest.mark.skipif(
    not quantization.kernel_rows(torch.device("cpu")), reason="no kernel for this processor"
)
def test_nibbles_are_packed_as_pytorch_packs_them_for_its_kernel():
    values = torch.randint(0, 16, (128, 64), generator=torch.Generator().manual_seed(0))
    expected = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.int(), 1)
    packed = pack_nibbles(values.to(torch.uint8), quantization.block_rows(torch.device("cpu")))
    assert torch.equal(packed, expected)


@pytest.mark.parametrize("size", [64, 128, 192])
def test_the_product_does_not_depend_on_how_the_matrix_is_sliced(size, monkeypatch):
    layer, _ = quantized(Int4Linear, shape=(192, 64))
    x = torch.randn(60, 64)
    whole = layer(x)
    monkeypatch.setattr(quantization, "SLICE", size)
    assert torch.allclose(layer(x), whole, atol=1e-5)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_rows_may_be_multiplied_in_another_dtype(kind, dtype, monkeypatch):
    weight = torch.randn(192, 64, generator=torch.Generator().manual_seed(0))
    layer = kind.from_weight(weight.bfloat16())
    x = torch.randn(60, 64).bfloat16()
    monkeypatch.setattr(quantization, "product_dtype", lambda *_: dtype)
    exact = x.double() @ layer.dequantize().double().T
    assert layer(x).dtype == torch.bfloat16
    assert torch.allclose(layer(x).double(), exact, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("kind", SHAPES)
def test_constant_and_zero_rows_survive(kind):
    out, width = SHAPES[kind]
    weight = torch.zeros(out, width)
    weight[1] = 3.0
    layer = kind.from_weight(weight)
    assert torch.allclose(layer.dequantize(), weight, atol=1e-6)


@pytest.mark.parametrize("kind", SHAPES)
def test_small_weights_of_float16_round_as_well_as_those_of_bfloat16(kind):
    weight = 1e-4 * torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(0))

    def error(dtype):
        layer = kind.from_weight(weight.to(dtype))
        return (layer.dequantize() - weight.to(dtype).float()).norm()

    assert error(torch.float16) < 2 * error(torch.bfloat16)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_model_is_quantized_while_it_is_read(checkpoint, mode):
    model = load_model(checkpoint, "cpu", weight_loader=quantizing_weight_loader(mode))
    whole = load_model(checkpoint, "cpu")
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        exact, quantized = whole(tokens), model(tokens)
    correlation = torch.corrcoef(torch.stack([exact.flatten(), quantized.flatten()]))[0, 1]
    assert correlation > {"int8": 0.999, "int4": 0.97}[mode]
    assert not torch.equal(exact, quantized)
    kinds = {type(module) for module in model.modules()}
    assert Int8Linear in kinds
    assert (Int4Linear in kinds) == (mode == "int4")


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_model_decodes_as_it_reads(checkpoint, mode):
    llm = CodeLlama.load(checkpoint, "cpu", torch.float32, quantize=mode)
    [completion] = llm.generate([[1, 300, 7]], max_new_tokens=12, stop_ids=[])
    ids = [1, 300, 7, *completion.tokens]
    with torch.no_grad():
        chosen = llm.model(torch.tensor([ids]))[0, 2:-1].argmax(-1).tolist()
    assert chosen == completion.tokens


def test_other_ways_to_round_are_refused(checkpoint):
    with pytest.raises(RequestError, match="expected one of int8, int4"):
        CodeLlama.load(checkpoint, "cpu", quantize="int2")


@pytest.mark.parametrize(
    ("mode", "name", "shape", "kind"),
    [
        ("int8", "layers.0.attention.wq.weight", (128, 64), Int8Linear),
        ("int4", "layers.0.attention.wq.weight", (128, 64), Int4Linear),
        ("int4", "layers.0.attention.wq.weight", (BLOCK + 1, 64), Int8Linear),
        ("int4", "layers.0.attention.wq.weight", (128, GROUP + 1), Int8Linear),
        ("int4", "output.weight", (128, 64), Int8Linear),
    ],
)
def test_4_bits_are_for_matrices_that_fit_and_not_for_the_output(mode, name, shape, kind):
    model = random_model()
    quantizing_weight_loader(mode)(model, name, lambda _: torch.ones(shape))
    assert type(model.get_submodule(name.removesuffix(".weight"))) is kind


@pytest.mark.parametrize("kind", SHAPES)
def test_a_vector_gives_a_vector(kind):
    layer, _ = quantized(kind)
    x = torch.randn(1, layer_width(layer))
    assert torch.equal(layer(x[0]), layer(x)[0])
    assert layer(x[:0]).shape == (0, layer.dequantize().shape[0])


prepacks = pytest.mark.skipif(
    not can_prepack(torch.device("cpu")), reason="this PyTorch has no library for this processor"
)


def packed_int8(weight):
    return PackedInt8Linear(*quantize_rows(weight))


def assert_product(multiply, weight, x):
    """That `multiply` rounds once, from products that are exact enough for it."""
    exact = F.linear(x.double(), weight.double())
    found = multiply(x)
    assert found.dtype == x.dtype
    error = (found.double() - exact).abs() / exact.abs().max()
    assert error.max() < torch.finfo(x.dtype).eps


def assert_predicts_nearly_as(model, other):
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        both = torch.stack([one(tokens).flatten() for one in (model, other)])
    assert torch.corrcoef(both)[0, 1] > 0.999


def join(parts, scales):
    high, low = parts.double().chunk(2)
    return (2 * MAX_PART * high + low) * scales.double()


@given(
    numbers=st.lists(st.floats(-4, 4, width=16), min_size=1, max_size=40).filter(any),
    exponent=st.integers(-20, 20),
)
def test_two_parts_round_to_the_scale_and_keep_large_bfloat16_numbers(numbers, exponent):
    x = torch.tensor([numbers]).bfloat16().float() * 2.0**exponent
    parts, scales = split_activations(x)
    assert parts.abs().max() <= MAX_PART and torch.equal(parts, parts.round())
    found = join(parts, scales)
    assert ((found - x).abs() <= scales * 0.51).all()
    large = x.abs() * MAX_PART**2 > 128 * x.abs().max()
    assert torch.equal(found.bfloat16()[large], x.bfloat16()[large])


def test_a_row_of_zeros_has_two_parts_of_zero():
    parts, scales = split_activations(torch.zeros(2, 8))
    assert not parts.any() and (scales > 0).all()


@pytest.fixture(params=["oneDNN", "FBGEMM"])
def library(request, monkeypatch):
    """What multiplies 8 bits."""
    if request.param == "oneDNN" and not quantization.HAS_ONEDNN_INT8:
        pytest.skip("the processor has no instructions for products of integers")
    monkeypatch.setattr(quantization, "HAS_ONEDNN_INT8", request.param == "oneDNN")


@prepacks
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("shape", [(33, 20), (192, 96)])
def test_8_bits_are_those_of_the_plain_layer(shape, rows):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator).bfloat16()
    x = torch.randn(rows, shape[1], generator=generator).bfloat16()
    assert_product(packed_int8(weight), Int8Linear.from_weight(weight).dequantize(), x)


@prepacks
@pytest.mark.usefixtures("library")
def test_the_largest_integers_do_not_overflow():
    weight = torch.cat([torch.ones(8, 64), -torch.ones(8, 64)])
    for x in (torch.ones(1, 64), -torch.ones(1, 64)):
        assert_product(packed_int8(weight), weight, x.bfloat16())


@prepacks
def test_a_model_of_8_bits_loads_prepacked_and_predicts_nearly_the_same(checkpoint):
    plain = load_model(
        checkpoint, "cpu", torch.bfloat16, weight_loader=quantizing_weight_loader("int8")
    )
    other = CodeLlama.load(checkpoint, "cpu", torch.bfloat16, quantize="int8").model
    assert isinstance(other.output, PackedInt8Linear)
    assert weight_bytes(other) == pytest.approx(weight_bytes(plain), rel=0.02)
    assert_predicts_nearly_as(other, plain)


@prepacks
def test_a_model_in_memory_is_prepacked_too(checkpoint):
    plain = load_model(
        checkpoint, "cpu", torch.bfloat16, weight_loader=quantizing_weight_loader("int8")
    )
    other = load_model(
        checkpoint, "cpu", torch.bfloat16, weight_loader=quantizing_weight_loader("int8")
    )
    assert isinstance(accelerate(other).output, PackedInt8Linear)
    assert_predicts_nearly_as(other, plain)


def test_rows_are_split_by_scales_of_their_own_and_stay_in_order():
    x = torch.tensor([[1.0, -2.0], [1000.0, 4.0], [0.0, 0.0]])
    parts, scales = split_activations(x)
    assert (parts.shape, scales.shape) == ((6, 2), (3, 1))
    assert torch.allclose(join(parts, scales).float(), x, atol=0.1)


TOKENS = torch.tensor([[1, 5, 7, 9, 300]])


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_without_private_operators_the_logits_are_the_same(checkpoint, monkeypatch, mode):
    def logits():
        with torch.no_grad():
            return CodeLlama.load(checkpoint, "cpu", quantize=mode).model(TOKENS)

    expected = logits()
    monkeypatch.setattr(cpu_linear, "HAS_FBGEMM", False)
    monkeypatch.setattr(quantization, "HAS_INT8_KERNEL", False)
    monkeypatch.setattr(quantization, "HAS_INT4_KERNEL", False)
    assert torch.allclose(logits(), expected, atol=0.02)
