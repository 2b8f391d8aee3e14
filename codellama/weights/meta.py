"""Meta's checkpoint format: `params.json` and `consolidated.00.pth` … `consolidated.NN.pth`.

Meta trained with tensor parallelism and saved what each process held. So each of N shards has the
same names, and one of N equal slices of every matrix. `Checkpoint.read` joins them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from codellama.errors import CheckpointError, ConfigError
from codellama.model.config import ModelConfig
from codellama.weights.checkpoint import (
    PARAMS,
    SHARD,
    Checkpoint,
    Read,
    Slices,
    check_tensors,
    differences,
    new_directory,
    parameter_shapes,
    plain_names,
    write_json,
    write_shard,
)
from codellama.weights.downloads import Progress, read_json, read_torch
from codellama.weights.recognised import not_a_checkpoint

MAX_SHARDS = 64
_SHARD = re.compile(r"consolidated\.(\d+)\.pth")
_SHARDED = dict.fromkeys(("wq", "wk", "wv", "w1", "w3", "output"), 0)
_SHARDED |= dict.fromkeys(("wo", "w2", "tok_embeddings"), 1)


def shard_dimension(name: str) -> int | None:
    """The dimension along which Meta shards a parameter; None: each shard has all of it."""
    return _SHARDED.get(name.removesuffix(".weight").rpartition(".")[2])


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
        self.shards = [plain_names(read_torch(path)) for path in _shard_paths(directory)]
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
        if self.file_count > 1:
            check_shards(self.config, self.file_count)

    def parts(self, name: str, slices: Slices | None) -> tuple[list[Tensor], int]:
        """What the shards hold of a parameter's slices; see `Checkpoint.parts`."""
        held = [shard[name] for shard in self.shards]
        dimension = shard_dimension(name)
        if dimension is None:  # each shard has all of it
            held, dimension = held[:1], 0
        if slices is None:
            return held, dimension
        slices = (*slices, *[slice(None)] * (held[0].dim() - len(slices)))
        width = held[0].shape[dimension]
        start, stop, _ = slices[dimension].indices(width * len(held))
        parts = []
        for number in range(start // width, -(-stop // width)):
            within = slice(max(start - number * width, 0), min(stop - number * width, width))
            parts.append(held[number][(*slices[:dimension], within, *slices[dimension + 1 :])])
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


def write_meta(
    directory: str | Path,
    config: ModelConfig,
    read: Read,
    shards: int = 1,
    *,
    progress: Progress | None = None,
) -> None:
    """Writes `params.json` and shards as Meta does.

    Memory grows by one shard at most. The files appear when all of them are written.

    Args:
        directory: where to write; must not exist, or be empty.
        read: gives the parameters: `Checkpoint.read`, or `reader` of a state dict.
        shards: number of files.
        progress: told files done and files in all.

    Raises:
        CheckpointError: the directory is taken, the disk is full, or a matrix cannot be divided
            among so many shards.
    """
    check_shards(config, shards)
    shapes = parameter_shapes(config)
    with new_directory(directory) as scratch:
        for number in range(shards):
            part = {
                name: read(name, shard_slices(name, shape, number, shards))
                for name, shape in shapes.items()
            }
            write_shard(scratch / SHARD.format(number), part)
            del part
            if progress:
                progress(number + 1, shards)
        write_json(scratch / PARAMS, config.to_params())


def check_shards(config: ModelConfig, shards: int) -> None:
    """Raises CheckpointError if a model's matrices do not divide into so many equal slices."""
    widths = [
        shape[dimension]
        for name, shape in parameter_shapes(config).items()
        if (dimension := shard_dimension(name)) is not None
    ]
    if shards < 1 or math.gcd(*widths) % shards:
        raise CheckpointError(
            f"the model's matrices do not divide into {shards} equal slices; expected a number of "
            f"shards that divides {math.gcd(*widths)}"
        )


def shard_slices(name: str, shape: Sequence[int], number: int, shards: int) -> Slices | None:
    """The slices of a parameter that shard `number` of `shards` holds; None: all of it."""
    dimension = shard_dimension(name)
    if dimension is None or shards == 1:
        return None
    width = shape[dimension] // shards
    own = slice(number * width, (number + 1) * width)
    return tuple(own if axis == dimension else slice(None) for axis in range(len(shape)))


def own_slices(name: str, shape: Sequence[int], mesh: DeviceMesh | None) -> Slices | None:
    """The slices of a parameter that this one of the processes of a mesh holds; None: all of it."""
    return shard_slices(name, shape, mesh.get_local_rank(), mesh.size()) if mesh else None


def _slice_shapes(shapes: Mapping[str, Sequence[int]], shards: int) -> dict[str, list[int]]:
    """Shapes of what each of `shards` files holds; what does not divide equally stays whole."""
    slices = {name: list(shape) for name, shape in shapes.items()}
    for name, shape in slices.items():
        dimension = shard_dimension(name)
        if dimension is not None and shape[dimension] % shards == 0:
            shape[dimension] //= shards
    return slices


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
        otherwise = f"has {PARAMS} but no {SHARD.format(0)}; download the weights to the same place"
        raise not_a_checkpoint(directory, otherwise)
    if missing := [number for number in range(len(numbered)) if number not in numbered]:
        names = ", ".join(map(SHARD.format, missing[:4]))
        raise CheckpointError(
            f"{directory} has shards up to {max(numbered):02d}, but lacks {names}; download what "
            "is missing"
        )
    return [numbered[number] for number in range(len(numbered))]
