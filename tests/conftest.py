"""What many tests build on: a small vocabulary, and a checkpoint of random weights with it."""

from pathlib import Path

import pytest
import torch
from random_checkpoint import Shape, random_checkpoint, tokenizer_model

from codellama import CodeLlama, Tokenizer

torch.set_num_threads(1)  # models this small lose more to threads than they gain

DEVICES = [
    "cpu",
    *["cuda"] * torch.cuda.is_available(),
    *["mps"] * torch.backends.mps.is_available(),
]
if hasattr(torch, "pretend"):  # by the plugin that test_pretend_device.py names
    DEVICES = ["pretend"]


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    """Each kind of device that this machine has."""
    return request.param


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint directory of random weights in one shard, with a vocabulary that can infill."""
    directory = tmp_path_factory.mktemp("checkpoint")
    random_checkpoint(Shape(str(directory)))
    return directory


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory) -> Path:
    """A vocabulary of 512 pieces that can infill."""
    path = tmp_path_factory.mktemp("vocabulary") / "tokenizer.model"
    path.write_bytes(tokenizer_model())
    return path


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path) -> Tokenizer:
    return Tokenizer(tokenizer_path)


@pytest.fixture(scope="session")
def llm(checkpoint) -> CodeLlama:
    return CodeLlama.load(checkpoint, device="cpu")
