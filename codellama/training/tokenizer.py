"""A vocabulary made as Llama's was, with Code Llama's infilling pieces at its end."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable

from sentencepiece import SentencePieceTrainer

from codellama.errors import TokenizerError

EXTRA_PIECES = (
    *("▁<SU", "▁<SUF", "▁<PRE", "▁<M", "▁<MID", "▁<E", "▁<EOT"),
    *("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    *("▁" + "<EOT>" * count for count in range(2, 7)),
)
"""The ids 32000 to 32015 of Code Llama: the infilling tokens, and what they are merged from."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, at_most: bool = False) -> bytes:
    """Learns a SentencePiece vocabulary: byte-pair encoding with byte fallback, single digits, text
    as it is, runs of spaces as pieces (Touvron et al. 2023, arXiv 2302.13971, section 2.1).

    Args:
        vocab_size: number of ids, the 16 of `EXTRA_PIECES` and the 256 bytes among them.
        at_most: be content with fewer, where the texts do not yield so many.

    Returns:
        The contents of a `tokenizer.model`.

    Raises:
        TokenizerError: the texts do not yield so many pieces, or the number is too small.
    """
    lines = (line for text in texts for line in text.splitlines())
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=(line for line in lines if len(line) <= 4192),  # as it does itself
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size - len(EXTRA_PIECES),
            hard_vocab_limit=not at_most,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.9995,
            minloglevel=2,
        )
    except RuntimeError:
        raise TokenizerError(
            f"cannot learn a vocabulary of {vocab_size} ids from these texts; expected about 400 "
            "or more, and text enough for as many"
        ) from None
    return model.getvalue() + b"".join(map(_serialized, EXTRA_PIECES))


def _serialized(piece: str, score: float = -1e6) -> bytes:
    """A vocabulary entry as the protocol buffer has it; appended ones extend the list."""
    text = piece.encode()
    entry = bytes([0x0A, len(text)]) + text + b"\x15" + struct.pack("<f", score)
    return bytes([0x0A, len(entry)]) + entry
