"""The command that rewrites a checkpoint in another format: `python -m codellama.convert`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from torch import Tensor

from codellama.arguments import UsageError
from codellama.cli import progress_bar, run, torch_dtype
from codellama.text.tokenizer import TOKENIZER
from codellama.weights import huggingface, meta, quantized_checkpoint
from codellama.weights.checkpoint import Checkpoint, Read, Region, new_directory
from codellama.weights.downloads import write_checklist
from codellama.weights.loading import load_model, load_tokenizer, open_checkpoint
from codellama.weights.quantize import MODES, Quantized


def convert(
    *,
    src: str,
    dst: str,
    to: str,
    shards: int | None = None,
    dtype: str | None = None,
    quiet: bool = False,
) -> None:
    """Write a checkpoint anew: in another format, cut into more or fewer shards, or rounded.

    A rounded one loads at once, as small as it is. The new directory appears when all of it is
    written; nothing is ever overwritten.

    Args:
        src: checkpoint directory in any of the formats.
        dst: directory to make.
        to: meta, hf, int8 or int4.
        shards: number of Meta's files; without it, as many as src has, or 1 if it is not Meta's.
        dtype: bfloat16, float16 or float32; without it, that of src.
        quiet: print nothing but errors.
    """
    if to not in ("meta", "hf", *MODES):
        raise UsageError(f"--to is {to!r}; expected meta, hf, {' or '.join(MODES)}")
    if to != "meta" and shards is not None:
        raise UsageError(f"--shards counts Meta's files; leave it out with --to {to}")
    source = open_checkpoint(Path(src).expanduser())
    tokenizer = source.directory / TOKENIZER
    if tokenizer.is_file():
        load_tokenizer(source.directory, source.config.vocab_size)  # refuses one that does not fit
    elif not quiet:
        print(f"warning: {source.directory} has no {TOKENIZER} to copy", file=sys.stderr)
    kind = torch_dtype(dtype) or source.dtype
    if shards is None:
        shards = source.file_count if source.format == "Meta" else 1
    with new_directory(Path(dst).expanduser()) as beside:
        if to in MODES:
            with progress_bar("rounding", quiet) as progress:
                model = load_model(source.directory, "cpu", kind, progress, Quantized(to))
            quantized_checkpoint.save_checkpoint(beside, model, to)
        else:
            unit = "file" if to == "meta" else "tensor"
            with progress_bar("writing", quiet, unit) as progress:
                read = _in_dtype(source, kind)
                if to == "hf":
                    huggingface.save_checkpoint(beside, source.config, read, progress=progress)
                else:
                    meta.save_checkpoint(beside, source.config, read, shards, progress)
        if tokenizer.is_file():
            shutil.copyfile(tokenizer, beside / TOKENIZER)
        if to == "meta":
            with progress_bar("md5", quiet) as progress:
                write_checklist(beside, progress)


def _in_dtype(source: Checkpoint, dtype: torch.dtype) -> Read:
    def read(name: str, region: Region | None = None) -> Tensor:
        return source.read(name, region, dtype)

    return read


if __name__ == "__main__":
    run(convert)
