"""Make a checkpoint of random weights in Meta's format, to see the machinery run without any
download.

    python examples/random_checkpoint.py DIR [--shards 2]

What it writes, it writes as Meta does: `params.json`, `consolidated.*.pth` and a SentencePiece
`tokenizer.model` with Code Llama's infilling tokens. The text it generates is noise.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import fire
import torch
from sentencepiece import SentencePieceTrainer

from codellama import ModelConfig
from codellama.weights.checkpoint import parameter_shapes, reader
from codellama.weights.meta import save_checkpoint

EXTRA_PIECES = (
    *("▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT"),
    *("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    *("▁" + "<EOT>" * count for count in range(2, 7)),
)


def tokenizer_model(vocab_size: int = 512) -> bytes:
    """A SentencePiece vocabulary with Llama's settings, learned from the package's own source, and
    Code Llama's 16 extra pieces at its end."""
    sources = Path(__file__).parent.parent.joinpath("codellama").rglob("*.py")
    lines = [line for path in sorted(sources) for line in path.read_text("utf-8").splitlines()]
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size - len(EXTRA_PIECES),
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.99,
        minloglevel=2,
    )
    return model.getvalue() + b"".join(map(_serialized_piece, EXTRA_PIECES))


def _serialized_piece(piece: str, score: float = -1e6) -> bytes:
    """A vocabulary entry as the protocol buffer has it; appended ones extend the list."""
    text = piece.encode()
    entry = bytes([0x0A, len(text)]) + text + b"\x15" + struct.pack("<f", score)
    return bytes([0x0A, len(entry)]) + entry


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
    config = ModelConfig(dim, n_layers, n_heads, vocab_size, n_kv_heads, rope_theta=1e6)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.ones(shape)
        if len(shape) == 1
        else torch.randn(shape, generator=generator) * shape[-1] ** -0.5
        for name, shape in parameter_shapes(config).items()
    }
    save_checkpoint(directory, config, reader(weights), shards)
    (Path(directory) / "tokenizer.model").write_bytes(tokenizer_model(vocab_size))


if __name__ == "__main__":
    fire.Fire(random_checkpoint)
