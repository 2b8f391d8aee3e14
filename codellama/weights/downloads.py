"""Downloaded files: whether each is what was wanted, and what the libraries make of it."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from codellama.errors import CheckpointError

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and of how many."""

CHECKLIST = "checklist.chk"
OUT_OF_MEMORY = re.compile("allocate memory|not enough memory|out of memory|ALLOC_FAILED")
"""What PyTorch says of it on Linux, on Windows, and of GPUs."""


def check_download(path: Path) -> None:
    """Looks at the first bytes of a file for what hosting sites send instead of it.

    Raises:
        CheckpointError: the file is missing, empty, a web page, or a Git LFS pointer.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, or is no file; fetch it from the download again")
    with path.open("rb") as file:
        head = file.read(512).lstrip()
    if not head:
        found = "is empty;"
    elif head.startswith(b"version https://git-lfs"):
        found = "is a Git LFS pointer, not the file that it points to; run `git lfs pull`, or"
    elif head[:1] == b"<" and (b"html" in head.lower() or b"<?xml" in head.lower()):
        found = "is a web page, probably of an expired or refused download link;"
    else:
        return
    raise CheckpointError(f"{path} {found} download the file itself again")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file is missing, or holds something else.
    """
    check_download(path)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}; expected a JSON object")
    return content


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, mapped into memory, and the metadata in its header.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    check_download(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (SafetensorError, RuntimeError, MemoryError) as error:
        raise _unreadable(path, error) from None


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` has written, mapped into memory; no code in it runs.

    Files from before PyTorch 1.6, which are no archives, are read whole.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else than named tensors.
    """
    check_download(path)
    try:
        stored = path.stat().st_size
        with path.open("rb") as file:
            is_archive = file.read(4) == b"PK\x03\x04"
        if is_archive:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
            if any(entry.compress_type for entry in entries):  # PyTorch's never are
                raise zipfile.BadZipFile("its entries are compressed")
            stored = sum(entry.file_size for entry in entries if "/data/" in entry.filename)
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
        is_flat = isinstance(tensors, dict) and all(
            isinstance(name, str) and _is_dense(tensor) for name, tensor in tensors.items()
        )
        if is_flat:
            storages = [tensor.untyped_storage() for tensor in tensors.values()]
            claimed = sum({one.data_ptr(): one.nbytes() for one in storages}.values())
            if claimed > stored:
                raise ValueError(f"it holds {stored:,} of {claimed:,} bytes")
    except Exception as error:  # unpickling fails in any way on what is no pickle
        raise _unreadable(path, error) from None
    if not is_flat:
        raise CheckpointError(f"{path} does not hold a flat set of named, dense tensors")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _is_dense(value: Any) -> bool:
    """Whether a value is a tensor that has a place in memory for each of its numbers."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested:
        return False
    return value.device.type == "cpu" and value.nbytes <= value.untyped_storage().nbytes()


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Why a library could not read a file."""
    reason = str(error).split("\n")[0] or type(error).__name__
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in reason:
        found = "is damaged, or unpickling it could run code, which weights_only=True refuses;"
        return CheckpointError(f"{path} {found} download it again, from its publisher")
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(reason):
        return CheckpointError(
            f"{path} does not fit into memory ({reason}); free some of it, or add swap: Linux maps "
            "no file that is larger than both together, unless vm.overcommit_memory is 1"
        )
    return CheckpointError(f"{path} is cut short or damaged ({reason}); download it again")


def read_checklist(directory: Path) -> dict[str, str]:
    """The md5 sums, by file name, of Meta's `checklist.chk`; empty where there is none.

    Raises:
        CheckpointError: a line is not `<md5>  <file>`.
    """
    path = directory / CHECKLIST
    sums = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        if match := re.fullmatch(r"(\S{32})\s+\*?([^*/][^/]*)", line.strip()):
            sums[match[2]] = match[1].lower()
        elif line.strip():
            raise CheckpointError(f"{path}: {line!r} is not an md5 sum and a file name")
    return sums


def write_checklist(directory: Path, progress: Progress | None = None) -> None:
    """Writes `checklist.chk` for all files of a directory."""
    paths = sorted(path for path in directory.iterdir() if path.is_file())
    sums = _md5_sums(paths, progress)
    (directory / CHECKLIST).write_text("".join(f"{sums[name]}  {name}\n" for name in sums))


def verify_checklist(directory: Path, progress: Progress | None = None) -> dict[str, str]:
    """Compares every file that `checklist.chk` lists; reads each to its end.

    Returns:
        For each file name a verdict: "ok", "differs" or "missing".
    """
    expected = read_checklist(directory)
    present = {path.name for path in directory.iterdir() if path.is_file()}
    paths = [directory / name for name in expected if name in present]
    found = _md5_sums(paths, progress)
    return {
        name: "missing" if name not in found else "ok" if found[name] == md5 else "differs"
        for name, md5 in expected.items()
    }


def _md5_sums(paths: Sequence[Path], progress: Progress | None) -> dict[str, str]:
    total = sum(path.stat().st_size for path in paths)
    done, sums = 0, {}
    for path in paths:
        digest = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
                done += len(block)
                if progress:
                    progress(done, total)
        sums[path.name] = digest.hexdigest()
    return sums
