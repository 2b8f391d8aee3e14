"""Meta's checkpoint format: `params.json` and `consolidated.00.pth` … `consolidated.NN.pth`.

Meta trained with tensor parallelism and saved what each process held. So each of N shards has the
same names, and one of N equal slices of every matrix. Reading joins them in one process.
"""

from __future__ import annotations

import gc
import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codellama.errors import CheckpointError, ConfigError
from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import (
    Checkpoint,
    Read,
    Slices,
    check_tensors,
    differences,
    new_directory,
    parameter_shapes,
)
from codellama.weights.downloads import Progress, check_download, check_size, read_json, unreadable

PARAMS = "params.json"
MAX_DEFLATED = 20
"""The largest ratio of inflated to stored bytes in a shard; real weights hardly reach 2."""
MAX_SHARDS = 64
_SHARD = re.compile(r"consolidated\.(\d+)\.pth")
_ROTARY_TABLE = "rope.freqs"  # of Llama 2's files; follows from params.json
_CUT = dict.fromkeys(("wq", "wk", "wv", "w1", "w3", "output"), 0)
_CUT |= dict.fromkeys(("wo", "w2", "tok_embeddings"), 1)


def shard_dimension(name: str) -> int | None:
    """The dimension along which Meta cuts the parameter `name`; None: each shard has all of it."""
    return _CUT.get(name.removesuffix(".weight").rpartition(".")[2])


