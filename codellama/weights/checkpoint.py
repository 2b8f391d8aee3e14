"""What a checkpoint is, whatever format it has on disk: one whole model, parameter by parameter."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.weights.downloads import CheckpointError

Region = tuple[slice, ...]
"""A part of a tensor: a range of indices for each of its dimensions."""

Read = Callable[[str, Region | None], Tensor]
"""Gives the parameter of a name, or a region of it."""


class Checkpoint(ABC):
    """A directory whose headers have been read and found to be one whole model.

    Attributes:
        directory: where it lies.
        config: the model's shape.
        dtype: what the weights are stored in.
        file_count: number of files that hold weights.
        format: the name of the format.
    """

    directory: Path
    config: ModelConfig
    dtype: torch.dtype
    file_count: int
    format: str

    @property
    def weight_bytes(self) -> int:
        """Size of the weights."""
        return self.config.parameter_count * self.dtype.itemsize

    def read(
        self,
        name: str,
        region: Region | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """One parameter under its name in `Transformer`, or a region of it.

        On a CPU the result is mapped from disk where one file holds it as it is, in that dtype;
        what has to be put together from several, or in another order, is copied straight into its
        final place. Nothing around a region is read.
        """
        parts, dimension = self.parts(name, region)
        dtype = dtype or self.dtype
        if len(parts) == 1:
            return parts[0].to(device, dtype)
        shape = list(parts[0].shape)
        widths = [part.shape[dimension] for part in parts]
        shape[dimension] = sum(widths)
        whole = torch.empty(shape, dtype=dtype, device=device)
        for target, part in zip(whole.split(widths, dimension), parts, strict=True):
            target.copy_(part)
        return whole

    @abstractmethod
    def parts(self, name: str, region: Region | None) -> tuple[list[Tensor], int]:
        """What the files hold of a region, and the dimension along which to put it together."""


def reader(tensors: Mapping[str, Tensor]) -> Read:
    """Makes a state dict readable as a checkpoint is."""

    def read(name: str, region: Region | None = None) -> Tensor:
        tensor = tensors[name].detach()
        return tensor if region is None else tensor[region]

    return read


def parameter_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Name and shape of every parameter of a model."""
    with torch.device("meta"):
        return {name: weight.shape for name, weight in Transformer(config).named_parameters()}


def differences(
    expected: Mapping[str, Sequence[int]], found: Mapping[str, Tensor], where: str = ""
) -> list[str]:
    """How named tensors differ from the expected shapes: a phrase for each kind, the first few
    names and a count."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and list(found[name].shape) != list(shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshapen}
    return [
        f"{len(names)} {kind}{where}: {first_few(names)}" for kind, names in kinds.items() if names
    ]


def first_few(names: Collection[str]) -> str:
    """Three names and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(list(names)[:3]) + more


def check_weights(tensors: Mapping[str, Tensor]) -> None:
    """Refuses weights that are no floating-point numbers, by a CheckpointError."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{name} holds {tensor.dtype}; expected floating-point numbers")


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """A directory to write to, which takes the place of `path` once all is written.

    Raises:
        CheckpointError: `path` exists and is not empty; nothing is ever overwritten.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise CheckpointError(f"{path} exists; choose a new directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent))
    try:
        yield beside
        beside.chmod(0o755)  # temporary ones, and safetensors files, are their owner's alone
        for file in beside.iterdir():
            file.chmod(0o644)
        if path.exists():
            path.rmdir()
        beside.rename(path)
    except BaseException:
        shutil.rmtree(beside)
        raise
