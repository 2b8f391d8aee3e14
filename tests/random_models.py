"""Small models of random weights."""

import torch

from codellama import ModelConfig, Transformer
from codellama.weights.checkpoint import parameter_shapes


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
