"""Muon against PyTorch's own."""

import pytest
import torch

from codellama.training.muon import Muon, orthogonalized


def test_in_bfloat16_it_is_pytorchs():
    shapes = [(8, 24), (24, 8), (16, 16)]
    ours, theirs = ([torch.nn.Parameter(torch.randn(s)) for s in shapes] for _ in range(2))
    for one, other in zip(ours, theirs, strict=True):
        other.data.copy_(one.data)
    steps = (
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in steps:
            optimizer.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
def test_singular_values_become_about_one(shape):
    update = orthogonalized(torch.randn(shape), torch.float32)
    values = torch.linalg.svdvals(update)
    assert ((values > 0.6) & (values < 1.3)).all()
