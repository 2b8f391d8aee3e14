"""The command that times a model: `python -m codellama.benchmark --ckpt DIR`."""

from __future__ import annotations

import json
import time

from codellama.cli import Source, peak_memory_bytes, run
from codellama.errors import UsageError
from codellama.evaluation import speed
from codellama.inference.cache_rows import bytes_per_token
from codellama.weights.loading import LoadOptions, weight_bytes


def benchmark(work: speed.Workload, source: Source, loading: LoadOptions) -> None:
    """Time loading, prefill and decoding; medians of several runs after a warm-up.

    Meant for a machine that does nothing else. Rates are beside what the machine can do, measured
    in the same run: decoding reads every weight once a token, prefill multiplies by each once.
    """
    started = time.perf_counter()
    llm = source.load(loading)
    load_seconds = time.perf_counter() - started
    if work.prompt_tokens + work.new_tokens > llm.model.config.max_seq_len:
        raise UsageError(
            f"the model's context holds {llm.model.config.max_seq_len:,} tokens; take fewer in "
            "--prompt_tokens and --new_tokens"
        )
    speeds, embedding = speed.speeds(llm, work), llm.model.tok_embeddings.weight
    figures = {
        "load_seconds": load_seconds,
        **speeds,
        "peak_memory_bytes": peak_memory_bytes(embedding.device),
        "weights_bytes": weight_bytes(llm.model),
        "kv_cache_bytes_per_token": bytes_per_token(llm.model.new_cache()),
    }
    bandwidth = speed.read_bandwidth(embedding.device)
    read = weight_bytes(llm.model) - embedding.numel() * embedding.itemsize  # a token takes one row
    read_rate = read * speeds["decode_tokens_per_second"] / work.batch
    operations = 2 * llm.model.config.parameter_count * speeds["prefill_tokens_per_second"]
    figures |= {
        "read_bandwidth_bytes_per_second": bandwidth,
        "decode_share_of_bandwidth": read_rate / bandwidth,
        "prefill_operations_per_second": operations,
        "matrix_operations_per_second": speed.matrix_rate(embedding.device, embedding.dtype),
    }
    if source.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            shown = "unknown" if value is None else f"{value:,.{0 if value >= 100 else 2}f}"
            print(f"{name.replace('_', ' '):<36} {shown:>20}")


if __name__ == "__main__":
    run(benchmark)
