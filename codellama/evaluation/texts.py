"""The files that a model is measured on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from codellama.errors import DataError
from codellama.training.documents import find_all, find_documents, matching, read_document


@dataclass(frozen=True)
class Texts:
    """Which files to measure on.

    Args:
        data: a file, or a directory for the files below it, or stdlib or package:NAME as for
            `codellama.train`, or a list of them. Without it, the sixteenth of the standard
            library that `codellama.train` holds out.
        pattern: which files of a directory count.
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
        paths = [] if self.data else find_documents(pattern=self.pattern).held_out
        for name in map(os.path.expanduser, self.data):
            place = Path(name)
            if self.held_out or name == "stdlib" or name.startswith("package:"):
                found = find_all([name], self.pattern)
                paths += found.held_out if self.held_out else sorted(found.train + found.held_out)
                continue
            paths += matching(place, self.pattern) if place.is_dir() else [place]
        files = (path for path in dict.fromkeys(paths) if not path.is_dir())
        read = ((str(path), read_document(path)) for path in files)
        texts = dict(islice(((path, text) for path, text in read if text.strip()), limit or None))
        if not texts:
            raise DataError(f"no text in {len(paths)} files {self.pattern}; give others")
        return texts
