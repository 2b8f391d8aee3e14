"""The files that a model is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from codellama.errors import DataError
from codellama.training.documents import find_documents, read_document


@dataclass(frozen=True)
class Texts:
    """Which files to measure on.

    Args:
        data: a file, or a directory for the files below it; may be given several times. Without
            it, the sixteenth of the standard library that `codellama.train` holds out.
        pattern: what the files of a directory are called.
        held_out: take only the sixteenth of each directory that `codellama.train` holds out.
        context: tokens to look back on at most, or around a gap; 0: as many as the model's context
            allows, but 512 around a gap.

    Raises:
        DataError: the context is one that nothing can be predicted from.
    """

    data: tuple[str, ...] = ()
    pattern: str = "*.py"
    held_out: bool = False
    context: int = 0

    def __post_init__(self) -> None:
        if self.context < 0 or self.context == 1:
            raise DataError(f"context is {self.context}; expected 2 or more, or 0")

    def read(self, limit: int = 0, everything: bool = False) -> dict[str, str]:
        """Texts by path, but for empty ones and those that are not UTF-8; `limit` at most, 0: all.

        Args:
            everything: without `data`, take all files of the standard library.

        Raises:
            DataError: there is no such file, or no text in any.
        """
        paths: list[Path] = []
        for place in map(Path, self.data) if self.data else (None,):
            if place is None or (self.held_out and place.is_dir()):
                found = find_documents(place, self.pattern)
                paths += found.held_out
                if everything and place is None and not self.held_out:
                    paths = sorted(paths + found.train)
            else:
                paths += _files(place, self.pattern)
        read = ((str(path), read_document(path)) for path in dict.fromkeys(paths))
        texts = dict(islice(((path, text) for path, text in read if text.strip()), limit or None))
        if not texts:
            raise DataError(
                f"no text in {len(paths)} files {self.pattern}; give others with --data"
            )
        return texts


def _files(place: Path, pattern: str) -> list[Path]:
    try:
        found = sorted(place.rglob(pattern)) if place.is_dir() else [place]
    except (IndexError, NotImplementedError, ValueError):
        raise DataError(f"the pattern is {pattern!r}; expected one such as *.py") from None
    if not place.exists() or ".." in Path(pattern).parts:
        raise DataError(
            f"{place}, {pattern}: expected a file, or a directory with such files below"
        )
    return [path for path in found if path.is_file()]
