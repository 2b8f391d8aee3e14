"""Meta's checkpoint format: `params.json` and `consolidated.00.pth` … `consolidated.NN.pth`.

Meta trained with tensor parallelism and saved what each process held, so a model of N shards is the
same set of names N times, most tensors cut into N equal slices. Reading joins the slices, in one
process and for any N.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from codellama.model.config import ConfigError, ModelConfig
from codellama.model.transformer import Transformer
from codellama.weights.downloads import CheckpointError, Progress, check_download

PARAMS = "params.json"
DERIVED = "rope.freqs"  # Llama 2's files carry this table; it follows from params.json
Shards = Sequence[Mapping[str, Tensor]]
_SHARD = re.compile(r"consolidated\.(\d+)\.pth")
_CUT = {
    **dict.fromkeys(("wq", "wk", "wv", "w1", "w3", "output"), 0),
    **dict.fromkeys(("wo", "w2", "tok_embeddings"), 1),
}


def cut_dimension(name: str) -> int | None:
    """The dimension along which Meta cuts the parameter `name` over shards; None: whole in each."""
    return _CUT.get(name.split(".")[-2])


@dataclass(frozen=True)
class MetaCheckpoint:
    """A directory in Meta's format whose headers have been read and found to be one whole model.

    `shards` map parameter names to their slices, which stay on disk until they are read.
    """

    directory: Path
    config: ModelConfig
    shards: Shards

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the weights are stored in."""
        return self.shards[0]["tok_embeddings.weight"].dtype

    def tensor(
        self, name: str, dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> Tensor:
        """One whole parameter; memory-mapped and not copied where the file holds it just so."""
        dimension = cut_dimension(name)
        if dimension is None or len(self.shards) == 1:
            return self.shards[0][name].to(device=device, dtype=dtype or self.dtype)
        slices = [shard[name] for shard in self.shards]
        shape = list(slices[0].shape)
        shape[dimension] *= len(slices)
        whole = torch.empty(shape, dtype=dtype or self.dtype, device=device)
        for target, part in zip(whole.chunk(len(slices), dimension), slices, strict=True):
            target.copy_(part)
        return whole


def read_checkpoint(directory: str | Path) -> MetaCheckpoint:
    """Reads the headers of a checkpoint, not its tensors, and checks that they fit together.

    Raises:
        CheckpointError: the directory, `params.json` or a shard is missing, damaged or not what its
            name says, or names and shapes are not those of the model that `params.json` describes.
    """
    directory = Path(directory)
    if not directory.is_dir():
        found = "a file" if directory.exists() else "no such directory"
        raise CheckpointError(
            f"{directory}: {found}; expected a directory with {PARAMS} and shards"
        )
    params = _read_params(directory / PARAMS)
    shards = [_read_shard(path) for path in _shard_paths(directory)]
    embedding = shards[0].get("tok_embeddings.weight")
    try:
        config = ModelConfig.from_params(params, None if embedding is None else len(embedding))
    except ConfigError as error:
        raise CheckpointError(f"{directory}: {error}") from None
    _check_tensors(directory, config, shards)
    return MetaCheckpoint(directory, config, shards)


def load_model(
    directory: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Transformer:
    """Builds the model of a checkpoint directory, weights in place, in evaluation mode.

    The model is built without memory, then given one parameter after the other. On a CPU a single
    shard in its own dtype stays mapped from disk and is read when it is used; otherwise memory
    grows to the weights' size plus one parameter's, however many shards there are.

    Args:
        directory: holds `params.json` and `consolidated.*.pth`.
        device: where the weights go; None picks CUDA, else MPS, else the CPU.
        dtype: None keeps the stored one.
        progress: told bytes done and bytes in all, after each parameter.

    Raises:
        CheckpointError: as `read_checkpoint`.
    """
    checkpoint = read_checkpoint(directory)
    device = torch.device(device) if device is not None else default_device()
    with torch.device("meta"):
        model = Transformer(checkpoint.config)
    expected = dict(model.named_parameters())
    total = sum(parameter.numel() for parameter in expected.values()) * checkpoint.dtype.itemsize
    done = 0
    for name, parameter in expected.items():
        owner, _, leaf = name.rpartition(".")
        weight = nn.Parameter(checkpoint.tensor(name, dtype, device))
        setattr(model.get_submodule(owner), leaf, weight)
        done += parameter.numel() * checkpoint.dtype.itemsize
        if progress:
            progress(done, total)
    return model.eval()


def save_checkpoint(
    directory: str | Path,
    config: ModelConfig,
    tensor: Callable[[str], Tensor],
    shards: int = 1,
    progress: Progress | None = None,
) -> None:
    """Writes `params.json` and shards as Meta would have cut them.

    Memory grows by one shard. Each file is written beside its place and renamed into it, so that a
    name never stands for half a file.

    Args:
        directory: is made if need be.
        tensor: gives the whole parameter of a name.
        shards: number of files.
        progress: told bytes done and bytes in all, after each shard.

    Raises:
        CheckpointError: the directory already holds a checkpoint, or `shards` does not divide what
            would have to be cut.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if taken := [*directory.glob("consolidated.*.pth"), *directory.glob(PARAMS)]:
        raise CheckpointError(f"{taken[0]} exists; choose a directory without a checkpoint")
    shapes = parameter_shapes(config)
    for name, shape in shapes.items():
        if (dimension := cut_dimension(name)) is not None and shape[dimension] % shards:
            raise CheckpointError(
                f"{name} {list(shape)} cannot be cut into {shards} equal slices; choose a number "
                f"of shards that divides {shape[dimension]}"
            )
    for number in range(shards):
        part = {name: _slice(tensor(name), name, number, shards) for name in shapes}
        with _beside(directory / f"consolidated.{number:02d}.pth") as path:
            torch.save(part, path)
        if progress:
            progress(number + 1, shards)
    with _beside(directory / PARAMS) as path:
        path.write_text(json.dumps(config.to_params(), indent=2) + "\n")


def _slice(whole: Tensor, name: str, number: int, shards: int) -> Tensor:
    """One shard's share, in memory of its own: torch.save would write all that a view looks
    into."""
    dimension = cut_dimension(name)
    part = whole if dimension is None else whole.chunk(shards, dimension)[number]
    return part.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` once all is written."""
    beside = path.with_name(path.name + ".part")
    yield beside
    beside.replace(path)


def parameter_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Name and shape of every parameter of a model."""
    with torch.device("meta"):
        return {name: weight.shape for name, weight in Transformer(config).named_parameters()}


def default_device() -> torch.device:
    """CUDA if there is one, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _read_params(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; it is part of Meta's download, fetch it again")
    check_download(path)
    try:
        params = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(params, dict):
        raise CheckpointError(f"{path} holds {type(params).__name__}; expected a JSON object")
    return params


def _shard_paths(directory: Path) -> list[Path]:
    """The shards in the order of their numbers, which must run from 0 without a gap."""
    numbered = {
        int(match[1]): path
        for path in directory.iterdir()
        if (match := _SHARD.fullmatch(path.name))
    }
    if not numbered:
        raise CheckpointError(
            f"{directory} has no shard; expected consolidated.00.pth and, for larger models, more"
        )
    missing = [number for number in range(max(numbered)) if number not in numbered]
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
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        # Files from before PyTorch 1.6 are no archives and can only be read whole.
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if call := re.search(r"GLOBAL (\S+)|class|reduce", str(error)):
            raise CheckpointError(
                f"{path} holds more than tensors: unpickling it could run code of whoever wrote it "
                f"({call[1] or call[0]}), so weights_only=True refused it; get the file from its "
                "publisher"
            ) from None
        raise CheckpointError(f"{path} is not a PyTorch file; download it again") from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path} is damaged ({reason}); download it again") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(tensor, Tensor) for tensor in tensors.values()
    ):
        raise CheckpointError(
            f"{path} does not hold a flat set of named tensors, as Meta's files do"
        )
    tensors.pop(DERIVED, None)
    return tensors


def _check_tensors(directory: Path, config: ModelConfig, shards: Shards) -> None:
    """Compares names, shapes and dtypes with the model that the configuration describes."""
    expected = parameter_shapes(config)
    _check_shard_count(directory, expected, shards)
    problems = []
    for number, shard in enumerate(shards):
        where = f" in shard {number:02d}" if len(shards) > 1 else ""
        missing = [name for name in expected if name not in shard]
        unexpected = [name for name in shard if name not in expected]
        misshapen = []
        for name in expected.keys() & shard.keys():
            shape = list(expected[name])
            if (dimension := cut_dimension(name)) is not None:
                shape[dimension] //= len(shards)
            if list(shard[name].shape) != shape:
                misshapen.append(f"{name} {list(shard[name].shape)} instead of {shape}")
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("mis-shaped", sorted(misshapen)),
        ):
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                problems.append(f"{len(names)} {kind}{where}: {', '.join(names[:3])}{more}")
    if problems:
        raise CheckpointError(
            f"{directory}: the tensors are not those of the model in {PARAMS} "
            f"({'; '.join(problems)}); the files belong to different models, or one is damaged"
        )
    dtypes = Counter(tensor.dtype for shard in shards for tensor in shard.values())
    if odd := [dtype for dtype in dtypes if not dtype.is_floating_point]:
        raise CheckpointError(f"{directory}: weights of {odd[0]}; expected floating-point numbers")


def _check_shard_count(directory: Path, expected: Mapping[str, torch.Size], shards: Shards) -> None:
    """The slices' width says how many shards there once were, if all of them agree."""
    implied = set()
    for name, tensor in shards[0].items():
        dimension = cut_dimension(name)
        if name in expected and dimension is not None:
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
