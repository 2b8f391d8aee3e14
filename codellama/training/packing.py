"""Sequence packing: documents side by side in sequences of one length.

Every file is split into documents: runs of whole lines. Each has a random size and lies in one
sequence, so that gaps of every size come up. Nothing masks one document of a sequence from the
next: a mask made attention 1.4 to 1.6 times slower on a CPU in bfloat16, and 83 % of the sequences
of 1,024 tokens of Python's standard library hold lines of one file.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from codellama.errors import DataError, PromptError
from codellama.text import prompts
from codellama.text.prompts import Message
from codellama.text.tokenizer import Tokenizer
from codellama.training import infilling
from codellama.training.documents import Line, read_conversation, read_document

PADDING = -1
PART_BYTES = 8_000_000  # of documents that are packed together
BLOCK_CHARACTERS = 1_000_000  # of a file that are encoded together
_MARKS = 8  # tokens of a document besides its own: control tokens, and words cut in two


@dataclass(frozen=True)
class Packing:
    """How documents become sequences.

    Args:
        length: tokens of a sequence.
        infilling: share of documents that are cut for infilling.
        shortest_run: tokens of a document at least, about, unless its sequence or file ends before.
        seed: decides on everything random.
    """

    length: int
    infilling: float = 0.9
    shortest_run: int = 8
    seed: int | str = 0


class Position(NamedTuple):
    """Where a stream is: in which epoch, which part of it, which row of that."""

    epoch: int = 0
    part: int = 0
    row: int = 0


class PackedSequences:
    """Rows of token ids without end, the same for the same seed; can be set to any position.

    A token `id` that a model reads but does not learn is `~id`, which is negative: the BOS at the
    beginning of each document, and all of a conversation but its answers. Documents are shuffled
    anew in every epoch and packed part by part: memory holds one part.

    Args:
        documents: files of text, and conversations, of which the answers alone are learned.
    """

    def __init__(
        self, documents: Sequence[Path | Line], tokenizer: Tokenizer, packing: Packing
    ) -> None:
        if packing.infilling and not tokenizer.can_infill:
            raise PromptError("the vocabulary has no infilling tokens; give the stages infilling 0")
        self.documents = documents
        self.tokenizer = tokenizer
        self.packing = packing
        self.position = Position()
        self._line_ends = {id for id, text in enumerate(tokenizer.bytes_of) if text.endswith(b"\n")}
        self._spelled = tokenizer.control_ids - {tokenizer.bos_id, tokenizer.eos_id}
        self._seen_text = False
        self._built: tuple[tuple[int, int], list[Tensor]] | None = None

    def take(self, count: int) -> Tensor:
        """The next rows: (count, length) token ids, `PADDING` where a row is not full."""
        taken: list[Tensor] = []
        while len(taken) < count:
            epoch, part, row = self.position
            rows = self._part(epoch, part)
            self._seen_text |= len(rows) > 0
            if row < len(rows):
                taken.append(rows[row])
                self.position = Position(epoch, part, row + 1)
            elif part + 1 < len(self._parts(epoch)):
                self.position = Position(epoch, part + 1)
            elif self._seen_text:
                self.position = Position(epoch + 1)
            else:
                raise DataError("the documents hold no text to train on")
        return torch.stack(taken)

    def _parts(self, epoch: int) -> list[list[Path | Line]]:
        documents = list(self.documents)
        random.Random(f"{self.packing.seed} {epoch}").shuffle(documents)
        sizes = (one.size if isinstance(one, Line) else one.stat().st_size for one in documents)
        ends = zip(itertools.accumulate(sizes), documents, strict=True)
        parts = itertools.groupby(ends, lambda pair: pair[0] // PART_BYTES)
        return [[document for _, document in part] for _, part in parts]

    def _part(self, epoch: int, number: int) -> list[Tensor]:
        """All rows of a part, in random order."""
        if self._built is None or self._built[0] != (epoch, number):
            random_numbers = random.Random(f"{self.packing.seed} {epoch} {number}")
            documents = itertools.chain(*self._parts(epoch)[number : number + 1])
            rows = [
                torch.tensor(row + [PADDING] * (self.packing.length - len(row)), dtype=torch.int32)
                for row in self._rows(documents, random_numbers)
            ]
            random_numbers.shuffle(rows)
            self._built = (epoch, number), rows
        return self._built[1]

    def _rows(
        self, documents: Iterable[Path | Line], random_numbers: random.Random
    ) -> Iterator[list[int]]:
        """Fills rows with runs of documents, each whole in its row if it is not longer than one."""
        length, tokenizer = self.packing.length, self.tokenizer
        row: list[int] = []
        for document in documents:
            is_text = not isinstance(document, Line)
            for ids in self._encoded(document):
                ends = [len(ids)]
                if is_text:
                    lines = (place for place, id in enumerate(ids, 1) if id in self._line_ends)
                    ends = [*(place for place in lines if place < len(ids) - 1), len(ids)]
                start = 0
                while start < len(ids):
                    free = length - len(row)
                    end = min(self._end(ends, start, free, random_numbers), start + length)
                    run = [tokenizer.bos_id] * is_text + ids[start:end]
                    if is_text and self._spelled.intersection(run):
                        run = []
                    elif is_text and len(run) <= free:
                        run = self._example(run, random_numbers)
                    if len(run) > free and row:
                        yield row
                        row = []
                        continue
                    if len(run) > free:
                        end = min(end, start + free - is_text)
                        run = [tokenizer.bos_id] * is_text + ids[start:end]
                    if is_text and run:
                        run[0] = ~run[0]  # BOS is read, never written
                    row += run
                    start = end
                    if length - len(row) < max(2, self.packing.shortest_run):
                        yield row
                        row = []
        if row:
            yield row

    def _encoded(self, document: Path | Line) -> Iterator[list[int]]:
        """A document's token ids, block by block; EOS is the last of a text."""
        if isinstance(document, Line):
            try:
                yield chat_example(self.tokenizer, read_conversation(document))
            except PromptError as error:
                warnings.warn(f"{document.path}: a conversation is left out: {error}", stacklevel=2)
            return
        text, start = read_document(document), 0
        while start < len(text):
            end = start + BLOCK_CHARACTERS
            if end < len(text):
                end = text.rfind("\n", start, end) + 1 or end
            eos = [self.tokenizer.eos_id] if end >= len(text) else []
            yield self.tokenizer.encode_continuation(text[start:end]) + eos
            start = end

    def _end(
        self, ends: Sequence[int], start: int, free: int, random_numbers: random.Random
    ) -> int:
        """Where a run ends: at the last line's end before a log-uniform random size, or at the
        first line's."""
        shortest = self.packing.shortest_run
        longest = max(free - _MARKS, shortest)
        wanted = shortest * (longest / shortest) ** random_numbers.random()
        if longest - wanted < shortest:  # too little would be left for another
            wanted = longest
        first = bisect_right(ends, start)
        return ends[max(first, bisect_right(ends, start + wanted) - 1)]

    def _example(self, plain: list[int], random_numbers: random.Random) -> list[int]:
        """A run as a text of its own, cut for infilling or not; or `plain`, its ids in its
        document, if it begins inside a character, or would then spell a control token."""
        tokenizer = self.tokenizer
        is_cut = random_numbers.random() < self.packing.infilling
        with contextlib.suppress(UnicodeDecodeError, PromptError):
            text = b"".join([tokenizer.bytes_of[id] for id in plain]).decode()
            if is_cut:
                return infilling.transform(tokenizer, text, random_numbers)
            ids = tokenizer.encode(text, bos=True, eos=plain[-1] == tokenizer.eos_id)
            return plain if self._spelled.intersection(ids) else ids
        return plain


