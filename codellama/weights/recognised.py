"""What people name in place of a checkpoint directory, and what to do about each."""

from __future__ import annotations

from pathlib import Path

from codellama.errors import CheckpointError

RECOGNISED = (
    (
        "adapter_config.json",
        "is a LoRA adapter, which changes a model: name the directory of the model that it was "
        "trained on, and the adapter with --lora",
    ),
    ("*.gguf", "is GGUF, the format of llama.cpp; download the model's original files"),
    (
        "*.distcp",
        "is a training state of torch.distributed.checkpoint; turn it into one file with `python "
        "-m torch.distributed.checkpoint.format_utils dcp_to_torch`, or save the model's weights",
    ),
    ("snapshots/*/*", "is the hub's cache of a model; name the directory {found.parent}"),
    (
        "quantize_config.json",
        "holds weights quantized by GPTQ, which are not read; download the model in 16 bits",
    ),
    (
        "consolidated.*.pth",
        "has {found.name} but no params.json; fetch it from the same download",
    ),
    (
        "model-*-of-*.safetensors",
        "has {found.name}, but lacks config.json or model.safetensors.index.json; fetch them from "
        "the same download",
    ),
    (
        "*.safetensors",
        "has {found.name}; expected config.json and model.safetensors, from the same download",
    ),
    (
        "pytorch_model*.bin",
        "has {found.name}; expected config.json and pytorch_model.bin, or all of its parts and "
        "pytorch_model.bin.index.json, from the same download",
    ),
)
"""Files by which a directory is recognised, and what to say of it; the first that matches counts.
`{found}` is the path of the first such file."""


def not_a_checkpoint(path: Path, otherwise: str) -> CheckpointError:
    """The error for a directory, or a file, from which no model can be loaded.

    Args:
        otherwise: what to say where nothing is recognised.
    """
    for pattern, sentence in RECOGNISED:
        paths = [path] if path.is_file() and path.match(pattern) else sorted(path.glob(pattern))
        if paths:
            return CheckpointError(f"{path} {sentence.format(found=paths[0])}")
    return CheckpointError(f"{path} {otherwise}")
