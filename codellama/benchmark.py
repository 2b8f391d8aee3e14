"""The command that times a model: `python -m codellama.benchmark --ckpt DIR`."""

from __future__ import annotations

import itertools
import json
import time
from dataclasses import dataclass, replace
from datetime import date

import torch

from codellama.cli import CheckpointArguments, log, peak_memory_bytes, run
from codellama.errors import CodeLlamaError, RequestError
from codellama.evaluation import speed
from codellama.weights.loading import LoadOptions, weight_bytes


@dataclass(frozen=True)
class OutputArguments:
    """What is printed.

    Args:
        table: time the weights as stored, in int8 and in int4, each with and without --compile, and
            print a Markdown table.
    """

    table: bool = False


def benchmark(
    output: OutputArguments,
    work: speed.Workload,
    checkpoint: CheckpointArguments,
    loading: LoadOptions,
) -> None:
    """Time loading, prefill and decoding; medians of several runs after a warm-up.

    Meant for a machine that does nothing else. Rates are beside what the machine can do, measured
    in the same run: decoding reads every weight once a token, prefill multiplies by each once.
    """
    if work.prompt_tokens + work.new_tokens > (most := checkpoint.checkpoint.config.max_seq_len):
        raise RequestError(
            f"the model's context holds {most:,} tokens; take fewer in --prompt_tokens and "
            "--new_tokens"
        )
    if output.table and checkpoint.json:
        raise RequestError("--table is Markdown; leave out --json")
    if output.table:
        return print_table(work, checkpoint, loading)
    started = time.perf_counter()
    llm = checkpoint.load(loading, tokens=work.tokens)
    load_seconds = time.perf_counter() - started
    speeds, embedding = speed.speeds(llm, work), llm.model.tok_embeddings.weight
    figures = {
        "load_seconds": load_seconds,
        **speeds,
        "peak_memory_bytes": peak_memory_bytes(embedding.device),
        "weights_bytes": weight_bytes(llm.model),
        "kv_cache_bytes_per_token": llm.model.new_cache().bytes_per_token,
    }
    read = weight_bytes(llm.model) - embedding.numel() * embedding.itemsize  # a token takes one row
    read_rate = read * speeds["decode_tokens_per_second"] / work.batch
    operations = 2 * llm.model.config.parameter_count * speeds["prefill_tokens_per_second"]
    figures |= {
        "read_bandwidth_bytes_per_second": (bandwidth := speed.read_bandwidth(embedding.device)),
        "decode_share_of_bandwidth": read_rate / bandwidth,
        "prefill_operations_per_second": operations,
        "matrix_operations_per_second": speed.matrix_rate(embedding.device, embedding.dtype),
    }
    if checkpoint.json:
        return print(json.dumps(figures))
    for name, value in figures.items():
        shown = "unknown" if value is None else f"{value:,.{0 if value >= 100 else 2}f}"
        print(f"{name.replace('_', ' '):<36} {shown:>20}")
    return None


def print_table(
    work: speed.Workload, checkpoint: CheckpointArguments, loading: LoadOptions
) -> None:
    """A row for each way to hold and run the model; each is loaded anew."""
    print(
        f"{work.batch} x {work.prompt_tokens} prompt tokens and {work.new_tokens} new ones, "
        f"{date.today()}, PyTorch {torch.__version__}, {speed.processor(loading.device)}\n\n"
        "|weights|`--compile`|load, s|prefill, tokens/s|decode, tokens/s|memory|\n|-|-|-|-|-|-|"
    )
    for quantize, compile in itertools.product((None, "int8", "int4"), (False, True)):
        llm = None  # frees the one before
        torch.cuda.empty_cache()
        started = time.perf_counter()
        try:
            way = replace(loading, quantize=quantize, compile=compile)
            llm = checkpoint.load(way, tokens=work.tokens)
            load_seconds = time.perf_counter() - started
            prefill, decode, _ = speed.speeds(llm, work).values()
        except (CodeLlamaError, MemoryError, torch.OutOfMemoryError) as error:
            log(f"{quantize or 'as stored'}{', compiled' * compile} is left out: {error}")
            continue
        dtype = str(llm.model.tok_embeddings.weight.dtype).removeprefix("torch.")
        held = quantize or (
            dtype if checkpoint.plain else getattr(checkpoint.checkpoint, "mode", dtype)
        )
        print(
            f"|{held}|{'yes' * compile}|{load_seconds:.1f}|{prefill:,.1f}|{decode:,.1f}"
            f"|{weight_bytes(llm.model) / 1e9:,.2f} GB|",
            flush=True,
        )


if __name__ == "__main__":
    run(benchmark)
