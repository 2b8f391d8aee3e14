"""What many tests build on: small random models, a small vocabulary, a checkpoint of both."""

from pathlib import Path

import pytest
import torch
from random_checkpoint import random_checkpoint, tokenizer_model

from codellama import CodeLlama, ModelConfig, Tokenizer, Transformer
from codellama.weights.meta import parameter_shapes


def random_model(seed: int = 0, **changes) -> Transformer:
    """A float32 model of two layers whose weights keep activations near one."""
    defaults = {"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 512, "n_kv_heads": 2}
    config = ModelConfig(**{**defaults, **changes})
    generator = torch.Generator().manual_seed(seed)
    model = Transformer(config)
    weights = {
        name: 1 + 0.1 * torch.randn(shape, generator=generator)
        if len(shape) == 1
        else torch.randn(shape, generator=generator) * shape[-1] ** -0.5
        for name, shape in parameter_shapes(config).items()
    }
    model.load_state_dict(weights)
    return model.eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory) -> Path:
    """A checkpoint directory of random weights in one shard, with a vocabulary that can infill."""
    directory = tmp_path_factory.mktemp("checkpoint")
    random_checkpoint(str(directory))
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
