"""The rotation against the paper's definition, with complex numbers in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from codellama.model.rotary import apply_rotary_embedding, rotary_embedding

THETAS = [500.0, 1e4, 1e6, 123_456.789]


def turned(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Pair `i` at position `m` as a complex number, times `exp(i m theta^(-2i / head_dim))`."""
    head_dim = x.shape[-1]
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)))
    frequencies = torch.tensor(
        [theta ** (-2 * i / head_dim) for i in range(head_dim // 2)], dtype=torch.float64
    )
    angles = positions.double()[:, :, None, None] * frequencies
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def random_heads(batch: int, seq: int, head_dim: int = 32, seed: int = 0) -> Tensor:
    """Vectors of three heads, (batch, seq, 3, head_dim)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, seq, 3, head_dim, generator=generator)


def rotated(x: Tensor, positions: Tensor, theta: float = 1e6) -> Tensor:
    return apply_rotary_embedding(x, *rotary_embedding(positions, x.shape[-1], theta))


@pytest.mark.parametrize("head_dim", [2, 32, 128])
@pytest.mark.parametrize("theta", THETAS)
def test_pairs_turn_by_the_papers_angle_at_any_base(theta, head_dim):
    positions = torch.tensor([[0, 1, 2, 3], [7, 0, 50, 63]])
    x = random_heads(2, 4, head_dim)
    expected = turned(x, positions, theta)
    torch.testing.assert_close(rotated(x, positions, theta).double(), expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("theta", THETAS)
def test_angle_beyond_position_100_000_is_right_to_a_hundredth_of_a_turn(theta):
    positions = torch.tensor([[16_385, 100_000, 131_071, 200_003]])
    x = torch.tensor([1.0, 0.0]).repeat(16).expand(1, 4, 1, 32)
    error = (rotated(x, positions, theta) - turned(x, positions, theta)).abs().max()
    assert error < 2 * math.pi / 100


@pytest.mark.parametrize("theta", THETAS)
def test_angles_have_the_roundings_of_metas_code(theta):
    positions = torch.tensor([0, 1, 4095, 16_384, 100_001])
    frequencies = 1.0 / (theta ** (torch.arange(0, 128, 2)[:64].float() / 128))
    angles = torch.outer(positions, frequencies).float()
    cos, sin = rotary_embedding(positions[None], 128, theta)
    torch.testing.assert_close(cos[0, :, 0], angles.cos(), rtol=0, atol=1e-6)
    torch.testing.assert_close(sin[0, :, 0], angles.sin(), rtol=0, atol=1e-6)


@given(
    query=st.integers(0, 2000),
    key=st.integers(0, 2000),
    shift=st.integers(0, 2000),
    theta=st.sampled_from(THETAS),
)
@settings(deadline=None, max_examples=50)
def test_dot_product_depends_on_distance_alone(query, key, shift, theta):
    queries, keys = random_heads(1, 1, seed=1), random_heads(1, 1, seed=2)

    def dot(query_position: int, key_position: int) -> Tensor:
        turned_query = rotated(queries, torch.tensor([[query_position]]), theta)
        turned_key = rotated(keys, torch.tensor([[key_position]]), theta)
        return (turned_query * turned_key).sum(-1)

    there, here = dot(query + shift, key + shift), dot(query, key)
    torch.testing.assert_close(there, here, rtol=0, atol=5e-3)


@pytest.mark.parametrize("position", [1, 4097, 100_003])
def test_rotation_preserves_the_length_of_every_pair(position):
    x = random_heads(1, 1)
    lengths = [
        vectors.unflatten(-1, (-1, 2)).norm(dim=-1)
        for vectors in (x, rotated(x, torch.tensor([[position]])))
    ]
    torch.testing.assert_close(*lengths)


def test_position_zero_changes_nothing():
    x = random_heads(1, 1)
    assert torch.equal(rotated(x, torch.tensor([[0]])), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_neighbours_at_position_100_000_differ_by_one_step_of_every_pair(dtype):
    theta, pairs = 1e6, 16
    x = torch.tensor([1.0, 0.0], dtype=dtype).repeat(pairs).expand(1, 2, 1, 2 * pairs)
    here, there = torch.view_as_complex(
        rotated(x, torch.tensor([[100_000, 100_001]]), theta).float().unflatten(-1, (-1, 2))
    )[0, :, 0]
    steps = torch.tensor([theta ** (-i / pairs) for i in range(pairs)])
    torch.testing.assert_close((there / here).angle(), steps, rtol=0, atol=0.01)


def test_angles_are_one_float32_pair_of_tables_for_all_heads():
    for table in rotary_embedding(torch.arange(6).reshape(2, 3), 32, 1e6):
        assert table.shape == (2, 3, 1, 16)
        assert table.dtype == torch.float32


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_low_precision_is_rounded_once_at_the_end(dtype, rounding):
    positions = torch.arange(64)[None]
    x = random_heads(1, 64).to(dtype)
    out = rotated(x, positions)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), turned(x, positions, 1e6), rtol=rounding, atol=1e-4)
