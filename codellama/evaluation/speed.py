"""How fast a model runs, beside what the machine could do and what another library does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codellama.errors import RequestError
from codellama.inference.decoding import Timing
from codellama.inference.generation import CodeLlama
from codellama.weights.loading import default_device, torch_device

Run = Callable[[], Timing]
"""Does a `Workload` once."""


@dataclass(frozen=True)
class Workload:
    """Prompts of random tokens, run together to completions of one length.

    Args:
        prompt_tokens: length of each prompt, of random tokens.
        new_tokens: tokens to generate for each, 2 or more; the first comes out of prefill.
        batch: prompts that run together.
        ragged: let their lengths rise evenly up to prompt_tokens.
    """

    prompt_tokens: int = 512
    new_tokens: int = 32
    batch: int = 1
    ragged: bool = False

    def __post_init__(self) -> None:
        for name, least in (("prompt_tokens", 1), ("new_tokens", 2), ("batch", 1)):
            if (value := getattr(self, name)) < least:
                raise RequestError(f"{name} is {value}; expected {least} or more")

    def prompts(self, vocab_size: int) -> list[list[int]]:
        """The same token ids at every call."""
        generator = torch.Generator().manual_seed(0)
        shape = self.batch, self.prompt_tokens
        prompts = torch.randint(vocab_size, shape, generator=generator).tolist()
        if not self.ragged:
            return prompts
        lengths = [-(-self.prompt_tokens * (row + 1) // self.batch) for row in range(self.batch)]
        return [ids[:length] for ids, length in zip(prompts, lengths, strict=True)]


@dataclass(frozen=True)
class Speed:
    """How fast a workload is done, each figure the median of several runs.

    Attributes:
        prefill: tokens of prompts read a second.
        decode: tokens written a second, by all rows together.
        seconds: for all of it.
    """

    prefill: float
    decode: float
    seconds: float


def speeds(runs: Sequence[Run], repeats: int) -> list[Speed]:
    """Times runs in turn, so that a busy minute of the machine does not fall on one alone; a first
    round warms up."""
    rounds = [[run() for run in runs] for _ in range(1 + repeats)][1:]
    return [
        Speed(
            statistics.median(timing.prompt_tokens / timing.prefill_seconds for timing in timings),
            statistics.median(timing.decoded_tokens / timing.decode_seconds for timing in timings),
            statistics.median(timing.prefill_seconds + timing.decode_seconds for timing in timings),
        )
        for timings in zip(*rounds, strict=True)
    ]


def our_run(llm: CodeLlama, work: Workload) -> Run:
    """The workload on a model of ours."""
    prompts = work.prompts(llm.model.config.vocab_size)

    def run() -> Timing:
        llm.decoder.timing = Timing()
        llm.generate(prompts, stop_ids=[], max_new_tokens=work.new_tokens, batch_size=work.batch)
        return llm.decoder.timing

    return run


def transformers_run(
    directory: Path, dtype: torch.dtype, device: torch.device, work: Workload
) -> tuple[float, Run]:
    """The workload with Hugging Face transformers, on a directory of its format.

    Returns:
        Seconds to load, and the run.
    """
    from transformers import LlamaForCausalLM

    started = time.perf_counter()
    model: Any = LlamaForCausalLM.from_pretrained(directory, dtype=dtype)
    model.to(device).eval()
    load_seconds = time.perf_counter() - started
    prompts = work.prompts(model.config.vocab_size)
    padded = torch.tensor([[0] * (work.prompt_tokens - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (work.prompt_tokens - len(ids)) + [1] * len(ids) for ids in prompts])
    given = {"inputs": padded.to(device), "attention_mask": mask.to(device)}
    counts = {"min_new_tokens": work.new_tokens, "max_new_tokens": work.new_tokens}

    def run() -> Timing:
        stopwatch = _Stopwatch()
        started = time.perf_counter()
        model.generate(**given, **counts, do_sample=False, pad_token_id=0, streamer=stopwatch)
        _, first, *_, last = stopwatch.times
        decoded = work.batch * (work.new_tokens - 1)
        return Timing(sum(map(len, prompts)), first - started, decoded, last - first)

    return load_seconds, run


class _Stopwatch:
    """Notes when transformers has the prompt, then each further token, as its streamers are told;
    the tokens have come to the CPU by then."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: Tensor) -> None:
        """Tokens have come; transformers calls it."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """No more will come; transformers calls it."""


@torch.no_grad()
def decode_speed_at(llm: CodeLlama, context: int, new_tokens: int = 16, repeats: int = 3) -> float:
    """Tokens a second for one row that has `context` tokens behind it.

    Keys and values of the past are random numbers: reading them costs the same, and no long prompt
    has to be run.
    """
    model = llm.model
    cache = model.new_cache(capacity=context + new_tokens)
    weight, config = model.tok_embeddings.weight, model.config
    for layer in range(config.n_layers):
        shape = (2, 1, context, config.n_kv_heads, config.head_dim)
        keys, values = torch.randn(shape, dtype=weight.dtype, device=weight.device)
        cache.write(layer, keys, values)
    token = torch.zeros(1, 1, dtype=torch.long, device=weight.device)

    def decode() -> None:
        cache.lengths = [context]
        with llm.decoder.steps.cache_for(cache, new_tokens) as stepped:
            for _ in range(new_tokens):
                llm.decoder.steps(token, stepped)

    decode()
    return new_tokens / statistics.median(_seconds(decode, token.device) for _ in range(repeats))


def processor(name: torch.device | str | None) -> str:
    """What a device is called."""
    device = torch_device(name) or default_device()
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    level = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else ""
    return f"{device.type} {level}, {torch.get_num_threads()} threads"


def read_bandwidth(device: torch.device, size: int = 1_000_000_000) -> float:
    """Bytes a second that the device reads from its memory: the limit of decoding."""
    numbers = torch.ones(size // 4, device=device)
    return size / _least_seconds(numbers.sum, device)


def matrix_rate(device: torch.device, dtype: torch.dtype, width: int = 4096) -> float:
    """Floating-point operations a second in a product of matrices: the limit of prefill."""
    left = torch.randn(512, width, device=device).to(dtype)
    right = torch.randn(width, width, device=device).to(dtype)
    multiply = partial(torch.nn.functional.linear, left, right)
    return 2 * left.numel() * width / _least_seconds(multiply, device)


def _least_seconds(work: Callable[[], object], device: torch.device, calls: int = 10) -> float:
    """The time of one of several calls, after which a GPU is waited for once: it takes the host
    about as long to start such work and to wait as it takes the device to do it."""

    def do() -> None:
        for _ in range(calls):
            work()

    return min(_seconds(do, device) for _ in range(3)) / calls


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
