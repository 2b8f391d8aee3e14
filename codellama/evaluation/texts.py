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
    """

    data: tuple[str, ...] = ()
    pattern: str = "*.py"
    held_out: bool = False

    def read(self, limit: int = 0) -> dict[str, str]:
        """Texts by path, but for empty ones and those that are not UTF-8; `limit` at most, 0: all.

        Raises:
            DataError: there is no text in any; OSError: there is no such file.
        """
        paths = [] if self.data else find_documents(None, self.pattern).held_out
        for place in map(Path, self.data):
            if self.held_out and place.is_dir():
                paths += find_documents(place, self.pattern).held_out
                continue
            try:
                found = sorted(place.rglob(self.pattern)) if place.is_dir() else [place]
            except (IndexError, NotImplementedError, ValueError) as error:
                raise DataError(f"the pattern is {self.pattern!r}: {error}") from None
            paths += [
                path for path in found if "site-packages" not in path.relative_to(place).parts
            ]
        files = (path for path in dict.fromkeys(paths) if not path.is_dir())
        read = ((str(path), read_document(path)) for path in files)
        texts = dict(islice(((path, text) for path, text in read if text.strip()), limit or None))
        if not texts:
            raise DataError(f"no text in {len(paths)} files {self.pattern}; give other --data")
        return texts
