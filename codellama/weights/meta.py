"""Meta's checkpoint format: `params.json` and `consolidated.00.pth` … `consolidated.NN.pth`.

Meta trained with tensor parallelism and saved what each process held, so a model of N shards is the
same set of names N times, most tensors cut into N equal slices. Reading joins the slices, in one
process and for any N.
"""

from __future__ import annotations

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
    Region,
    differences,
    new_directory,
    parameter_shapes,
    weight_dtypes,
)
from codellama.weights.downloads import ZIP, Progress, check_download, read_json, unreadable

PARAMS = "params.json"
_DERIVED = "rope.freqs"  # Llama 2's files carry this table; it follows from params.json
Shards = Sequence[Mapping[str, Tensor]]
LARGEST_HEADER = 64_000_000
"""Bytes; the names and shapes of the largest model take a thousandth of it."""
_SHARD = re.compile(r"consolidated\.(\d+)\.pth")
_CUT = {
    **dict.fromkeys(("wq", "wk", "wv", "w1", "w3", "output"), 0),
    **dict.fromkeys(("wo", "w2", "tok_embeddings"), 1),
}


def cut_dimension(name: str) -> int | None:
    """The dimension along which Meta cuts the parameter `name` over shards; None: whole in each."""
    return _CUT.get(name.removesuffix(".weight").rpartition(".")[2])


