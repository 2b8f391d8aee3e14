"""What a checkpoint is in any format on disk: one whole model, read parameter by parameter."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import shutil
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from codellama.errors import CheckpointError
from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import Tokenizer

PARAMS = "params.json"
SHARD = "consolidated.{:02d}.pth"
Slices = tuple[slice, ...]
"""A part of a tensor: a range of indices for each of its dimensions."""

Read = Callable[[str, Slices | None], Tensor]
"""Gives the parameter of a name, or a slice of it."""

COMPUTED = {torch.float32, torch.bfloat16, torch.float16}
"""The dtypes that models compute in."""

_PREFIXES = ("_orig_mod.", "module.")
"""What torch.compile and data parallelism put in front of all names."""
_ROTARY_TABLE = re.compile(r"(.*\.)?(rope\.freqs|rotary_emb\.inv_freq)")
"""Buffers of Llama 1 and 2 and of old releases of transformers; they follow from the config."""


class Checkpoint(ABC):
    """A directory whose headers have been read and found to be one whole model."""

    format: str
    """The name of the format."""
    directory: Path
    config: ModelConfig
    file_count: int
    """Files that hold weights."""
    dtypes: set[torch.dtype]
    """What the weights are stored in."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of all weights.

        Raises:
            CheckpointError: they have several, or one that models do not compute in.
        """
        if len(self.dtypes) > 1 or not self.dtypes <= COMPUTED:
            raise CheckpointError(
                f"{self.directory} has weights of {dtype_names(self.dtypes)}; choose one dtype for "
                "all: float32, bfloat16 or float16 (codellama.convert writes them in one)"
            )
        return next(iter(self.dtypes))

    @property
    def itemsize(self) -> int:
        """Bytes of a number in the widest of the dtypes."""
        return max(dtype.itemsize for dtype in self.dtypes)

    @property
    def weight_bytes(self) -> int:
        """Size of the weights, all in the widest of the dtypes."""
        return self.config.parameter_count * self.itemsize

    def read(
        self,
        name: str,
        slices: Slices | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        mmap: bool = True,
    ) -> Tensor:
        """One parameter under its name in `Transformer`, or slices of it, contiguous.

        Parts from several files are copied straight into the final memory. Meta's and Hugging
        Face's formats read nothing but the slices.

        Args:
            mmap: leave it in the mapped file, if it is for a CPU and one file holds it as it is, in
                that dtype; False gives it memory of its own.

        Raises:
            CheckpointError: float16 was asked for and cannot hold a number; or no dtype was, and
                there is no `dtype` of all weights.
        """
        parts, dimension = self.parts(name, slices)
        dtype = dtype or self.dtype
        if len(parts) == 1:
            tied = name == "output.weight" and self._is_tied(parts[0], slices)
            whole = parts[0].to(device, dtype, copy=tied or not mmap).contiguous()
        else:
            shape = list(parts[0].shape)
            widths = [part.shape[dimension] for part in parts]
            shape[dimension] = sum(widths)
            whole = torch.empty(shape, dtype=dtype, device=device)
            for target, part in zip(whole.split(widths, dimension), parts, strict=True):
                target.copy_(part)
        narrowed = dtype == torch.float16 and any(part.dtype != dtype for part in parts)
        if narrowed and whole.isinf().any():
            raise CheckpointError(
                f"{self.directory}: {name} has numbers beyond those of float16, which end at "
                "65,504; choose bfloat16 or float32"
            )
        return whole

    def _is_tied(self, output: Tensor, slices: Slices | None) -> bool:
        """Whether the output matrix lies in the embedding's memory; the two are trained apart."""
        [embedding, *_], _ = self.parts("tok_embeddings.weight", slices)
        return output.data_ptr() == embedding.data_ptr()

    @abstractmethod
    def parts(self, name: str, slices: Slices | None) -> tuple[list[Tensor], int]:
        """What each file holds of a parameter's slices, and the dimension to join them along."""


def reader(tensors: Mapping[str, Tensor]) -> Read:
    """Lets a state dict be read as a checkpoint is."""

    def read(name: str, slices: Slices | None = None) -> Tensor:
        tensor = tensors[name].detach()
        return tensor if slices is None else tensor[slices]

    return read


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the prefixes that wrappers put in front of all names, which a warning
    tells, and without tables of rotary frequencies."""
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            warnings.warn(f"leaving out {prefix} in front of all names of weights", stacklevel=3)
            return plain_names({name[len(prefix) :]: one for name, one in tensors.items()})
    return {name: one for name, one in tensors.items() if not _ROTARY_TABLE.fullmatch(name)}


def parameter_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Name and shape of every parameter of a model."""
    with torch.device("meta"):
        return {name: weight.shape for name, weight in Transformer(config).named_parameters()}


