"""Text to token ids and back, with Meta's SentencePiece vocabularies."""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from codellama.errors import TokenizerError

TOKENIZER = "tokenizer.model"
"""The file of a checkpoint directory that holds the vocabulary."""
SPACE = "▁"
SENTINEL = "☺"


def _one_mark_per_byte(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\N{REPLACEMENT CHARACTER}" * (error.end - error.start), error.end


codecs.register_error("codellama.mark_each_byte", _one_mark_per_byte)


class Tokenizer:
    """A SentencePiece vocabulary, together with the ids that have a meaning of their own.

    Args:
        path: a `tokenizer.model`.
        added: text by id of tokens that a fine-tune has added behind the pieces of the file.
        special: ids of those that are control tokens.
        eos_ids: ids that end a text, besides the vocabulary's own.

    Attributes:
        files: contents, by name, of the files that make the vocabulary.
        vocab_size: number of ids, added ones included; a model may have more rows.
        bos_id, eos_id: begin and end of a sequence.
        eos_ids: all ids that end a text, `eos_id` among them.
        unk_id: stands for what the vocabulary cannot spell.
        prefix_id, suffix_id, middle_id, eot_id: the infilling tokens `▁<PRE>`, `▁<SUF>`, `▁<MID>`
            and `▁<EOT>`; None where the vocabulary lacks them (arXiv 2308.12950, section 2.3).
        step_id: `<step>`, which ends a turn of Code Llama 70B Instruct; None elsewhere.
        can_infill: whether the vocabulary has all four infilling tokens.
        bytes_of: what each id adds to a text, in UTF-8; nothing for control tokens.
        control_ids: ids that never appear in decoded text: all of these, special ones of a
            fine-tune, and Code Llama's pieces of several `<EOT>`.

    Raises:
        TokenizerError: the file is missing or is not a SentencePiece model.
    """

    def __init__(
        self,
        path: str | Path,
        added: Mapping[int, str] | None = None,
        special: Collection[int] = (),
        eos_ids: Collection[int] = (),
    ) -> None:
        self._processor = SentencePieceProcessor()
        try:
            content = Path(path).read_bytes()
            self.files = {TOKENIZER: content}
            self._read(content)
        except OSError as error:
            raise TokenizerError(f"cannot read the tokenizer {path}: {error.strerror}") from None
        except (RuntimeError, ValueError, IndexError):
            raise TokenizerError(
                f"{path} is not a SentencePiece model, or is damaged; get tokenizer.model from the "
                "download again"
            ) from None
        self._add(added or {}, special)
        self.eos_ids = frozenset(eos_ids) | {self.eos_id}

    def _read(self, content: bytes) -> None:
        self._processor.LoadFromSerializedProto(content)
        self.vocab_size = int(self._processor.vocab_size())
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        self.unk_id: int = self._processor.unk_id()
        self.prefix_id = self._id_of(f"{SPACE}<PRE>")
        self.suffix_id = self._id_of(f"{SPACE}<SUF>")
        self.middle_id = self._id_of(f"{SPACE}<MID>")
        self.eot_id = self._id_of(f"{SPACE}<EOT>")
        self.step_id = self._id_of("<step>")
        infilling = (self.prefix_id, self.suffix_id, self.middle_id, self.eot_id)
        self.can_infill = None not in infilling
        repeated = (self._id_of(SPACE + "<EOT>" * count) for count in range(2, 7))
        marks = (self.bos_id, self.eos_id, *infilling, *repeated, self.step_id)
        self.control_ids = frozenset(mark for mark in marks if mark is not None)
        if min(self.control_ids) < 0:
            raise ValueError  # no token for the beginning or the end of a text
        self.bytes_of = [self._piece_bytes(id) for id in range(self.vocab_size)]
        self.implicit_space = self._processor.encode("a", out_type=str)[0].startswith(SPACE)

    def _add(self, added: Mapping[int, str], special: Collection[int]) -> None:
        """Puts tokens behind the pieces of the file; ids in between stand for no text."""
        own = self.vocab_size
        self.added = {id: text for id, text in added.items() if id >= own and text}
        self.vocab_size = max([own - 1, *self.added]) + 1
        self.control_ids |= self.added.keys() & set(special)
        for id in range(own, self.vocab_size):
            text = "" if id in self.control_ids else self.added.get(id, "")
            self.bytes_of.append(text.encode())
        self._added_ids = {text: id for id, text in self.added.items()}
        longest_first = sorted(self._added_ids, key=len, reverse=True)
        self._spelled = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")

    def piece(self, id: int) -> str:
        """The vocabulary's entry for an id, with `▁` for a space."""
        return self.added.get(id) or self._processor.id_to_piece(id)

    def _id_of(self, piece: str) -> int | None:
        """The id of a piece; None where SentencePiece answers with the id of the unknown token."""
        id = self._processor.piece_to_id(piece)
        return None if id == self._processor.unk_id() else id

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Token ids of `text` as the beginning of a text: SentencePiece puts a space before it.

        Args:
            bos, eos: put the sequence marks around it.

        Raises:
            TokenizerError: the text is none, or holds half of a surrogate pair.
        """
        if not isinstance(text, str):
            raise TokenizerError(f"expected a text, got {text!r:.40}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise TokenizerError(
                f"the text is not valid Unicode: it holds {error.object[error.start]!r}, half of a "
                "surrogate pair"
            ) from None
        first, *rest = self._spelled.split(text)
        ids = [self.bos_id] * bos + self._processor.encode(first)
        for added, after in zip(rest[::2], rest[1::2], strict=True):
            ids += [self._added_ids[added], *self.encode_continuation(after)]
        return ids + [self.eos_id] * eos

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of `text` where it continues other text, so without the implicit space.

        The text is encoded behind a sentinel, which takes that space; the sentinel's tokens, whose
        number depends on the vocabulary, are then left out.
        """
        return self.encode(SENTINEL + text)[len(self.encode(SENTINEL)) :]

    def spelling(self, text: bytes) -> list[int]:
        """The ids of all tokens that may come first where a text begins with `text`: their bytes
        begin with it, or it begins with them."""
        return [
            id
            for id, piece in enumerate(self.bytes_of)
            if piece and (piece.startswith(text) or text.startswith(piece)) and id != self.unk_id
        ]

    def decode(self, ids: Sequence[int], continuation: bool = False) -> str:
        """The text of token ids. Control tokens have none.

        Args:
            continuation: the ids continue other text, so that a leading space is a real one.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        decoder = IncrementalDecoder(self, continuation)
        return "".join(map(decoder.push, ids)) + decoder.flush()

    def _piece_bytes(self, id: int) -> bytes:
        """The bytes that an id stands for."""
        if id in self.control_ids or self._processor.is_control(id):
            return b""
        if self._processor.is_byte(id):  # a piece such as <0x0A>
            return bytes([int(self._processor.id_to_piece(id)[1:-1], 16)])
        if self._processor.is_unknown(id):
            return self._processor.decode([id]).encode()
        return self._processor.id_to_piece(id).replace(SPACE, " ").encode()


class IncrementalDecoder:
    """Turns tokens into text as they come.

    A character whose bytes are spread over several tokens appears with the last of them. Of bytes
    that form no character, each becomes a replacement character, as in SentencePiece. The pieces
    that `push` and `flush` return add up to `Tokenizer.decode` of all the ids.

    Args:
        continuation: the tokens continue other text. Otherwise the first space is the implicit one
            of `Tokenizer.encode` and is left out.
        skip: bytes to leave out at the beginning.
    """

    def __init__(self, tokenizer: Tokenizer, continuation: bool = False, skip: int = 0) -> None:
        self._tokenizer = tokenizer
        self._skip = skip
        self._utf8 = codecs.getincrementaldecoder("utf-8")("codellama.mark_each_byte")
        self._implicit_space_ahead = not continuation and tokenizer.implicit_space

    def push(self, id: int) -> str:
        """The text that is certain once token `id` has come."""
        size = self._tokenizer.vocab_size
        if not 0 <= id < size:
            raise TokenizerError(f"token id {id} is outside the vocabulary of {size}")
        piece = self._tokenizer.bytes_of[id]
        if self._implicit_space_ahead and (piece or id in self._tokenizer.added):
            self._implicit_space_ahead = False
            if piece and self._tokenizer.piece(id).startswith(SPACE):
                piece = piece[1:]
        left_out, self._skip = self._skip, max(0, self._skip - len(piece))
        return self._utf8.decode(piece[left_out:])

    def flush(self) -> str:
        """What is left at the end: replacement characters for an unfinished character."""
        return self._utf8.decode(b"", final=True)
