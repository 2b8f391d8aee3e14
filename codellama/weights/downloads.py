"""What a download can turn out to be instead of the file that was wanted."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from codellama.errors import CheckpointError

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and of how many."""

CHECKLIST = "checklist.chk"
ZIP = b"PK\x03\x04"
"""How a zip archive begins, as PyTorch writes."""


def check_download(path: Path) -> None:
    """Looks at the first bytes of a file for what hosting sites send instead of it.

    Raises:
        CheckpointError: the file is empty, a web page, a Git LFS or Xet pointer, or a zip archive
            whose end is missing.
    """
    with path.open("rb") as file:
        head = file.read(512).lstrip()
    again = "download the file itself again"
    if not head:
        raise CheckpointError(f"{path} is empty; {again}")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file that it points to; run `git lfs pull` in "
            f"its repository, or {again}"
        )
    if head.startswith((b"# xet", b"version https://xet", b"version https://hf.co/xet")):
        raise CheckpointError(f"{path} is a Xet pointer, not the file that it points to; {again}")
    if head[:1] == b"<" and (b"html" in head.lower() or b"<?xml" in head.lower()):
        raise CheckpointError(
            f"{path} is a web page, probably of an expired or refused download link; {again}"
        )
    if head.startswith(ZIP) and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f"{path} is cut short after {path.stat().st_size:,} bytes (its end, which lists what "
            f"it holds, is missing); {again}"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file is missing, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; it is part of the download, fetch it again")
    check_download(path)
    try:
        params = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(params, dict):
        raise CheckpointError(f"{path} holds {type(params).__name__}; expected a JSON object")
    return params


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Maps a safetensors file into memory; nothing but its header is read.

    Returns:
        The tensors, and what the file says about them.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    check_download(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, RuntimeError, MemoryError) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """What is wrong with a file, or with its place, that a library failed to read."""
    reason = str(error).split("\n")[0] or type(error).__name__
    if "weights_only" in reason:  # PyTorch's advice to switch it off
        return CheckpointError(f"{path} is not a set of tensors; get it from its publisher")
    if isinstance(error, MemoryError) or "allocate memory" in reason:
        return CheckpointError(f"{path} does not fit into memory ({reason}); free some of it")
    if str(path).encode(errors="replace") != os.fsencode(path):
        return CheckpointError(f"{path} has a name that is not UTF-8; rename it, or link to it")
    return CheckpointError(f"{path} is damaged ({reason}); download it again")


def read_checklist(directory: Path) -> dict[str, str]:
    """The md5 sums, by file name, of Meta's `checklist.chk`; empty where there is none.

    Raises:
        CheckpointError: a line is not `<md5>  <file>`.
    """
    path = directory / CHECKLIST
    sums = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        if not line.strip():
            continue
        md5, _, name = line.strip().partition(" ")
        name = name.strip().removeprefix("*")
        if len(md5) != 32 or not name or Path(name).name != name:
            raise CheckpointError(f"{path}: {line!r} is not an md5 sum and a file name")
        sums[name] = md5.lower()
    return sums


def write_checklist(directory: Path, progress: Progress | None = None) -> None:
    """Writes `checklist.chk` for all files of a directory."""
    paths = sorted(path for path in directory.iterdir() if path.is_file())
    lines = [f"{md5}  {path.name}\n" for path, md5 in _md5_sums(paths, progress)]
    (directory / CHECKLIST).write_text("".join(lines))


def verify_checklist(directory: Path, progress: Progress | None = None) -> dict[str, str]:
    """Compares every file that `checklist.chk` lists; reads each to its end.

    Returns:
        For each file name a verdict: "ok", "differs" or "missing".
    """
    sums = read_checklist(directory)
    present = [directory / name for name in sums if (directory / name).is_file()]
    found = {path.name: md5 for path, md5 in _md5_sums(present, progress)}
    return {
        name: "missing" if name not in found else "ok" if found[name] == md5 else "differs"
        for name, md5 in sums.items()
    }


def _md5_sums(paths: Sequence[Path], progress: Progress | None) -> Iterator[tuple[Path, str]]:
    total = sum(path.stat().st_size for path in paths)
    done = 0
    for path in paths:
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
                done += len(block)
                if progress:
                    progress(done, total)
        yield path, digest.hexdigest()
