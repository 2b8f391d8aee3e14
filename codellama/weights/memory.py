"""Whether a model and its KV cache fit into the memory that is free."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch

from codellama.errors import RequestError
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.loading import LoadOptions, default_device, torch_device, torch_dtype

CONTROL_GROUP = Path("/sys/fs/cgroup")
BYTES_PER_WEIGHT = {"int8": 1.0, "int4": 0.625}
"""Of a quantized matrix; int4 has a scale and a zero point of 16 bits for each group of 32."""


def check_memory(
    checkpoint: Checkpoint, options: LoadOptions, tokens: int, devices: int = 1, fast: bool = True
) -> None:
    """Compares what a model needs with what is free.

    Args:
        tokens: that the KV cache will hold, in all rows together.
        devices: among which the model is sharded, each with its own memory (but CPUs share one).
        fast: as for `CodeLlama.load`.

    Raises:
        RequestError: it does not fit; the text says what would.
    """
    device = torch_device(options.device) or default_device()
    free = free_bytes(device)
    weights, cache = needed_bytes(checkpoint, options, tokens, fast=fast)
    if free is not None and device.type == "cuda":
        free *= devices
    if free is None or weights + cache <= free:
        return
    smaller = {
        "int8 weights": replace(options, quantize="int8"),
        "int4 weights": replace(options, quantize="int4"),
        "int4 weights and an int8 KV cache": replace(options, quantize="int4", kv_dtype="int8"),
    }
    if not fast or checkpoint.format in BYTES_PER_WEIGHT:
        smaller = {}  # such a model is not quantized
    needs = {name: sum(needed_bytes(checkpoint, other, tokens)) for name, other in smaller.items()}
    fitting = [f"{name} ({human_bytes(bytes)})" for name, bytes in needs.items() if bytes <= free]
    if device.type != "cpu" and weights + cache <= (free_bytes(torch.device("cpu")) or 0):
        fitting.append("the device cpu")
    if tokens and weights < free:
        fitting.append(f"{int((free - weights) / cache * tokens):,} tokens")
    raise RequestError(
        f"{checkpoint.directory} needs {human_bytes(weights)} for its weights and "
        f"{human_bytes(cache)} for the KV cache of {tokens:,} tokens, but {human_bytes(free)} are "
        f"free on {device.type}; what would fit: {', or '.join(fitting) or 'a smaller model'}"
    )


def needed_bytes(
    checkpoint: Checkpoint, options: LoadOptions, tokens: int, fast: bool = True
) -> tuple[int, int]:
    """Bytes of the weights, and of the KV cache of `tokens` tokens."""
    config = checkpoint.config
    itemsize = (torch_dtype(options.dtype) or checkpoint).itemsize
    embedding = config.vocab_size * config.dim
    form = options.quantize or checkpoint.format
    per_weight = BYTES_PER_WEIGHT.get(form, itemsize) if fast else itemsize
    weights = embedding * itemsize + int((config.parameter_count - embedding) * per_weight)
    cache = config.kv_cache_bytes(tokens, itemsize)
    if options.kv_dtype == "int8":  # each head's vector has a scale
        cache = config.kv_cache_bytes(tokens, 1) + cache // config.head_dim
    return weights, 2 * cache if options.compile else cache  # it moves into static buffers


def free_bytes(device: torch.device) -> int | None:
    """Memory that a new model can take; None where the system does not say.

    On Linux: what is there without swapping, mapped files included, within the control group.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = dict(line.split(":") for line in lines)
        free = 1024 * int(sizes["MemAvailable"].removesuffix("kB"))
    except (OSError, KeyError, ValueError):
        return None
    return min(free, _free_in_control_group(free))


def _free_in_control_group(otherwise: int) -> int:
    """What this process's control group (Linux, version 2) leaves it, pages of files aside."""
    try:
        own = re.search("^0::/(.*)", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
        group = CONTROL_GROUP / (own[1] if own else "")
        limit, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        statistics = (group / "memory.stat").read_text().splitlines()
        return int(limit) - int(used) + int(dict(map(str.split, statistics))["file"])
    except (OSError, KeyError, ValueError):  # no group, or its limit is "max"
        return otherwise


def human_bytes(count: float) -> str:
    """A number of bytes to three digits or so: `13.5 GB`."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
