"""Whether a model and its KV cache fit into the memory that is free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from codellama.errors import RequestError
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.loading import LoadOptions, default_device, torch_device, torch_dtype

CONTROL_GROUP = Path("/sys/fs/cgroup")
BYTES_PER_WEIGHT = {"int8": 1.0, "int4": 0.625}
"""Of a rounded matrix; int4 has a scale and a zero point of 16 bits for each group of 32."""


def check_memory(
    checkpoint: Checkpoint, options: LoadOptions, tokens: int, devices: int = 1
) -> None:
    """Compares what a model needs with what is free.

    Args:
        tokens: that the KV cache will hold, in all rows together.
        devices: among which the model is cut, each with a memory of its own (but CPUs share one).

    Raises:
        RequestError: it does not fit; the text says what would.
    """
    device = torch_device(options.device) or default_device()
    free = free_bytes(device)
    weights, cache = needed_bytes(checkpoint, options, tokens)
    if free is not None and device.type == "cuda":
        free *= devices
    if free is None or weights + cache <= free:
        return
    smaller = {
        "int8 weights": replace(options, quantize="int8"),
        "int4 weights": replace(options, quantize="int4"),
        "int4 weights and an int8 KV cache": replace(options, quantize="int4", kv_dtype="int8"),
    }
    needs = {name: sum(needed_bytes(checkpoint, other, tokens)) for name, other in smaller.items()}
    fitting = [f"{name} ({_gb(bytes)})" for name, bytes in needs.items() if bytes <= free]
    if tokens and weights < free:
        fitting.append(f"{int((free - weights) / cache * tokens):,} tokens")
    raise RequestError(
        f"{checkpoint.directory} needs {_gb(weights)} for its weights and {_gb(cache)} for the KV "
        f"cache of {tokens:,} tokens, but {_gb(free)} are free on {device.type}; what would fit: "
        f"{', or '.join(fitting) or 'a smaller model'}"
    )


def needed_bytes(checkpoint: Checkpoint, options: LoadOptions, tokens: int) -> tuple[int, int]:
    """Bytes of the weights, and of the KV cache of `tokens` tokens."""
    config = checkpoint.config
    itemsize = (torch_dtype(options.dtype) or checkpoint).itemsize
    embedding = config.vocab_size * config.dim
    per_weight = BYTES_PER_WEIGHT.get(options.quantize or checkpoint.format, itemsize)
    weights = embedding * itemsize + int((config.parameter_count - embedding) * per_weight)
    return weights, config.kv_cache_bytes(tokens, 1 if options.kv_dtype == "int8" else itemsize)


def free_bytes(device: torch.device) -> int | None:
    """Memory that a new model can take; None where the system does not say.

    On Linux: what can be had without swapping, pages of mapped files included, within the limit of
    the control group.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = dict(line.split(":") for line in lines)
        free = 1024 * int(sizes["MemAvailable"].removesuffix("kB"))
    except (OSError, KeyError, ValueError):
        return None
    names = ("memory.max", "memory.current", "memory.stat")
    try:
        limit, used, statistics = ((CONTROL_GROUP / name).read_text() for name in names)
        cached_pages = dict(line.split() for line in statistics.splitlines())["file"]
        return min(free, int(limit) - int(used) + int(cached_pages))
    except (OSError, KeyError, ValueError):  # no group, or its limit is "max"
        return free


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB"
