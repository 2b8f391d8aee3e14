"""Rounded matrices, against the same arithmetic in float64."""

import pytest
import torch
import torch.nn.functional as F

from codellama import CodeLlama, load_model
from codellama.fast import expansion, int4
from codellama.fast.int4 import BLOCK, GROUP, Int4Linear, block_order, pack_nibbles, unpack_nibbles
from codellama.fast.int8 import Int8Linear, QuantizedLinear
from codellama.fast.quantize import layer_class, place_quantized

SHAPES = {Int8Linear: (100, 48), Int4Linear: (192, 96)}


def packed(kind, dtype=torch.float32, seed=0, shape=None):
    out, width = shape or SHAPES[kind]
    weight = torch.randn(out, width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return kind.from_weight(weight), weight


class Elsewhere(torch.Tensor):
    """A tensor on a device without a kernel for 4 bits, as far as it tells."""

    @property
    def device(self):
        return torch.device("cuda")


@pytest.fixture
def no_kernel(monkeypatch):
    """Weights are packed in the order of devices without a kernel."""
    monkeypatch.setattr(int4, "block_order", lambda _: block_order(torch.device("cuda")))
    monkeypatch.setattr(
        int4,
        "pack_nibbles",
        lambda values: pack_nibbles(values.as_subclass(Elsewhere)).as_subclass(torch.Tensor),
    )


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


def test_the_order_of_devices_without_a_kernel_expands_alike_in_one_graph(request):
    expected = packed(Int4Linear)[0].expanded()
    request.getfixturevalue("no_kernel")
    layer, _ = packed(Int4Linear)
    assert torch.equal(layer.expanded(), expected)
    compiled = torch.compile(layer.expanded, backend="eager", fullgraph=True)
    assert torch.equal(compiled(), expected)


@pytest.mark.parametrize("rows", [(1, 1), (2, 1)])
@pytest.mark.parametrize("has_kernel", [True, False])
def test_what_is_fused_is_the_product_with_the_rounded_weight(rows, has_kernel, request):
    if not has_kernel:
        request.getfixturevalue("no_kernel")
    layer, _ = packed(Int4Linear)
    x = torch.randn(*rows, layer.in_features, generator=torch.Generator().manual_seed(1))
    expected = F.linear(x, layer.expanded())
    fused = torch.compile(layer._fused, backend="eager", fullgraph=True)
    for found in layer._fused(x), fused(x):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("rows", [(1, 1), (2, 1), (60, 1)])
def test_compiled_in_one_graph_it_is_the_product_with_the_rounded_weight(kind, rows):
    layer, _ = packed(kind)
    x = torch.randn(*rows, layer.in_features, generator=torch.Generator().manual_seed(1))
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(x), F.linear(x, layer.expanded()), atol=1e-4)


def test_leading_dimensions_are_kept():
    layer, _ = packed(Int4Linear)
    assert layer(torch.randn(2, 3, layer.in_features)).shape == (2, 3, layer.out_features)
    assert layer(torch.randn(5, 7, layer.in_features)).shape == (5, 7, layer.out_features)


@pytest.mark.parametrize("has_kernel", [True, False])
def test_nibbles_come_back_in_order(has_kernel, request):
    if not has_kernel:
        request.getfixturevalue("no_kernel")
    values = torch.randint(0, 16, (128, 64), generator=torch.Generator().manual_seed(0))
    values = values.to(torch.uint8)
    there = int4.pack_nibbles(values)
    assert there.shape == (128, 32)
    order = int4.block_order(values.device)
    back = unpack_nibbles(there, 64, order, torch.empty(values.numel()))
    in_order = back.unflatten(1, (-1, len(order)))[:, :, torch.tensor(order).argsort()].flatten(1)
    assert torch.equal(in_order, values.T)


@pytest.mark.parametrize("size", [64, 128, 192, 256])
def test_the_product_does_not_depend_on_how_the_matrix_is_sliced(size, monkeypatch):
    layer, _ = packed(Int4Linear, shape=(192, 64))
    x = torch.randn(60, 64)
    whole = layer(x)
    monkeypatch.setattr(expansion, "SLICE", size)
    assert torch.allclose(layer(x), whole, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_many_rows_may_be_multiplied_in_another_dtype(dtype, monkeypatch):
    weight = torch.randn(192, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    layer, x = Int4Linear.from_weight(weight), torch.randn(60, 64).bfloat16()
    monkeypatch.setattr(expansion, "product_dtype", lambda *_: dtype)
    exact = x.double() @ layer.expanded().double().T
    assert layer(x).dtype == torch.bfloat16
    assert torch.allclose(layer(x).double(), exact, rtol=0.02, atol=0.1)


def test_blocks_in_another_order_give_the_same_product(monkeypatch):
    layer, weight = packed(Int4Linear)
    x = torch.randn(int4.MOST_ROWS + 1, layer.in_features)
    expected = layer(x)
    order = [0, 1, 4, 5, 2, 3, 6, 7]  # of rows, in blocks of 8
    monkeypatch.setattr(int4, "block_order", lambda _: order)

    def pack(values):
        low, high = values.unflatten(0, (-1, 8))[:, order].unflatten(1, (2, 4)).unbind(1)
        return (low | high << 4).transpose(1, 2).reshape(len(values), -1)

    monkeypatch.setattr(int4, "pack_nibbles", pack)
    assert torch.allclose(Int4Linear.from_weight(weight)(x), expected, atol=1e-5)


@pytest.mark.parametrize("kind", SHAPES)
def test_constant_and_zero_rows_survive(kind):
    out, width = SHAPES[kind]
    weight = torch.zeros(out, width)
    weight[1] = 3.0
    layer = kind.from_weight(weight)
    assert torch.allclose(layer.expanded(), weight, atol=1e-6)


@pytest.mark.parametrize("kind", SHAPES)
def test_small_weights_of_float16_round_as_well_as_those_of_bfloat16(kind):
    weight = 1e-4 * torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(0))

    def error(dtype):
        layer = kind.from_weight(weight.to(dtype))
        return (layer.expanded() - weight.to(dtype).float()).norm()

    assert error(torch.float16) < 2 * error(torch.bfloat16)


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
    assert layer_class(mode, name, torch.Size(shape)) is kind


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_model_is_rounded_while_it_is_read(checkpoint, mode):
    model = load_model(checkpoint, "cpu", place=place_quantized(mode))
    whole = load_model(checkpoint, "cpu")
    tokens = torch.tensor([[1, 300, 7, 9, 40, 41]])
    with torch.no_grad():
        exact, rounded = whole(tokens), model(tokens)
    correlation = torch.corrcoef(torch.stack([exact.flatten(), rounded.flatten()]))[0, 1]
    assert correlation > {"int8": 0.999, "int4": 0.97}[mode]
    assert not torch.equal(exact, rounded)
    kinds = {type(module) for module in model.modules() if isinstance(module, QuantizedLinear)}
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