def chat_example(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Token ids of a conversation in the vocabulary's format, as `~id` but for what the assistant
    is to give: its answers and their ends (Touvron et al. 2023, arXiv 2307.09288, section 3.1).

    Args:
        messages: as for `prompts.chat`, but for the last, which is the assistant's.

    Raises:
        PromptError: roles are out of order, or a text spells a control token or tag.
    """
    end_id = tokenizer.eos_id
    if tokenizer.step_id is not None:  # where a prompt says for whom the answer is
        end_id = tokenizer.step_id
        messages = [
            {"destination": "user", **one} if one["role"] == "assistant" else one
            for one in messages
        ]
    ids = prompts.chat(tokenizer, [*messages, {"role": "user", "content": "?"}])
    ends = [place for place, id in enumerate(ids, 1) if id == end_id]
    if tokenizer.step_id is not None:  # which ends every message, a system message's first
        ends = ends[2::2]
    example = [~id for id in ids[: ends[-1]]]
    answers = (place for place, one in enumerate(messages) if one["role"] == "assistant")
    for place, end in zip(answers, ends, strict=True):
        prompt = prompts.chat(tokenizer, messages[:place])
        start = next(
            (at for at, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1]),
            len(prompt),
        )
        example[start:end] = ids[start:end]
    return example
