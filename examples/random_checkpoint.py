"""Make a checkpoint of random weights in Meta's format, to see the machinery run without any
download.

    python examples/random_checkpoint.py DIR [--shards 2]

What it writes, it writes as Meta does: `params.json`, `consolidated.*.pth` and a SentencePiece
`tokenizer.model` with Code Llama's infilling tokens. The text it generates is noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from codellama import ModelConfig
from codellama.cli import run
from codellama.errors import number
from codellama.training.tokenizer import train_tokenizer
from codellama.weights.checkpoint import parameter_shapes, reader
from codellama.weights.meta import write_meta


def tokenizer_model(vocab_size: int = 512) -> bytes:
    """A vocabulary like Code Llama's, learned from the package's own source."""
    sources = Path(__file__).parent.parent.joinpath("codellama").rglob("*.py")
    return train_tokenizer((path.read_text("utf-8") for path in sorted(sources)), vocab_size)


@dataclass(frozen=True)
class Shape:
    """What to write.

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

    directory: str
    dim: int = number(64, least=1)
    n_layers: int = number(2, least=1)
    n_heads: int = number(4, least=1)
    n_kv_heads: int = number(2, least=1)
    vocab_size: int = number(512, least=1)
    shards: int = number(1, least=1)
    seed: int = 0


def random_checkpoint(shape: Shape) -> None:
    """Write a checkpoint of random weights."""
    tokenizer = tokenizer_model(shape.vocab_size)
    config = ModelConfig(
        dim=shape.dim,
        n_layers=shape.n_layers,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        vocab_size=shape.vocab_size,
        rope_theta=1e6,
    )
    generator = torch.Generator().manual_seed(shape.seed)
    weights = {
        name: torch.ones(size)
        if len(size) == 1
        else torch.randn(size, generator=generator) * size[-1] ** -0.5
        for name, size in parameter_shapes(config).items()
    }
    write_meta(shape.directory, config, reader(weights), shape.shards)
    (Path(shape.directory) / "tokenizer.model").write_bytes(tokenizer)


if __name__ == "__main__":
    run(random_checkpoint, first="directory")
