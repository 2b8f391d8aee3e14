"""The command that times a model: `python -m codellama.benchmark --ckpt DIR`."""

from __future__ import annotations

import importlib.util
import itertools
import json
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch

from codellama.cli import Source, human_bytes, peak_memory_bytes, run, say
from codellama.errors import CodeLlamaError, UsageError
from codellama.evaluation import speed
from codellama.evaluation.edit_speed import edit_speed
from codellama.inference.cache_rows import bytes_per_token
from codellama.inference.generation import CodeLlama
from codellama.weights import huggingface
from codellama.weights.huggingface import CONFIG
from codellama.weights.loading import LoadOptions, open_checkpoint, weight_bytes


@dataclass(frozen=True)
class Measurement:
    """What else to time, and how often.

    Args:
        context: also time decoding with so many tokens in the KV cache.
        speculate: also time an edit, once with so many draft tokens at a time, once without.
        repeats: runs that each figure is the median of.
        against: transformers: also time that library, in the same process (extra `parity`).
        table: time every way of running that this machine has, and print a Markdown table.
    """

    context: int | None = None
    speculate: int = 0
    repeats: int = 3
    against: str | None = None
    table: bool = False

    def __post_init__(self) -> None:
        for name, least in (("speculate", 0), ("repeats", 1), ("context", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} is {value}; expected {least} or more")
        if self.against not in (None, "transformers"):
            raise UsageError(f"--against is {self.against!r}; expected transformers")
        if self.against and importlib.util.find_spec("transformers") is None:
            raise UsageError("--against transformers needs it: pip install 'codellama[parity]'")


def benchmark(
    work: speed.Workload, measurement: Measurement, source: Source, loading: LoadOptions
) -> None:
    """Time loading, prefill and decoding; medians of several runs after a warm-up.

    Meant for a machine that does nothing else. Rates are beside what the machine can do, measured
    in the same run: decoding reads every weight once a token, prefill multiplies by each once.
    """
    if measurement.table:
        _print_table(work, measurement.repeats, source, loading)
        return
    started = time.perf_counter()
    tokens = max(work.batch * (work.prompt_tokens + work.new_tokens), measurement.context or 0)
    llm = source.load(loading, tokens=tokens)
    load_seconds = time.perf_counter() - started
    longest = llm.model.config.max_seq_len
    if max(work.prompt_tokens, measurement.context or 0) + work.new_tokens > longest:
        raise UsageError(
            f"the model's context holds {longest:,} tokens; take fewer in --prompt_tokens, "
            "--new_tokens and --context"
        )
    figures = {"load_seconds": load_seconds, **_measure(llm, work, measurement, source.directory)}
    if source.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name.replace('_', ' '):<38} {_readable(name, value)}")


def _print_table(work: speed.Workload, repeats: int, source: Source, loading: LoadOptions) -> None:
    """A row for each way to hold and run the model; each is loaded anew."""
    print(
        f"{work.batch} x {work.prompt_tokens} prompt tokens and {work.new_tokens} new ones, "
        f"{date.today()}, PyTorch {torch.__version__}, {speed.processor(loading.device)}\n\n"
        "|weights|`--compile`|load, s|prefill, tokens/s|decode, tokens/s|memory|\n|-|-|-|-|-|-|"
    )
    for quantize, compile in itertools.product((None, "int8", "int4"), (False, True)):
        started = time.perf_counter()
        try:
            llm = source.load(replace(loading, quantize=quantize, compile=compile))
        except CodeLlamaError as error:
            say(f"{quantize or 'as stored'}{', compiled' * compile} is left out: {error}")
            continue
        load_seconds = time.perf_counter() - started
        [ours] = speed.speeds([speed.our_run(llm, work)], repeats)
        weight = llm.model.tok_embeddings.weight
        print(
            f"|{quantize or str(weight.dtype)[6:]}|{'yes' if compile else ''}|{load_seconds:.1f}"
            f"|{ours.prefill:,.1f}|{ours.decode:,.1f}|{human_bytes(weight_bytes(llm.model))}|",
            flush=True,
        )
        del llm


def _measure(
    llm: CodeLlama, work: speed.Workload, measurement: Measurement, directory: Path
) -> dict[str, Any]:
    """All figures but that of loading."""
    embedding = llm.model.tok_embeddings.weight
    device, dtype = embedding.device, embedding.dtype
    runs, theirs = [speed.our_run(llm, work)], {}
    runs[0]()
    peak = peak_memory_bytes(device)  # before anything else is in memory
    if measurement.against:
        seconds, their_run = _load_transformers(directory, dtype, device, work)
        runs.append(their_run)
        theirs["transformers_load_seconds"] = seconds
    ours, *others = speed.speeds(runs, measurement.repeats)
    for other in others:
        theirs |= {
            "transformers_prefill_tokens_per_second": other.prefill,
            "transformers_decode_tokens_per_second": other.decode,
            "transformers_seconds": other.seconds,
            "prefill_ratio": ours.prefill / other.prefill,
            "decode_ratio": ours.decode / other.decode,
            "whole_ratio": other.seconds / ours.seconds,
        }
    bandwidth, weights = speed.read_bandwidth(device), weight_bytes(llm.model)
    read = weights - embedding.numel() * embedding.itemsize  # of which a token takes one row
    figures: dict[str, Any] = {
        "prefill_tokens_per_second": ours.prefill,
        "decode_tokens_per_second": ours.decode,
        "seconds": ours.seconds,
        "peak_memory_bytes": peak,
        "weights_bytes": weights,
        "kv_cache_bytes_per_token": bytes_per_token(llm.model.new_cache()),
        "decode_bytes_per_second": read * ours.decode / work.batch,
        "read_bandwidth_bytes_per_second": bandwidth,
        "decode_share_of_bandwidth": read * ours.decode / work.batch / bandwidth,
        "prefill_operations_per_second": 2 * llm.model.config.parameter_count * ours.prefill,
        "matrix_operations_per_second": speed.matrix_rate(device, dtype),
    }
    if measurement.context is not None:
        figures["context"] = measurement.context
        decode = speed.decode_speed_at(llm, measurement.context)
        figures["decode_tokens_per_second_at_context"] = decode
    if measurement.speculate:
        edit = edit_speed(llm, measurement.speculate)
        figures["edit_tokens_per_second"] = edit.plain
        figures["edit_tokens_per_second_with_drafts"] = edit.speculative
        figures["drafts_ratio"] = edit.speculative / edit.plain
    return figures | theirs


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
