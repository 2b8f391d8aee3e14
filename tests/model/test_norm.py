"""RMSNorm against its formula in float64."""

import pytest
import torch
from torch import Tensor

from codellama.model.norm import RMSNorm


def formula(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    exact = x.double()
    return exact / ((exact**2).sum(-1, keepdim=True) / x.shape[-1] + eps).sqrt() * weight.double()


def norm_of_random_weight(dim: int, eps: float = 1e-5) -> RMSNorm:
    norm = RMSNorm(dim, eps)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    return norm


@pytest.mark.parametrize("eps", [1e-5, 0.5])
@pytest.mark.parametrize("shape", [(48,), (5, 64), (2, 3, 128)])
def test_each_vector_follows_the_formula(shape, eps):
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    norm = norm_of_random_weight(shape[-1], eps)
    torch.testing.assert_close(norm(x).double(), formula(x, norm.weight, eps), rtol=1e-5, atol=1e-6)


def test_new_norm_scales_to_a_root_mean_square_of_one():
    x = 100 * torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(RMSNorm(64)(x).square().mean(-1), torch.ones(8))


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_low_precision_is_rounded_once_at_the_end(dtype, rounding):
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    norm = norm_of_random_weight(128).to(dtype)
    out = norm(x)
    assert out.dtype == dtype
    expected = formula(x, norm.weight, norm.eps)
    torch.testing.assert_close(out.double(), expected, rtol=rounding * 1.001, atol=1e-6)


def test_squares_that_exceed_float16_do_no_harm():
    x = torch.full((1, 64), 30_000.0, dtype=torch.float16)
    assert torch.equal(RMSNorm(64)(x), torch.ones_like(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zero_vector_stays_zero(dtype):
    x = torch.zeros(2, 64, dtype=dtype)
    assert torch.equal(norm_of_random_weight(64).to(dtype)(x), x)