def differences(
    expected: Mapping[str, Sequence[int]], found: Mapping[str, Tensor], where: str = ""
) -> list[str]:
    """How tensors differ from the expected shapes: of each kind a count and the first few names."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and list(found[name].shape) != list(shape)
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshapen}
    phrases = []
    for kind, names in kinds.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        if names:
            phrases.append(f"{len(names)} {kind}{where}: {', '.join(names[:3])}{more}")
    return phrases


def check_tensors(
    described: Path, expected: Mapping[str, Sequence[int]], files: Sequence[Mapping[str, Tensor]]
) -> set[torch.dtype]:
    """Compares each weight file with the tensors that the model in the file `described` needs.

    Returns:
        The dtypes of the tensors.

    Raises:
        CheckpointError: names or shapes differ, or a tensor holds no floating-point numbers.
    """
    problems = []
    for number, tensors in enumerate(files):
        where = f" in shard {number:02d}" if len(files) > 1 else ""
        problems += differences(expected, tensors, where)
    if problems:
        raise CheckpointError(
            f"{described.parent}: the tensors are not those of the model in {described.name} "
            f"({'; '.join(problems)}); the files belong to different models, or one is damaged"
        )
    dtypes = {tensor.dtype for tensors in files for tensor in tensors.values()}
    if not all(dtype.is_floating_point for dtype in dtypes):
        found = dtype_names(dtypes)
        raise CheckpointError(f"{described.parent} holds {found}; expected floating-point numbers")
    return dtypes


def dtype_names(dtypes: Collection[torch.dtype]) -> str:
    """Names joined by "and": `bfloat16 and float32`."""
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def save_checkpoint(
    directory: str | Path, model: Transformer, tokenizer: Tokenizer | None = None
) -> None:
    """Writes a model as a checkpoint directory in Meta's format, in one shard.

    Args:
        directory: where to write; must not exist, or be empty.
        tokenizer: its files are written as well.

    Raises:
        CheckpointError: the directory is taken, the disk is full, or the model has other layers
            than `Transformer` builds, such as quantized ones.
    """
    weights = plain_names(model.state_dict())
    if problems := differences(parameter_shapes(model.config), weights):
        raise CheckpointError(
            f"this model is not written ({'; '.join(problems)}); merge or undo "
            "what has changed its layers"
        )
    with new_directory(directory) as scratch:
        write_shard(scratch / SHARD.format(0), weights)
        write_json(scratch / PARAMS, model.config.to_params())
        for name, content in (tokenizer.files if tokenizer else {}).items():
            (scratch / name).write_bytes(content)


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors to a file of `torch.save`, each in memory of its own: it would write all of
    the memory that a view lies in."""
    alone = {name: one.detach().cpu().contiguous() for name, one in tensors.items()}
    for name, one in alone.items():
        if one.untyped_storage().nbytes() != one.nbytes:
            alone[name] = one.clone()
    try:
        torch.save(alone, path)
    except RuntimeError as error:  # the type that PyTorch has for it
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path} cannot be written ({reason}); is the disk full?") from error
    del alone
    gc.collect()  # torch.save leaves a cycle that holds the tensors


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes an object with a key a line."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def new_directory(path: str | Path) -> Iterator[Path]:
    """A scratch directory to write to, whose files appear in `path` once all of them are written.

    Raises:
        CheckpointError: `path` exists and is not an empty directory, for nothing is ever
            overwritten; or the disk is full.
    """
    path = Path(path)
    with contextlib.suppress(OSError, RuntimeError):
        path = path.resolve()  # the directory that a link leads to
    if path.is_symlink():
        raise CheckpointError(f"{path} is a link to itself; choose a new directory")
    exists = path.exists()
    if exists and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path} exists; choose a new directory")
    above = next(parent for parent in (path, *path.parents) if parent.exists())
    scratch = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".part", dir=above))
    try:
        yield scratch
        scratch.chmod(0o755)  # temporary directories and safetensors files are private at first
        for file in scratch.iterdir():
            file.chmod(0o644)
        if exists:  # and may be a mount point, or somebody's current directory
            for file in scratch.iterdir():
                file.rename(path / file.name)
            scratch.rmdir()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.rename(path)
    except BaseException as error:
        shutil.rmtree(scratch)
        if isinstance(error, SafetensorError):
            raise CheckpointError(f"{path} cannot be written ({error})") from error
        raise