class MetaCheckpoint(Checkpoint):
    """A directory in Meta's format.

    Attributes:
        shards: for each file the slices by parameter name; they stay on disk until they are read.

    Raises:
        CheckpointError: `params.json` or a shard is missing, damaged or not what its name says, or
            names and shapes are not those of the model that `params.json` describes.
    """

    format = "Meta"

    def __init__(self, directory: Path) -> None:
        params = read_json(directory / PARAMS)
        shards = [_read_shard(path) for path in _shard_paths(directory)]
        config = described(directory, params, shards[0])
        _check_tensors(directory, config, shards)
        self.directory = directory
        self.config = config
        self.shards = shards
        self.file_count = len(shards)
        self.dtypes = set().union(*map(weight_dtypes, shards))

    def parts(self, name: str, region: Region | None) -> tuple[list[Tensor], int]:
        """The slices that a region reaches into, narrowed to it; see `Checkpoint.parts`."""
        slices = [shard[name] for shard in self.shards]
        dimension = cut_dimension(name)
        if dimension is None or len(slices) == 1:
            return [slices[0] if region is None else slices[0][region]], 0
        if region is None:
            region = tuple(slice(None) for _ in slices[0].shape)
        width = slices[0].shape[dimension]
        start, stop, _ = region[dimension].indices(width * len(slices))
        parts = []
        for number in range(start // width, -(-stop // width)):
            offset = number * width
            within = slice(max(start - offset, 0), min(stop - offset, width))
            place = (*region[:dimension], within, *region[dimension + 1 :])
            parts.append(slices[number][place])
        return parts, dimension


def described(
    directory: Path, params: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> ModelConfig:
    """The model in `params.json`; the embedding tells the size of a vocabulary left open there."""
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
    """Writes `params.json` and shards as Meta would have cut them.

    Memory grows by one shard at most. The directory appears when all of it is written.

    Args:
        directory: where to; must not exist, or be empty.
        read: gives the parameters: `Checkpoint.read`, or `reader` of a state dict.
        shards: number of files.
        progress: told files done and files in all.

    Raises:
        CheckpointError: the directory is taken, or `shards` does not divide what is to be cut.
    """
    check_shards(config, shards)
    shapes = parameter_shapes(config)
    with new_directory(directory) as beside:
        for number in range(shards):
            part = {
                name: _alone(read(name, shard_region(name, shape, number, shards)))
                for name, shape in shapes.items()
            }
            torch.save(part, beside / f"consolidated.{number:02d}.pth")
            del part
            if progress:
                progress(number + 1, shards)
        (beside / PARAMS).write_text(json.dumps(config.to_params(), indent=2) + "\n")


def check_shards(config: ModelConfig, shards: int) -> None:
    """Raises CheckpointError if a model's matrices cannot be cut into so many equal slices."""
    cut = [
        shape[dimension]
        for name, shape in parameter_shapes(config).items()
        if (dimension := cut_dimension(name)) is not None
    ]
    if shards < 1 or math.gcd(*cut) % shards:
        raise CheckpointError(
            f"the model's matrices cannot be cut into {shards} equal slices; choose a number of "
            f"shards that divides {math.gcd(*cut)}"
        )


def shard_region(name: str, shape: Sequence[int], number: int, shards: int) -> Region | None:
    """The region of a parameter that shard `number` of so many holds; None: all of it."""
    dimension = cut_dimension(name)
    if dimension is None or shards == 1:
        return None
    width = shape[dimension] // shards
    cut = slice(number * width, (number + 1) * width)
    return tuple(cut if axis == dimension else slice(None) for axis in range(len(shape)))


def _alone(tensor: Tensor) -> Tensor:
    """The tensor with memory of its own: torch.save writes all of the memory that a view is in."""
    tensor = tensor.cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _shard_paths(directory: Path) -> list[Path]:
    """The shards in the order of their numbers, which must run from 0 without a gap."""
    numbered: dict[int, Path] = {}
    for path in sorted(directory.iterdir()):
        if match := _SHARD.fullmatch(path.name):
            if path.exists() and not path.is_file():
                raise CheckpointError(f"{path} is no file; expected a shard of the model")
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
    missing = [number for number in range(len(numbered)) if number not in numbered]
    if missing:
        names = ", ".join(f"consolidated.{number:02d}.pth" for number in missing[:4])
        raise CheckpointError(
            f"{directory} has shards up to {max(numbered):02d}, but lacks {names}; download what "
            "is missing"
        )
    return [numbered[number] for number in sorted(numbered)]


def _read_shard(path: Path) -> dict[str, Tensor]:
    """Maps a shard into memory; nothing but the tensors' headers is read."""
    check_download(path)
    stored_bytes = _stored_bytes(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=bool(stored_bytes))
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
    tensors.pop(_DERIVED, None)
    for name, tensor in tensors.items():
        if tensor.is_nested or tensor.is_meta or tensor.layout != torch.strided:
            raise CheckpointError(f"{path}: {name!r:.80} is no dense tensor, as Meta's files have")
    if stored_bytes:
        storages = {tensor.data_ptr(): tensor.untyped_storage() for tensor in tensors.values()}
        claimed = sum({s.data_ptr(): s.nbytes() for s in storages.values()}.values())
        if claimed > stored_bytes:
            raise CheckpointError(
                f"{path} is damaged (its tensors claim {claimed:,} bytes, it holds "
                f"{stored_bytes:,}); download it again"
            )
    return tensors


def _stored_bytes(path: Path) -> int:
    """Bytes of the tensors in a shard that can be mapped. 0 for one that can only be read whole:
    files from before PyTorch 1.6 are no archives, and entries of an archive may be deflated.

    Raises:
        CheckpointError: the part that is unpickled is larger than names and shapes ever are.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return 0
    try:
        entries = zipfile.ZipFile(path).infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise unreadable(path, error) from None
    headers = [entry.file_size for entry in entries if "/data/" not in entry.filename]
    if sum(headers) > LARGEST_HEADER:
        raise CheckpointError(
            f"{path} has headers of {sum(headers):,} bytes; expected {LARGEST_HEADER:,} at most"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return 0
    return sum(entry.file_size for entry in entries if "/data/" in entry.filename)


def _check_tensors(directory: Path, config: ModelConfig, shards: Shards) -> None:
    """Compares names and shapes with the model that the configuration describes."""
    shapes = parameter_shapes(config)
    _check_shard_count(directory, shapes, shards)
    expected = {name: list(shape) for name, shape in shapes.items()}
    for name, shape in expected.items():
        if (dimension := cut_dimension(name)) is not None:
            shape[dimension] //= len(shards)
    problems = []
    for number, shard in enumerate(shards):
        where = f" in shard {number:02d}" if len(shards) > 1 else ""
        problems += differences(expected, shard, where)
    if problems:
        raise CheckpointError(
            f"{directory}: the tensors are not those of the model in {PARAMS} "
            f"({'; '.join(problems)}); the files belong to different models, or one is damaged"
        )


def _check_shard_count(directory: Path, expected: Mapping[str, torch.Size], shards: Shards) -> None:
    """The slices' width says how many shards there once were, if all of them agree."""
    implied = set()
    for name, tensor in shards[0].items():
        dimension = cut_dimension(name)
        if name in expected and dimension is not None and tensor.dim() == 2:
            shape = list(expected[name])
            count, rest = divmod(shape[dimension], max(tensor.shape[dimension], 1))
            shape[dimension] = tensor.shape[dimension]
            implied.add(count if list(tensor.shape) == shape and not rest else 0)
    if len(implied) == 1 and (count := implied.pop()) not in (0, len(shards)):
        raise CheckpointError(
            f"{directory} has {len(shards)} shard(s), but each tensor in them is 1/{count} of a "
            f"whole, so {count} are needed; download the missing ones, or remove those of another "
            "model"
        )
