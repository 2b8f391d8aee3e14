"""Rounded matrices, against the same arithmetic in float64."""

import pytest
import torch
import torch.nn.functional as F

from codellama import CheckpointError, CodeLlama, RequestError, load_model
from codellama.weights import layout, quantize
from codellama.weights.quantize import GROUP, Int4Linear, Int8Linear, Quantized

SHAPES = {Int8Linear: (100, 48), Int4Linear: (192, 96)}


def packed(kind, dtype=torch.float32, seed=0, shape=None):
    out, width = shape or SHAPES[kind]
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    layer = kind(width, out)
    layer.pack(weight)
    return layer, weight


@pytest.mark.parametrize("kind", SHAPES)
def test_every_weight_is_off_by_half_a_step_at_most(kind):
    layer, weight = packed(kind)
    if kind is Int8Linear:
        steps = weight.abs().amax(1, keepdim=True).expand_as(weight) / 127
    else:
        groups = weight.unflatten(1, (-1, GROUP))
        spread = (groups.amax(-1) - groups.amin(-1)) / 15
        steps = spread.repeat_interleave(GROUP, 1)
    assert ((layer.expanded() - weight).abs() <= steps / 2 * 1.001 + 1e-6).all()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("rows", [1, 2, 16, 17, 48, 49])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_few_and_many_rows_give_the_product_with_the_rounded_weight(kind, rows, dtype):
    layer, _ = packed(kind, dtype)
    x = torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = F.linear(x.double(), layer.expanded().double())
    error = (layer(x).double() - exact).abs().max() / exact.abs().max()
    assert error < {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}[dtype]


@pytest.mark.parametrize("width", [8, 20, 52, 100])
def test_rows_that_do_not_fill_the_kernels_vectors_are_right_too(width):
    layer, _ = packed(Int8Linear, shape=(33, width))
    x = torch.randn(2, width)
    assert torch.allclose(layer(x), F.linear(x, layer.expanded()), atol=1e-4)


@pytest.mark.parametrize("kind", SHAPES)
def test_the_layout_of_devices_without_a_kernel_expands_alike_in_one_graph(kind, monkeypatch):
    expected = packed(kind)[0].expanded()
    monkeypatch.setattr(quantize, "_kernel_layout", lambda _: False)
    layer, _ = packed(kind)
    assert torch.equal(layer.expanded(), expected)
    compiled = torch.compile(layer.expanded, backend="eager", fullgraph=True)
    assert torch.equal(compiled(), expected)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("rows", [(1, 1), (2, 1)])
@pytest.mark.parametrize("has_kernel", [True, False])
def test_what_is_fused_is_the_product_with_the_rounded_weight(kind, rows, has_kernel, monkeypatch):
    monkeypatch.setattr(quantize, "_kernel_layout", lambda _: has_kernel)
    layer, _ = packed(kind)
    x = torch.randn(*rows, layer.in_features, generator=torch.Generator().manual_seed(1))
    expected = F.linear(x, layer.expanded())
    fused = torch.compile(layer.fused, backend="eager", fullgraph=True)
    for found in layer.fused(x), fused(x):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-4)


def test_leading_dimensions_are_kept():
    layer, _ = packed(Int4Linear)
    assert layer(torch.randn(2, 3, layer.in_features)).shape == (2, 3, layer.out_features)
    assert layer(torch.randn(5, 7, layer.in_features)).shape == (5, 7, layer.out_features)


@pytest.mark.parametrize("device", ["cpu", "plain"])
def test_nibbles_come_back_in_order(device, monkeypatch):
    values = torch.randint(0, 16, (128, 64), generator=torch.Generator().manual_seed(0))
    values = values.to(torch.uint8)
    if device == "plain":  # the layout of devices without a kernel, made on this one
        monkeypatch.setattr(quantize, "_kernel_layout", lambda _: False)
    there = quantize.pack_nibbles(values)
    assert there.shape == (128, 32)
    order = quantize.block_order(values.device)
    back = quantize.unpack_nibbles(there, 64, order, torch.empty(values.numel()))
    in_order = back.unflatten(1, (-1, len(order)))[:, :, torch.tensor(order).argsort()].flatten(1)
    assert torch.equal(in_order, values.T)


