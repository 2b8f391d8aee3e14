"""Sequence packing: documents side by side in sequences of one length.

Every file is split into documents: runs of whole lines. Each has a random size and lies in one
sequence, so that gaps of every size come up. Nothing masks one document of a sequence from the
next: a mask made attention 1.4 to 1.6 times slower on a CPU in bfloat16, and 83 % of the sequences
of 1,024 tokens of Python's standard library hold lines of one file.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from codellama.errors import DataError, PromptError
from codellama.text.tokenizer import Tokenizer
from codellama.training import infilling
from codellama.training.documents import read_document

PADDING = -1
PART_BYTES = 8_000_000  # of files that are packed together
_MARKS = 8  # tokens of a document besides its lines': control tokens, and words cut in two
_PIECE_CHARACTERS = 16  # in a piece of a SentencePiece vocabulary at most


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

    Files are shuffled anew in every epoch and packed part by part: memory holds one part.
    """

    def __init__(self, files: Sequence[Path], tokenizer: Tokenizer, packing: Packing) -> None:
        if packing.infilling and not tokenizer.can_infill:
            raise PromptError("the vocabulary has no infilling tokens; give the stages infilling 0")
        self.files = files
        self.tokenizer = tokenizer
        self.packing = packing
        self.position = Position()
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
                raise DataError("the files hold no text to train on")
        return torch.stack(taken)

    def _parts(self, epoch: int) -> list[list[Path]]:
        files = list(self.files)
        random.Random(f"{self.packing.seed} {epoch}").shuffle(files)
        ends = itertools.accumulate(file.stat().st_size for file in files)
        parts = itertools.groupby(zip(ends, files, strict=True), lambda pair: pair[0] // PART_BYTES)
        return [[file for _, file in part] for _, part in parts]

    def _part(self, epoch: int, number: int) -> list[Tensor]:
        """All rows of a part, in random order."""
        if self._built is None or self._built[0] != (epoch, number):
            random_numbers = random.Random(f"{self.packing.seed} {epoch} {number}")
            files = itertools.chain(*self._parts(epoch)[number : number + 1])
            rows = [
                torch.tensor(row + [PADDING] * (self.packing.length - len(row)), dtype=torch.int32)
                for row in self._rows(map(read_document, files), random_numbers)
            ]
            random_numbers.shuffle(rows)
            self._built = (epoch, number), rows
        return self._built[1]

    def _rows(self, texts: Iterable[str], random_numbers: random.Random) -> Iterator[list[int]]:
        """Fills rows with runs of the texts' lines, each of them whole."""
        length = self.packing.length
        row: list[int] = []
        for text in texts:
            most = _PIECE_CHARACTERS * length  # what comes after fits in no row
            lines = [line[:most] for line in text.splitlines(keepends=True)]
            sizes = [len(self.tokenizer.encode(line)) for line in lines]
            start = 0
            while start < len(lines):
                free = length - len(row)
                end = start + self._run(sizes[start : start + free], free, random_numbers)
                ids = self._encode("".join(lines[start:end]), end == len(lines), random_numbers)
                while len(ids) > free and end - start > 1:  # joined, they may have more tokens
                    end = start + (end - start) // 2
                    ids = self._encode("".join(lines[start:end]), False, random_numbers)
                if len(ids) > free and row:
                    yield row
                    row = []
                    continue
                if len(ids) > free:  # one line is longer than a row; it is cut, so not transformed
                    ids = self._plain(lines[start])[:free]
                row += ids
                start = end
                if row and length - len(row) < self.packing.shortest_run:
                    yield row
                    row = []
        if row:
            yield row

    def _run(self, sizes: Sequence[int], free: int, random_numbers: random.Random) -> int:
        """How many lines of such sizes to take: at least one, up to a log-uniform random total."""
        shortest = self.packing.shortest_run
        longest = max(free - _MARKS, shortest)
        wanted = shortest * (longest / shortest) ** random_numbers.random()
        if longest - wanted < shortest:  # too little would be left for another
            wanted = longest
        return max(1, sum(size <= wanted for size in itertools.accumulate(sizes)))

    def _encode(self, run: str, is_end: bool, random_numbers: random.Random) -> list[int]:
        """Token ids of a run; none if it spells a control token, as few texts do."""
        if random_numbers.random() < self.packing.infilling:
            try:
                return infilling.transform(self.tokenizer, run, random_numbers)
            except PromptError:
                return []
        ids = self._plain(run)
        return [*ids, self.tokenizer.eos_id] if ids and is_end else ids

    def _plain(self, text: str) -> list[int]:
        """Token ids of a text as it is; none if it spells a control token."""
        ids = self.tokenizer.encode(text)
        if self.tokenizer.control_ids.intersection(ids):
            return []
        return [self.tokenizer.bos_id, *ids]