class MetaCheckpoint(Checkpoint):
    """A directory in Meta's format.

    Attributes:
        shards: for each file the slices by parameter name; they stay on disk until they are read.

    Raises:
        CheckpointError: `params.json` or a shard is missing or damaged, or names and shapes are not
            those of the model in `params.json`.
    """

    format = "Meta"

    def __init__(self, directory: Path) -> None:
        params = read_json(directory / PARAMS)
        self.directory = directory
        self.shards = [_read_shard(path) for path in _shard_paths(directory)]
        self.file_count = len(self.shards)
        self.config = described(directory, params, self.shards[0])
        shapes = parameter_shapes(self.config)
        expected = _slice_shapes(shapes, self.file_count)
        if differences(expected, self.shards[0]):
            for count in range(1, MAX_SHARDS + 1):
                if not differences(_slice_shapes(shapes, count), self.shards[0]):
                    raise CheckpointError(
                        f"{self.directory} has {self.file_count} shard(s), but each tensor in them "
                        f"is 1/{count} of a whole, so {count} are needed; download the missing "
                        "ones, or remove those of another model"
                    )
        self.dtypes = check_tensors(self.directory / PARAMS, expected, self.shards)
        cut = {name: shape for name, shape in shapes.items() if shard_dimension(name) is not None}
        whole = [name for name, shape in cut.items() if expected[name] == list(shape)]
        if self.file_count > 1 and whole:
            raise CheckpointError(
                f"{self.directory} has {self.file_count} shards, but {whole[0]} cannot be cut into "
                "as many equal slices; the files belong to different models"
            )

    def parts(self, name: str, region: Slices | None) -> tuple[list[Tensor], int]:
        """The slices that a region reaches into, narrowed to it; see `Checkpoint.parts`."""
        slices = [shard[name] for shard in self.shards]
        dimension = shard_dimension(name)
        if dimension is None:  # each shard has all of it
            slices, dimension = slices[:1], 0
        if region is None:
            return slices, dimension
        region = (*region, *[slice(None)] * (slices[0].dim() - len(region)))
        width = slices[0].shape[dimension]
        start, stop, _ = region[dimension].indices(width * len(slices))
        parts = []
        for number in range(start // width, -(-stop // width)):
            within = slice(max(start - number * width, 0), min(stop - number * width, width))
            parts.append(slices[number][(*region[:dimension], within, *region[dimension + 1 :])])
        return parts, dimension


def described(
    directory: Path, params: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> ModelConfig:
    """The model in `params.json`, whose vocabulary size may be left to the embedding."""
    embedding = tensors.get("tok_embeddings.weight", torch.empty(0))
    rows = len(embedding) if embedding.dim() == 2 else None
    try:
        return ModelConfig.from_params(params, rows)
    except ConfigError as error:
        raise CheckpointError(f"{directory / PARAMS}: {error}") from None


def save_checkpoint(
    directory: str | Path,
    config: ModelConfig,
    read: Read,
    shards: int = 1,
    *,
    progress: Progress | None = None,
) -> None:
    """Writes `params.json` and shards, cut as Meta cuts them.

    Memory grows by one shard at most. The files appear when all of them are written.

    Args:
        directory: where to write; must not exist, or be empty.
        read: gives the parameters: `Checkpoint.read`, or `reader` of a state dict.
        shards: number of files.
        progress: told files done and files in all.

    Raises:
        CheckpointError: the directory is taken, or `shards` does not divide what is to be cut.
    """
    check_shards(config, shards)
    shapes = parameter_shapes(config)
    with new_directory(directory) as scratch:
        for number in range(shards):
            part = {
                name: _compact(read(name, shard_slices(name, shape, number, shards)))
                for name, shape in shapes.items()
            }
            torch.save(part, scratch / f"consolidated.{number:02d}.pth")
            del part
            gc.collect()  # torch.save leaves a cycle that holds the shard
            if progress:
                progress(number + 1, shards)
        (scratch / PARAMS).write_text(json.dumps(config.to_params(), indent=2) + "\n")


def check_shards(config: ModelConfig, shards: int) -> None:
    """Raises CheckpointError if a model's matrices cannot be cut into so many equal slices."""
    cut = [
        shape[dimension]
        for name, shape in parameter_shapes(config).items()
        if (dimension := shard_dimension(name)) is not None
    ]
    if shards < 1 or math.gcd(*cut) % shards:
        raise CheckpointError(
            f"the model's matrices cannot be cut into {shards} equal slices; choose a number of "
            f"shards that divides {math.gcd(*cut)}"
        )


def shard_slices(name: str, shape: Sequence[int], number: int, shards: int) -> Slices | None:
    """The region of a parameter that shard `number` of `shards` holds; None: all of it."""
    dimension = shard_dimension(name)
    if dimension is None or shards == 1:
        return None
    width = shape[dimension] // shards
    cut = slice(number * width, (number + 1) * width)
    return tuple(cut if axis == dimension else slice(None) for axis in range(len(shape)))


def _slice_shapes(shapes: Mapping[str, Sequence[int]], shards: int) -> dict[str, list[int]]:
    """Shapes of the slices in each of `shards` files; what cannot be cut equally stays whole."""
    slices = {name: list(shape) for name, shape in shapes.items()}
    for name, shape in slices.items():
        dimension = shard_dimension(name)
        if dimension is not None and shape[dimension] % shards == 0:
            shape[dimension] //= shards
    return slices


def _compact(tensor: Tensor) -> Tensor:
    """The tensor in memory of its own: torch.save writes all of the memory that a view lies in."""
    tensor = tensor.cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _shard_paths(directory: Path) -> list[Path]:
    """The shards in the order of their numbers, which must run from 0 without a gap."""
    numbered: dict[int, Path] = {}
    for path in sorted(directory.iterdir()):
        if match := _SHARD.fullmatch(path.name):
            other = numbered.setdefault(int(match[1]), path)
            if other != path:
                raise CheckpointError(
                    f"{directory} has {other.name} and {path.name}, two shards of one number; "
                    "remove the one that is not the model's"
                )
    if not numbered:
        raise CheckpointError(
            f"{directory} has no shard; expected consolidated.00.pth and, for larger models, more"
        )
    if missing := [number for number in range(len(numbered)) if number not in numbered]:
        names = ", ".join(f"consolidated.{number:02d}.pth" for number in missing[:4])
        raise CheckpointError(
            f"{directory} has shards up to {max(numbered):02d}, but lacks {names}; download what "
            "is missing"
        )
    return [numbered[number] for number in range(len(numbered))]


def _read_shard(path: Path) -> dict[str, Tensor]:
    """Maps a shard into memory; only the tensors' headers are read."""
    check_download(path)
    stored_bytes, is_mappable = _stored(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
    except pickle.UnpicklingError as error:
        if call := re.search(r"GLOBAL (\S+)|class|reduce", str(error)):
            raise CheckpointError(
                f"{path} holds more than tensors: unpickling it could run code of whoever wrote it "
                f"({call[1] or call[0]}), so weights_only=True refused it; get the file from its "
                "publisher"
            ) from None
        raise CheckpointError(f"{path} is not a PyTorch file; download it again") from None
    except Exception as error:  # the unpickler fails in any way on what is no pickle
        raise unreadable(path, error) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()
    ):
        raise CheckpointError(
            f"{path} does not hold a flat set of named tensors, as Meta's files do"
        )
    tensors.pop(_ROTARY_TABLE, None)
    for name, tensor in tensors.items():
        is_dense = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_meta)
        if not is_dense or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {name} is no dense tensor, as Meta's files have")
    tensors = {name: tensor.detach() for name, tensor in tensors.items()}
    storages = (tensor.untyped_storage() for tensor in tensors.values())
    claimed = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    _check_claim(path, claimed, stored_bytes)
    return tensors


def _stored(path: Path) -> tuple[int, bool]:
    """Bytes of the tensors in a shard, and whether they can be mapped. Files from before PyTorch
    1.6 are no archives, and the entries of an archive may be deflated: both are read whole.

    Raises:
        CheckpointError: the part that is unpickled is larger than names and shapes ever are, or the
            archive's directory claims more than the file can hold.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return size, False
    try:
        entries = zipfile.ZipFile(path).infolist()
    except Exception:  # zipfile, too, fails in any way on what is no archive
        raise CheckpointError(
            f"{path} is cut short after {size:,} bytes or is damaged: the archive's end cannot be "
            "read; download it again"
        ) from None
    tensors = sum(entry.file_size for entry in entries if "/data/" in entry.filename)
    headers = sum(entry.file_size for entry in entries) - tensors
    check_size(path, headers)
    is_mappable = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    _check_claim(path, tensors, size if is_mappable else MAX_DEFLATED * size)
    return tensors, is_mappable


def _check_claim(path: Path, claimed: int, stored: int) -> None:
    if claimed > stored:
        raise CheckpointError(
            f"{path} is damaged (its tensors claim {claimed:,} bytes, it holds {stored:,}); "
            "download it again"
        )