@pytest.mark.parametrize("size", [16, 40, 64, 192, 200])
def test_the_product_does_not_depend_on_how_the_matrix_is_sliced(size, monkeypatch):
    int8, _ = packed(Int8Linear, shape=(200, 64))
    int4, _ = packed(Int4Linear, shape=(192, 64))
    x = torch.randn(60, 64)
    whole = int8(x), int4(x)
    monkeypatch.setattr(layout, "SLICE", size)
    assert torch.allclose(int8(x), whole[0], atol=1e-5)
    if size % quantize.BLOCK == 0:
        assert torch.allclose(int4(x), whole[1], atol=1e-5)


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_rows_may_be_multiplied_in_another_dtype(kind, dtype, monkeypatch):
    layer = kind(64, 192)
    layer.pack(torch.randn(192, 64, generator=torch.Generator().manual_seed(0)).bfloat16())
    x = torch.randn(60, 64).bfloat16()
    monkeypatch.setattr(layout, "product_dtype", lambda *_: dtype)
    exact = x.double() @ layer.expanded().double().T
    assert layer(x).dtype == torch.bfloat16
    assert torch.allclose(layer(x).double(), exact, rtol=0.02, atol=0.1)


def test_a_layout_whose_blocks_are_in_another_order_gives_the_same_product(monkeypatch):
    layer, weight = packed(Int4Linear)
    x = torch.randn(20, layer.in_features)
    expected = layer(x)
    order = [0, 1, 4, 5, 2, 3, 6, 7]  # of rows, in blocks of 8
    monkeypatch.setattr(quantize, "block_order", lambda _: order)

    def pack(values):
        low, high = values.unflatten(0, (-1, 8))[:, order].unflatten(1, (2, 4)).unbind(1)
        return (low | high << 4).transpose(1, 2).reshape(len(values), -1)

    monkeypatch.setattr(quantize, "pack_nibbles", pack)
    layer = Int4Linear(*reversed(weight.shape))
    layer.pack(weight)
    assert torch.allclose(layer.many_rows(x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
def test_constant_and_zero_rows_survive(kind):
    out, width = SHAPES[kind]
    weight = torch.zeros(out, width)
    weight[1] = 3.0
    layer = kind(width, out)
    layer.pack(weight)
    assert torch.allclose(layer.expanded(), weight, atol=1e-6)


@pytest.mark.parametrize("kind", SHAPES)
def test_small_weights_of_float16_round_as_well_as_those_of_bfloat16(kind):
    weight = 1e-4 * torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(0))

    def error(dtype):
        layer = kind(*reversed(weight.shape))
        layer.pack(weight.to(dtype))
        return (layer.expanded() - weight.to(dtype).float()).norm()

    assert error(torch.float16) < 2 * error(torch.bfloat16)


def test_there_are_no_other_ways_to_round():
    with pytest.raises(CheckpointError, match="mode is 'int3'; expected int8 or int4"):
        Quantized("int3")


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_model_is_rounded_while_it_is_read(checkpoint, mode):
    model = load_model(checkpoint, "cpu", layout=Quantized(mode))
    whole = load_model(checkpoint, "cpu")
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        exact, rounded = whole(tokens), model(tokens)
    correlation = torch.corrcoef(torch.stack([exact.flatten(), rounded.flatten()]))[0, 1]
    assert correlation > {"int8": 0.999, "int4": 0.97}[mode]
    assert not torch.equal(exact, rounded)
    kinds = {type(module) for module in model.modules() if hasattr(module, "pack")}
    assert Int8Linear in kinds
    assert (Int4Linear in kinds) == (mode == "int4")


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_rounded_model_decodes_as_it_reads(checkpoint, mode):
    llm = CodeLlama.load(checkpoint, "cpu", torch.float32, quantize=mode)
    [completion] = llm.generate([[1, 300, 7]], max_new_tokens=12, stop_ids=[])
    ids = [1, 300, 7, *completion.tokens]
    with torch.no_grad():
        chosen = llm.model(torch.tensor([ids]))[0, 2:-1].argmax(-1).tolist()
    assert chosen == completion.tokens


def test_other_ways_to_round_are_refused(checkpoint):
    with pytest.raises(RequestError, match="expected int8 or int4"):
        CodeLlama.load(checkpoint, "cpu", quantize="int2")
