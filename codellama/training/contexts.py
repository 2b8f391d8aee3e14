"""Documents packed into sequences of one length, in an order that a seed decides.

A document that is longer than a sequence is taken as several: runs of its lines, each small enough
to be whole in its sequence and of a random size, so that gaps of every size come up. Neighbouring
runs of a file mostly share a sequence, and the later may look at the earlier.

Sequences are packed without a mask between documents: of sequences of 1,024 tokens of Python's
standard library 83 % hold lines of one file, and a mask made attention, forward and backward, 1.4
to 1.6 times slower on a CPU in bfloat16.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from codellama.errors import DataError, PromptError
from codellama.text.tokenizer import Tokenizer
from codellama.training import infilling
from codellama.training.documents import read_document

PADDING = -1
SHORTEST_RUN = 8
MARKS = 8
"""Tokens that a run has besides its lines' at most: control tokens, and words cut in two."""
PART_BYTES = 8_000_000


@dataclass
class Position:
    """Where a stream is: in which round over all files, which part of it, which row of that."""

    epoch: int = 0
    part: int = 0
    row: int = 0


class ContextStream:
    """Rows of token ids without end, the same for the same seed; can be set to any position.

    Files are shuffled anew in every epoch and packed part by part, so that memory holds a part and
    not all data.

    Args:
        files: documents to read.
        length: tokens of a row.
        infilling_rate: share of documents that are transformed for infilling.
        line_rate: share of those whose gap is a line.
        suffix_first_rate: share of those with the suffix first.
        seed: decides on everything random.
        shortest_run: tokens of a run of lines at least, about, unless its row or file ends before.
        longest_run: tokens of a run of lines at most; 0: as many as fit in a row. Short runs show
            more gaps in as many tokens.

    Raises:
        PromptError: documents are to be transformed, but the vocabulary has no infilling tokens.
    """

    def __init__(
        self,
        files: Sequence[Path],
        tokenizer: Tokenizer,
        length: int,
        infilling_rate: float = infilling.RATE,
        line_rate: float = infilling.LINE_RATE,
        suffix_first_rate: float = infilling.SUFFIX_FIRST_RATE,
        seed: int = 0,
        shortest_run: int = SHORTEST_RUN,
        longest_run: int = 0,
    ) -> None:
        if infilling_rate and not tokenizer.can_infill:
            raise PromptError("the vocabulary has no infilling tokens; train with a rate of 0")
        self.files = list(files)
        self.tokenizer = tokenizer
        self.length = length
        self.infilling_rate = infilling_rate
        self.line_rate = line_rate
        self.suffix_first_rate = suffix_first_rate
        self.seed = seed
        self.shortest_run = shortest_run
        self.longest_run = longest_run or length
        self.position = Position()
        self._seen_text = False
        self._built: tuple[int, int, Tensor] | None = None

    def take(self, count: int) -> Tensor:
        """The next rows: (count, length) token ids, `PADDING` where a row is not full."""
        rows: list[Tensor] = []
        while len(rows) < count:
            part = self._part()
            self._seen_text |= len(part) > 0
            if self.position.row < len(part):
                rows.append(part[self.position.row])
                self.position.row += 1
            elif self.position.part + 1 < len(self._parts(self.position.epoch)):
                self.position = Position(self.position.epoch, self.position.part + 1)
            elif self._seen_text:
                self.position = Position(self.position.epoch + 1)
            else:
                raise DataError("the files hold no text to train on")
        return torch.stack(rows)

    def _parts(self, epoch: int) -> list[list[Path]]:
        files = list(self.files)
        random.Random(f"{self.seed} {epoch}").shuffle(files)
        parts: list[list[Path]] = [[]]
        size = 0
        for file in files:
            if size > PART_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(file)
            size += file.stat().st_size
        return parts

    def _part(self) -> Tensor:
        """All rows of the part that the stream is in, (rows, length)."""
        epoch, number = self.position.epoch, self.position.part
        if self._built is None or self._built[:2] != (epoch, number):
            random_numbers = random.Random(f"{self.seed} {epoch} {number}")
            texts = map(read_document, self._parts(epoch)[number])
            packer = _Packer(self, random_numbers)
            rows = [row for text in texts for row in packer.add(text)] + packer.finish()
            random_numbers.shuffle(rows)
            self._built = epoch, number, torch.tensor(rows, dtype=torch.int32)
        return self._built[2]


class _Packer:
    """Fills a stream's rows with runs of documents' lines, each of them whole."""

    def __init__(self, stream: ContextStream, random_numbers: random.Random) -> None:
        self.stream = stream
        self.tokenizer = stream.tokenizer
        self.length = stream.length
        self.random_numbers = random_numbers
        self.row: list[int] = []

    def add(self, document: str) -> Iterator[list[int]]:
        """Packs a document; yields the rows that have become full."""
        lines = document.splitlines(keepends=True)
        sizes = [len(self.tokenizer.encode(line)) for line in lines]
        start = 0
        while start < len(lines):
            room = self.length - len(self.row)
            end = self._end_of_run(sizes, start, room - MARKS)
            ids = self._encode(lines, start, end)
            while len(ids) > room and end - start > 1:  # joined, they have more tokens than alone
                end = start + (end - start) // 2
                ids = self._encode(lines, start, end)
            if len(ids) > room and self.row:
                yield self._full_row()
                continue
            if len(ids) > room:  # one line is longer than a row; it is cut, so not transformed
                ids = self._plain(lines[start])[:room]
            self.row += ids
            start = end
            if self.length - len(self.row) < self.stream.shortest_run:
                yield self._full_row()

    def finish(self) -> list[list[int]]:
        """The last row, if anything is in it."""
        return [self._full_row()] if self.row else []

    def _end_of_run(self, sizes: Sequence[int], start: int, room: int) -> int:
        """Takes lines up to a size drawn evenly on a logarithmic scale; at least one line."""
        shortest = self.stream.shortest_run
        longest = max(min(room, self.stream.longest_run), shortest)
        wanted = shortest * (longest / shortest) ** self.random_numbers.random()
        if room - wanted < shortest:  # too little would be left for another
            wanted = room
        end, taken = start + 1, sizes[start]
        while end < len(sizes) and taken + sizes[end] <= wanted:
            taken += sizes[end]
            end += 1
        return end

    def _encode(self, lines: Sequence[str], start: int, end: int) -> list[int]:
        """Token ids of a run; none if it spells a control token, as few texts do."""
        run = "".join(lines[start:end])
        if self.random_numbers.random() < self.stream.infilling_rate:
            try:
                return infilling.transform(
                    self.tokenizer,
                    run,
                    self.random_numbers,
                    self.stream.line_rate,
                    self.stream.suffix_first_rate,
                )
            except PromptError:
                return []
        ids = self._plain(run)
        return [*ids, self.tokenizer.eos_id] if ids and end == len(lines) else ids

    def _plain(self, text: str) -> list[int]:
        """Token ids of a text as it is; none if it spells a control token."""
        ids = self.tokenizer.encode(text)
        if self.tokenizer.control_ids.intersection(ids):
            return []
        return [self.tokenizer.bos_id, *ids]

    def _full_row(self) -> list[int]:
        row = self.row + [PADDING] * (self.length - len(self.row))
        self.row = []
        return row
