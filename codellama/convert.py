"""The command that rewrites a checkpoint in another format: `python -m codellama.convert`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from codellama.cli import log, progress_bar, run, user_path
from codellama.errors import CheckpointError, RequestError, check_fields, choice
from codellama.text.tokenizer import TOKENIZER
from codellama.weights.checkpoint import Checkpoint, new_directory
from codellama.weights.downloads import write_checklist
from codellama.weights.huggingface_tokenizer import tokenizer_files
from codellama.weights.huggingface_writing import write_huggingface
from codellama.weights.loading import load_model, load_tokenizer, open_checkpoint, torch_dtype
from codellama.weights.lora import with_lora
from codellama.weights.meta import write_meta


@dataclass(frozen=True)
class ConvertArguments:
    """What to write from what.

    Args:
        src: checkpoint directory in any of the formats.
        dst: directory to make.
        to: meta, hf, int8 or int4.
        lora: adapters in PEFT's format to merge into it, as `A` or `[A, B]`.
        shards: number of Meta's files; without it, as many as src has, or 1 if it is not Meta's.
        dtype: bfloat16, float16 or float32; without it, that of src.
        quiet: print nothing but errors.
    """

    src: str
    dst: str
    to: str = choice(among=("meta", "hf", "int8", "int4"))
    lora: tuple[str, ...] = ()
    shards: int | None = None
    dtype: str | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        check_fields(self, RequestError, "--")
        if self.to != "meta" and self.shards is not None:
            raise RequestError(f"--shards counts Meta's files; leave it out with --to {self.to}")


def convert(arguments: ConvertArguments) -> None:
    """Write a checkpoint anew: in another format, in more or fewer shards, or quantized.

    int4 loads at once at its file size; on x86, int8 is repacked while loading. The new directory
    appears when all of it is written; nothing is ever overwritten.
    """
    source = open_checkpoint(user_path(arguments.src))
    if arguments.lora:
        source = with_lora(source, [user_path(adapter) for adapter in arguments.lora])
    tokenizer = None
    if (source.directory / TOKENIZER).is_file():
        tokenizer = load_tokenizer(source.directory, source.config.vocab_size)
    elif not arguments.quiet:
        log(f"warning: {source.directory} has no {TOKENIZER} to copy")
    dtype = torch_dtype(arguments.dtype) or source.dtype
    with new_directory(user_path(arguments.dst)) as temporary:
        _write(source, temporary, dtype, arguments)
        if tokenizer:
            files = tokenizer_files(tokenizer) if arguments.to == "hf" else tokenizer.files
            for name, content in files.items():
                (temporary / name).write_bytes(content)
        if arguments.to == "meta":
            with progress_bar("md5", arguments.quiet) as progress:
                write_checklist(temporary, progress)


def _write(source: Checkpoint, target: Path, dtype: torch.dtype, given: ConvertArguments) -> None:
    if given.to in ("int8", "int4"):
        from codellama.fast import quantized_checkpoint as quantized
        from codellama.fast.quantization import quantizing_weight_loader

        if isinstance(source, quantized.QuantizedCheckpoint):
            raise CheckpointError(
                f"{source.directory} is quantized to {source.format} already; convert the "
                "checkpoint that it was made from"
            )
        loader = quantizing_weight_loader(given.to)
        with progress_bar("quantizing", given.quiet) as progress:
            model = load_model(
                source, "cpu", dtype, mmap=True, progress=progress, weight_loader=loader
            )
        quantized.save_checkpoint(target, model, given.to)
        return
    read = partial(source.read, dtype=dtype)
    if given.to == "hf":
        with progress_bar("writing", given.quiet, "tensor") as progress:
            write_huggingface(target, source.config, read, progress=progress)
        return
    shards = source.file_count if source.format == "Meta" else 1
    with progress_bar("writing", given.quiet, "file") as progress:
        shards = shards if given.shards is None else given.shards
        write_meta(target, source.config, read, shards, progress=progress)


if __name__ == "__main__":
    run(convert)
