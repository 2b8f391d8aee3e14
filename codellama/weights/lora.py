"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685) in the format of the package PEFT.

An adapter holds, for some matrices W of a model, a change of low rank: `W + alpha / r * B @ A`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from codellama.errors import CheckpointError
from codellama.weights.checkpoint import (
    Checkpoint,
    Slices,
    new_directory,
    parameter_shapes,
    write_json,
)
from codellama.weights.downloads import read_json, read_safetensors, read_torch
from codellama.weights.huggingface import (
    half_split_to_interleaved,
    hugging_face_name,
    interleaved_to_half_split,
    is_rotated,
)

ADAPTER_CONFIG = "adapter_config.json"
_REQUIRED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "use_dora": (None, False),
    "bias": (None, "none"),
}
_REQUIRED |= dict.fromkeys(("modules_to_save", "alpha_pattern"), (None, [], {}))
_REQUIRED |= {"fan_in_fan_out": (None, False), "init_lora_weights": (None, True, False, "gaussian")}
"""Settings that mean the change above; other initial values change W as well."""


class LoraCheckpoint(Checkpoint):
    """A checkpoint whose matrices are changed, one by one, as they are read."""

    def __init__(self, base: Checkpoint, changes: dict[str, list[tuple[Tensor, Tensor]]]) -> None:
        self.format, self.directory, self.config = base.format, base.directory, base.config
        self.file_count, self.dtypes = base.file_count, base.dtypes
        self._base, self._changes = base, changes

    def parts(self, name: str, slices: Slices | None) -> tuple[list[Tensor], int]:
        """As `Checkpoint.parts`; a changed matrix is one part, in float32."""
        if name not in self._changes:
            return self._base.parts(name, slices)
        whole = self._base.read(name, slices, dtype=torch.float32, mmap=False)
        rows, columns, *_ = (*(slices or ()), slice(None), slice(None))
        for b, a in self._changes[name]:
            whole += b[rows] @ a[:, columns]
        return [whole], 0


def with_lora(base: Checkpoint, directories: Sequence[str | Path]) -> Checkpoint:
    """The checkpoint of a model with adapters merged into its matrices.

    Args:
        directories: of the adapters; their changes add up.

    Raises:
        CheckpointError: a file is missing or damaged, an adapter is of another kind, or for another
            model, or the checkpoint is quantized.
    """
    if base.format in ("int8", "int4"):
        raise CheckpointError(
            f"{base.directory} is quantized; adapters need the checkpoint that it was made from"
        )
    changes: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for directory in directories:
        for name, change in _read_adapter(Path(directory).expanduser(), base).items():
            changes.setdefault(name, []).append(change)
    return LoraCheckpoint(base, changes)


def save_adapter(
    directory: str | Path, base: Checkpoint, changes: Mapping[str, tuple[Tensor, Tensor]]
) -> None:
    """Writes an adapter in PEFT's format to a new directory.

    Args:
        base: the checkpoint that it changes.
        changes: by the name of a parameter in `Transformer`, B (out, rank) and A (rank, in), all of
            one rank; the matrix becomes W + B A.

    Raises:
        CheckpointError: the directory is taken.
    """
    tensors, places, rank = dict[str, Tensor](), set[str](), 0
    for name, (b, a) in changes.items():
        place = hugging_face_name(name).removesuffix(".weight")
        b = interleaved_to_half_split(b, base.config.head_dim) if is_rotated(name) else b
        for letter, matrix in (("A", a), ("B", b)):
            stem = f"base_model.model.{place}.lora_{letter}"
            tensors[f"{stem}.weight"] = matrix.detach().cpu().contiguous()
        places.add(place.rpartition(".")[2])
        rank = len(a)
    settings = {
        "base_model_name_or_path": str(base.directory),
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_alpha": rank,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(places),
        "task_type": "CAUSAL_LM",
    }
    with new_directory(directory) as scratch:
        save_file(tensors, scratch / "adapter_model.safetensors", {"format": "pt"})
        write_json(scratch / ADAPTER_CONFIG, settings)


def _read_adapter(directory: Path, base: Checkpoint) -> dict[str, tuple[Tensor, Tensor]]:
    """By the name of each changed parameter `alpha / r * B`, in Meta's order of rows, and `A`."""
    path = directory / ADAPTER_CONFIG
    settings = read_json(path)
    for key, allowed in _REQUIRED.items():
        if settings.get(key) not in allowed:
            raise CheckpointError(
                f"{path}: {key} is {settings[key]!r}; only plain LoRA of linear layers is merged"
            )
    alpha = settings.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise CheckpointError(f"{path}: lora_alpha is {alpha!r}; expected a number")
    file = directory / "adapter_model.safetensors"
    tensors = read_safetensors(file)[0] if file.exists() else read_torch(file.with_suffix(".bin"))
    shapes = parameter_shapes(base.config)
    changes = {}
    for name, shape in shapes.items():
        stem = f"base_model.model.{hugging_face_name(name).removesuffix('.weight')}"
        a, b = (tensors.pop(f"{stem}.lora_{letter}.weight", None) for letter in "AB")
        if a is None or b is None:
            continue
        if a.dim() != 2 or b.shape != (shape[0], len(a)) or a.shape[1:] != shape[1:]:
            raise CheckpointError(
                f"{directory}: B {list(b.shape)} and A {list(a.shape)} do not change {name} "
                f"{list(shape)}; the adapter is for another model"
            )
        b = half_split_to_interleaved(b, base.config.head_dim) if is_rotated(name) else b
        scale = alpha / len(a) ** (0.5 if settings.get("use_rslora") else 1)
        changes[name] = b.float() * scale, a.float()
    if tensors or not changes:
        raise CheckpointError(
            f"{directory} changes {', '.join(sorted(tensors)[:3]) or 'nothing'}; only LoRA of the "
            "attention's and feed-forward's matrices and of lm_head is merged"
        )
    return changes
