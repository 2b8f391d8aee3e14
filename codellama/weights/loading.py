"""From a checkpoint directory to a model and a tokenizer in memory."""

from __future__ import annotations

from pathlib import Path

import torch

from codellama.model.transformer import Transformer
from codellama.text.tokenizer import TOKENIZER, Tokenizer, TokenizerError
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.downloads import CheckpointError, Progress, check_download
from codellama.weights.huggingface import HuggingFaceCheckpoint
from codellama.weights.huggingface_config import CONFIG
from codellama.weights.layout import Layout, PackedLinear
from codellama.weights.meta import PARAMS, MetaCheckpoint
from codellama.weights.quantized_checkpoint import FILE, QuantizedCheckpoint


def open_checkpoint(directory: str | Path) -> Checkpoint:
    """Reads the headers of a checkpoint in any format, not its tensors, and checks that they fit
    together.

    Raises:
        CheckpointError: there is no such directory, or it is not one whole checkpoint.
    """
    directory = Path(directory)
    if not directory.is_dir():
        found = "a file" if directory.exists() else "no such directory"
        raise CheckpointError(
            f"{directory}: {found}; expected a directory with {PARAMS} and shards, or with "
            f"{CONFIG} and safetensors"
        )
    if (directory / CONFIG).exists() and not (directory / PARAMS).exists():
        return HuggingFaceCheckpoint(directory)
    if (directory / FILE).exists():
        return QuantizedCheckpoint(directory)
    return MetaCheckpoint(directory)


def load_model(
    directory: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    layout: Layout | None = None,
) -> Transformer:
    """Builds the model of a checkpoint directory, weights in place, in evaluation mode.

    The model is built without memory, then given one parameter after the other. On a CPU a
    parameter that one file holds just so, in its own dtype, stays mapped from disk and is read when
    it is used; otherwise memory grows to the weights' size plus one parameter's, however many files
    there are.

    Args:
        directory: a checkpoint.
        device: where the weights go; None picks CUDA, else MPS, else the CPU.
        dtype: None keeps the stored one, if there is one for all weights.
        progress: told bytes done and bytes in all, after each parameter.
        layout: how to hold the model; None: whole.

    Raises:
        CheckpointError: as `open_checkpoint` and `Checkpoint.read`; or the checkpoint is rounded
            already, and another layout or dtype was asked for.
    """
    checkpoint = open_checkpoint(directory)
    device = torch.device(device) if device is not None else default_device()
    if isinstance(checkpoint, QuantizedCheckpoint):
        if layout is not None or dtype not in (None, checkpoint.dtype):
            raise CheckpointError(
                f"{directory} is rounded to {checkpoint.mode} for {checkpoint.dtype}, in one "
                "process; load the checkpoint that it was made from instead"
            )
        return checkpoint.model(device).eval()
    dtype = dtype or checkpoint.dtype
    with torch.device("meta"):
        model = Transformer(checkpoint.config)
    layout = layout or Layout()
    layout.prepare(model)
    total = checkpoint.config.parameter_count * dtype.itemsize
    done = 0
    for name, parameter in dict(model.named_parameters()).items():
        owner, _, leaf = name.rpartition(".")
        share = checkpoint.read(name, layout.region(parameter), dtype, device).contiguous()
        layout.place(model.get_submodule(owner), leaf, share)
        done += parameter.numel() * dtype.itemsize
        if progress:
            progress(done, total)
    layout.finish()
    return model.eval()


def load_tokenizer(directory: str | Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a checkpoint directory whose model has `vocab_size` ids.

    Raises:
        CheckpointError: it is missing, damaged, or has another number of ids.
    """
    path = Path(directory) / TOKENIZER
    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing; it is part of Meta's download, in the model's folder or next to "
            "it: copy it there"
        )
    check_download(path)
    try:
        tokenizer = Tokenizer(path)
    except TokenizerError as error:
        raise CheckpointError(str(error)) from None
    if tokenizer.vocab_size != vocab_size:
        raise CheckpointError(
            f"{path} has {tokenizer.vocab_size} ids, but the model has {vocab_size}; it is "
            "probably the tokenizer of another variant (32016: 7B and 13B base and Instruct, and "
            "70B; 32000: 7B and 13B Python, and 34B)"
        )
    return tokenizer


def weight_bytes(model: Transformer) -> int:
    """Memory that a model's parameters take, rounded and packed ones included."""
    tensors = [*model.parameters(), *model.buffers()]
    opaque = (module.opaque_bytes for module in model.modules() if isinstance(module, PackedLinear))
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors) + sum(opaque)


def default_device() -> torch.device:
    """CUDA if there is one, else MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
