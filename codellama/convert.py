"""The command that rewrites a checkpoint in another format: `python -m codellama.convert`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from codellama.cli import log, progress_bar, run, user_path
from codellama.errors import CheckpointError, RequestError
from codellama.text.tokenizer import TOKENIZER
from codellama.weights import huggingface, meta
from codellama.weights.checkpoint import Checkpoint, new_directory
from codellama.weights.downloads import write_checklist
from codellama.weights.loading import load_model, load_tokenizer, open_checkpoint, torch_dtype

FORMATS = ("meta", "hf", "int8", "int4")


@dataclass(frozen=True)
class Conversion:
    """What to write from what.

    Args:
        src: checkpoint directory in any of the formats.
        dst: directory to make.
        to: meta, hf, int8 or int4.
        shards: number of Meta's files; without it, as many as src has, or 1 if it is not Meta's.
        dtype: bfloat16, float16 or float32; without it, that of src.
        quiet: print nothing but errors.
    """

    src: str
    dst: str
    to: str
    shards: int | None = None
    dtype: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.to not in FORMATS:
            raise RequestError(f"--to is {self.to!r}; expected one of {', '.join(FORMATS)}")
        if self.to != "meta" and self.shards is not None:
            raise RequestError(f"--shards counts Meta's files; leave it out with --to {self.to}")


def convert(conversion: Conversion) -> None:
    """Write a checkpoint anew: in another format, cut into more or fewer shards, or rounded.

    int4 loads at once, as small as it is; int8 is packed while it loads, on x86. The new directory
    appears when all of it is written; nothing is ever overwritten.
    """
    source = open_checkpoint(user_path(conversion.src))
    tokenizer = source.directory / TOKENIZER
    if tokenizer.is_file():
        load_tokenizer(source.directory, source.config.vocab_size)  # refuses one that does not fit
    elif not conversion.quiet:
        log(f"warning: {source.directory} has no {TOKENIZER} to copy")
    dtype = torch_dtype(conversion.dtype) or source.dtype
    with new_directory(user_path(conversion.dst)) as temporary:
        _write(source, temporary, dtype, conversion)
        if tokenizer.is_file():
            shutil.copyfile(tokenizer, temporary / TOKENIZER)
        if conversion.to == "meta":
            with progress_bar("md5", conversion.quiet) as progress:
                write_checklist(temporary, progress)


def _write(source: Checkpoint, target: Path, dtype: torch.dtype, conversion: Conversion) -> None:
    if conversion.to in ("int8", "int4"):
        from codellama.fast import quantized_checkpoint

        if isinstance(source, quantized_checkpoint.QuantizedCheckpoint):
            raise CheckpointError(
                f"{source.directory} is rounded to {source.format} already; convert the checkpoint "
                "that it was made from"
            )
        place = quantized_checkpoint.quantizing_weight_loader(conversion.to)
        with progress_bar("rounding", conversion.quiet) as progress:
            model = load_model(
                source.directory, "cpu", dtype, progress=progress, weight_loader=place
            )
        quantized_checkpoint.save_checkpoint(target, model, conversion.to)
        return
    read = partial(source.read, dtype=dtype)
    if conversion.to == "hf":
        with progress_bar("writing", conversion.quiet, "tensor") as progress:
            huggingface.save_checkpoint(target, source.config, read, progress=progress)
        return
    shards = source.file_count if source.format == "Meta" else 1
    if conversion.shards is not None:
        shards = conversion.shards
    with progress_bar("writing", conversion.quiet, "file") as progress:
        meta.save_checkpoint(target, source.config, read, shards, progress=progress)


if __name__ == "__main__":
    run(convert)
