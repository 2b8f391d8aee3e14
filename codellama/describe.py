"""The command that says what a checkpoint directory holds: `python -m codellama.describe`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from codellama.cli import checkpoint_directory, progress_bar, run
from codellama.errors import CheckpointError
from codellama.text.tokenizer import TOKENIZER
from codellama.weights.checkpoint import Checkpoint, dtype_names, parameter_shapes
from codellama.weights.downloads import CHECKLIST, verify_checklist
from codellama.weights.loading import load_tokenizer, open_checkpoint
from codellama.weights.memory import human_bytes
from codellama.weights.variants import matching

CONTEXTS = (4096, 16384, 100_000)


@dataclass(frozen=True)
class DescribeArguments:
    """What to describe.

    Args:
        ckpt: checkpoint directory; without it, the small one that comes with the package.
        md5: compare the files with checklist.chk, where there is one; this reads all of them.
        check: read all weights, and name the first that holds NaN or infinity.
        json: print one JSON object instead.
    """

    ckpt: str | None = None
    md5: bool = True
    check: bool = False
    json: bool = False


def describe(arguments: DescribeArguments) -> None:
    """Say what a checkpoint is and what it needs, from its headers; where there is a checklist.chk,
    all files are then read and compared with it (--md5 false leaves that out).

    Exit code 2 if the files are not one whole checkpoint, or differ from their checklist.
    """
    directory = checkpoint_directory(arguments.ckpt)
    checkpoint = open_checkpoint(directory)
    facts = describe_checkpoint(checkpoint)
    if not arguments.json:
        for name, value in facts.items():
            label = name.replace("_bytes", "").replace("_", " ")
            print(f"{label:<26} {_readable(name, value)}", flush=True)
    verdicts = {}
    if arguments.md5:
        with progress_bar("md5") as progress:
            verdicts = verify_checklist(directory, progress)
    if arguments.json:
        print(json.dumps({**facts, "md5": verdicts}))
    else:
        for name, verdict in verdicts.items():
            print(f"{'md5 of ' + name:<26} {verdict}")
        if arguments.md5 and not verdicts:
            print(f"{'md5':<26} not compared: there is no {CHECKLIST}")
    if arguments.check:
        _check_weights(checkpoint)
    if wrong := [name for name, verdict in verdicts.items() if verdict != "ok"]:
        raise CheckpointError(f"{directory}: not as in checklist.chk: {', '.join(wrong)}")


def _check_weights(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a weight that is NaN or infinite."""
    names = list(parameter_shapes(checkpoint.config))
    with progress_bar("checking", unit="tensor") as progress:
        for number, name in enumerate(names, 1):
            parts, _ = checkpoint.parts(name, None)
            numbers = (part.float() if part.itemsize == 1 else part for part in parts)
            if not all(part.isfinite().all() for part in numbers):
                raise CheckpointError(
                    f"{checkpoint.directory}: {name} holds NaN or infinity; download it again"
                )
            progress(number, len(names))


def describe_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is known of a checkpoint without reading its tensors; sizes in bytes and tokens."""
    config = checkpoint.config
    variants = matching(config)
    infilling = "yes"
    if not (checkpoint.directory / TOKENIZER).exists():
        infilling = f"unknown, since {TOKENIZER} is missing"
    elif not load_tokenizer(checkpoint.directory, config.vocab_size).can_infill:
        infilling = "no: the vocabulary has no infilling tokens"
    elif any(variant.infilling == "unstated" for variant in variants):
        infilling = "the vocabulary has the tokens, but the model may not be trained with them"
    chats = [f"as {variant.name}: {variant.chat} format" for variant in variants if variant.chat]
    return {
        "model": " or ".join(variant.name for variant in variants) or "not a published one",
        "parameters": config.parameter_count,
        "format": checkpoint.format,
        "files": checkpoint.file_count,
        "dtype": dtype_names(checkpoint.dtypes),
        "layers": config.n_layers,
        "width": config.dim,
        "hidden_width": config.hidden_dim,
        "heads": config.n_heads,
        "key_value_heads": config.n_kv_heads,
        "vocabulary": config.vocab_size,
        "rope_theta": config.rope_theta,
        "context": config.max_seq_len,
        "infilling": infilling,
        "chat": " or ".join(chats) or "no",
        "weights_bytes": checkpoint.weight_bytes,
        **{
            f"kv_cache_bytes_at_{tokens}_tokens": config.kv_cache_bytes(tokens, checkpoint.itemsize)
            for tokens in CONTEXTS
        },
    }


def _readable(name: str, value: Any) -> str:
    if "bytes" in name:
        return human_bytes(value)
    return f"{value:,.0f}" if isinstance(value, (int, float)) else value


if __name__ == "__main__":
    run(describe)
