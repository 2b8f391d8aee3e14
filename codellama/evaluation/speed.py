"""How fast a model runs, and how fast the machine could run it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from codellama.errors import check_fields, number
from codellama.inference.codellama import CodeLlama
from codellama.inference.scheduler import Timing
from codellama.weights.loading import default_device, torch_device


@dataclass(frozen=True)
class Workload:
    """Prompts of random tokens, run together to completions of one length.

    Args:
        prompt_tokens: length of each prompt, of random tokens.
        new_tokens: tokens to generate for each, 2 or more; the first comes out of prefill.
        batch: prompts that run together.
        repeats: runs that each figure is the median of.
    """

    prompt_tokens: int = number(512, least=1)
    new_tokens: int = number(32, least=2)
    batch: int = number(1, least=1)
    repeats: int = number(3, least=1)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def tokens(self) -> int:
        """Tokens that the KV cache will hold, in all rows together."""
        return self.batch * (self.prompt_tokens + self.new_tokens)


def speeds(llm: CodeLlama, work: Workload) -> dict[str, float]:
    """Medians of several runs, after one that warms up: tokens of prompts a second, tokens written
    a second by all rows together, and seconds for all."""
    shape, timings = (work.batch, work.prompt_tokens), list[Timing]()
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(llm.model.config.vocab_size, shape, generator=generator).tolist()
    for _ in range(1 + work.repeats):
        llm.timing = Timing()
        llm.generate(prompts, stop_ids=[], max_new_tokens=work.new_tokens, batch_size=work.batch)
        timings.append(llm.timing)
    warm = timings[1:]
    return {
        "prefill_tokens_per_second": median(t.prompt_tokens / t.prefill_seconds for t in warm),
        "decode_tokens_per_second": median(t.decoded_tokens / t.decode_seconds for t in warm),
        "seconds": median(t.prefill_seconds + t.decode_seconds for t in warm),
    }


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

    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        for _ in range(calls):
            work()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds) / calls
