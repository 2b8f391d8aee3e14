"""Make a checkpoint of random weights in Meta's format, to see the machinery run without any
download.

    python examples/random_checkpoint.py DIR [--shards 2]

What it writes, it writes as Meta does: `params.json`, `consolidated.*.pth` and a SentencePiece
`tokenizer.model` with Code Llama's infilling tokens. The text it generates is noise.
"""

from __future__ import annotations

from pathlib import Path

import torch
from command_line import run_example

from codellama import ModelConfig
from codellama.training.tokenizer import train_tokenizer
from codellama.weights.checkpoint import parameter_shapes, reader
from codellama.weights.meta import save_checkpoint


def tokenizer_model(vocab_size: int = 512) -> bytes:
    """A vocabulary like Code Llama's, learned from the package's own source."""
    sources = Path(__file__).parent.parent.joinpath("codellama").rglob("*.py")
    return train_tokenizer((path.read_text("utf-8") for path in sorted(sources)), vocab_size)


def random_checkpoint(
    directory: str,
    dim: int = 64,
    n_layers: int = 2,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    vocab_size: int = 512,
    shards: int = 1,
    seed: int = 0,
) -> None:
    """Writes a checkpoint of random weights.

    Args:
        directory: where to.
        dim: width of the model.
        n_layers: number of blocks.
        n_heads: number of query heads.
        n_kv_heads: number of key and value heads.
        vocab_size: number of token ids.
        shards: number of files to cut the weights into.
        seed: the same seed gives the same weights.
    """
    tokenizer = tokenizer_model(vocab_size)
    config = ModelConfig(dim, n_layers, n_heads, vocab_size, n_kv_heads, rope_theta=1e6)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.ones(shape)
        if len(shape) == 1
        else torch.randn(shape, generator=generator) * shape[-1] ** -0.5
        for name, shape in parameter_shapes(config).items()
    }
    save_checkpoint(directory, config, reader(weights), shards)
    (Path(directory) / "tokenizer.model").write_bytes(tokenizer)


if __name__ == "__main__":
    run_example(random_checkpoint)
