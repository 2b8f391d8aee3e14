"""The command that times a model: `python -m codellama.benchmark --ckpt DIR`."""

from __future__ import annotations

import importlib.util
import json as json_
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from codellama.arguments import UsageError
from codellama.cli import (
    checkpoint_directory,
    human_bytes,
    load,
    peak_memory_bytes,
    run,
    torch_device,
)
from codellama.evaluation import speed
from codellama.evaluation.edit_speed import edit_speed
from codellama.weights import huggingface
from codellama.weights.huggingface_config import CONFIG
from codellama.weights.loading import default_device, open_checkpoint, weight_bytes


def benchmark(
    *,
    ckpt: str | None = None,
    prompt_tokens: int = 512,
    new_tokens: int = 32,
    batch: int = 1,
    ragged: bool = False,
    context: int | None = None,
    speculate: int = 0,
    repeats: int = 3,
    quantize: str | None = None,
    kv_dtype: str | None = None,
    pack: bool = False,
    compile: bool = False,
    against: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Time loading, prefill and decoding; medians of several runs after a warm-up.

    Meant for a machine that does nothing else. Rates are beside what the machine can do, measured
    in the same run: decoding reads every weight once a token, prefill multiplies by each once.

    Args:
        ckpt: checkpoint directory; without it, the small one that comes with the package.
        prompt_tokens: length of each prompt, of random tokens.
        new_tokens: tokens to generate for each; 2 or more.
        batch: prompts that run together.
        ragged: let their lengths rise evenly up to prompt_tokens.
        context: also time decoding with so many tokens behind it.
        speculate: also time an edit, once with so many tokens guessed at a time, once without.
        repeats: runs that each figure is the median of.
        quantize: int8 or int4: round the matrices.
        kv_dtype: int8: round the keys and values of past tokens.
        pack: put matrices of 16 or 8 bits into the order that the processor's library reads
            fastest; a billion weights take seconds more to load, then all is faster, above all
            several prompts and guessed tokens.
        compile: decode by compiled steps.
        against: transformers: also time that library, in the same process (extra `parity`).
        device: cpu, cuda, cuda:1, mps; without it, the best there is.
        dtype: bfloat16, float16 or float32; without it, that of the files.
        json: print one JSON object.
        quiet: show no progress.
    """
    for name, value, least in (
        ("prompt_tokens", prompt_tokens, 1),
        ("new_tokens", new_tokens, 2),
        ("batch", batch, 1),
        ("speculate", speculate, 0),
        ("repeats", repeats, 1),
        ("context", 1 if context is None else context, 1),
    ):
        if value < least:
            raise UsageError(f"--{name} is {value}; expected {least} or more")
    if against not in (None, "transformers"):
        raise UsageError(f"--against is {against!r}; expected transformers")
    if against and importlib.util.find_spec("transformers") is None:
        raise UsageError("--against transformers needs it: pip install 'codellama[parity]'")
    directory, place = checkpoint_directory(ckpt), torch_device(device) or default_device()
    started = time.perf_counter()
    llm = load(ckpt, device, dtype, quantize, kv_dtype, quiet, pack=pack, compile=compile)
    load_seconds = time.perf_counter() - started
    longest = llm.model.config.max_seq_len
    if max(prompt_tokens, context or 0) + new_tokens > longest:
        raise UsageError(
            f"the model's context holds {longest:,} tokens; take fewer in --prompt_tokens, "
            "--new_tokens and --context"
        )
    kind = llm.model.tok_embeddings.weight.dtype
    work = speed.Workload(prompt_tokens, new_tokens, batch, ragged)
    runs, theirs = [speed.our_run(llm, work)], {}
    runs[0]()
    peak = peak_memory_bytes(place)  # before anything else is in memory
    if against:
        seconds, their_run = _load_transformers(directory, kind, place, work)
        runs.append(their_run)
        theirs["transformers_load_seconds"] = seconds
    ours, *others = speed.speeds(runs, repeats)
    for other in others:
        theirs |= {
            "transformers_prefill_tokens_per_second": other.prefill,
            "transformers_decode_tokens_per_second": other.decode,
            "transformers_seconds": other.seconds,
            "prefill_ratio": ours.prefill / other.prefill,
            "decode_ratio": ours.decode / other.decode,
            "whole_ratio": other.seconds / ours.seconds,
        }
    bandwidth, rate = speed.read_bandwidth(place), speed.matrix_rate(place, kind)
    weights, embedding = weight_bytes(llm.model), llm.model.tok_embeddings.weight
    read = weights - embedding.numel() * embedding.itemsize  # of which a token takes one row
    figures: dict[str, Any] = {
        "load_seconds": load_seconds,
        "prefill_tokens_per_second": ours.prefill,
        "decode_tokens_per_second": ours.decode,
        "seconds": ours.seconds,
        "peak_memory_bytes": peak,
        "weights_bytes": weights,
        "kv_cache_bytes_per_token": llm.model.new_cache().bytes_per_token,
        "decode_bytes_per_second": read * ours.decode / batch,
        "read_bandwidth_bytes_per_second": bandwidth,
        "decode_share_of_bandwidth": read * ours.decode / batch / bandwidth,
        "prefill_operations_per_second": 2 * llm.model.config.parameter_count * ours.prefill,
        "matrix_operations_per_second": rate,
    }
    if context is not None:
        figures["context"] = context
        figures["decode_tokens_per_second_at_context"] = speed.decode_speed_at(llm, context)
    if speculate:
        edit = edit_speed(llm, speculate)
        figures["edit_tokens_per_second"] = edit.plain
        figures["edit_tokens_per_second_with_drafts"] = edit.speculative
        figures["drafts_ratio"] = edit.speculative / edit.plain
    figures |= theirs
    if json:
        print(json_.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name.replace('_', ' '):<38} {_readable(name, value)}")


def _load_transformers(
    directory: Path, dtype: torch.dtype, device: torch.device, work: speed.Workload
) -> tuple[float, speed.Run]:
    if (directory / CONFIG).exists():
        return speed.transformers_run(directory, dtype, device, work)
    with tempfile.TemporaryDirectory() as scratch:
        source = open_checkpoint(directory)
        huggingface.save_checkpoint(Path(scratch) / "hf", source.config, source.read)
        return speed.transformers_run(Path(scratch) / "hf", dtype, device, work)


def _readable(name: str, value: Any) -> str:
    if value is None:
        return "unknown"
    if "operations" in name:
        return f"{value / 1e9:,.0f} GFLOP/s"
    if name.endswith("bytes_per_second"):
        return f"{value / 1e9:,.1f} GB/s"
    if "bytes" in name:
        return human_bytes(value)
    if "share" in name:
        return f"{value:.0%}"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}"


if __name__ == "__main__":
    run(benchmark)
