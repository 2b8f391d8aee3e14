import pytest
import torch


@pytest.fixture(autouse=True)
def _forget_compiled():
    """Each test compiles anew."""
    yield
    torch._dynamo.reset()
