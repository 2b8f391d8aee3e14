"""How fast a model runs, beside what the machine could do and what another library does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codellama.inference.decoding import Timing
from codellama.inference.generation import CodeLlama

WARM_UP_TOKENS = 64


@dataclass(frozen=True)
class Speed:
    """Tokens a second, each the median of several runs.

    Attributes:
        prefill: tokens of prompts read a second.
        decode: tokens written a second, by all rows together.
    """

    prefill: float
    decode: float


def model_speed(
    llm: CodeLlama, prompt_tokens: int, new_tokens: int, batch: int = 1, repeats: int = 3
) -> Speed:
    """Runs prompts of random tokens, equally long, to completions of `new_tokens`.

    The first new token comes out of the prompt's pass, so that `new_tokens - 1` are decoded.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (batch, prompt_tokens)
    prompts = torch.randint(llm.model.config.vocab_size, shape, generator=generator).tolist()
    _run(llm, [ids[:WARM_UP_TOKENS] for ids in prompts], 2)
    timings = [_run(llm, prompts, new_tokens) for _ in range(repeats)]
    return Speed(
        statistics.median(timing.prompt_tokens / timing.prefill_seconds for timing in timings),
        statistics.median(timing.decoded_tokens / timing.decode_seconds for timing in timings),
    )


def _run(llm: CodeLlama, prompts: list[list[int]], new_tokens: int) -> Timing:
    llm.timing = Timing()
    llm.generate(
        prompts, stop_ids=[], max_new_tokens=new_tokens, batch_size=len(prompts), temperature=0.0
    )
    return llm.timing


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
        cache.write(layer, *torch.randn(shape, dtype=weight.dtype, device=weight.device))
    token = torch.zeros(1, 1, dtype=torch.long, device=weight.device)

    def decode() -> None:
        cache.lengths = [context]
        for _ in range(new_tokens):
            model(token, cache)

    decode()
    return new_tokens / statistics.median(_seconds(decode, token.device) for _ in range(repeats))


def read_bandwidth(device: torch.device, size: int = 1_000_000_000) -> float:
    """Bytes a second that the device reads from its memory: the limit of decoding."""
    numbers = torch.ones(size // 4, device=device)
    return size / min(_seconds(numbers.sum, device) for _ in range(5))


def matrix_rate(device: torch.device, dtype: torch.dtype, width: int = 4096) -> float:
    """Floating-point operations a second in a product of matrices: the limit of prefill."""
    left = torch.randn(512, width, device=device).to(dtype)
    right = torch.randn(width, width, device=device).to(dtype)

    def multiply() -> None:
        torch.nn.functional.linear(left, right)

    return 2 * left.numel() * width / min(_seconds(multiply, device) for _ in range(5))


def transformers_speed(
    directory: Path,
    dtype: torch.dtype,
    device: torch.device,
    prompt_tokens: int,
    new_tokens: int,
    batch: int = 1,
    repeats: int = 3,
) -> tuple[float, Speed]:
    """The same with Hugging Face transformers on a directory of its format.

    Returns:
        Seconds to load, and the speed.
    """
    from transformers import LlamaForCausalLM

    started = time.perf_counter()
    model: Any = LlamaForCausalLM.from_pretrained(directory, dtype=dtype)
    model.to(device).eval()
    load_seconds = time.perf_counter() - started
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(model.config.vocab_size, (batch, prompt_tokens), generator=generator)
    prompt = prompt.to(device)

    def generate(count: int) -> float:
        options = {"min_new_tokens": count, "max_new_tokens": count, "pad_token_id": 0}
        return _seconds(
            lambda: model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, **options
            ),
            device,
        )

    generate(2)
    prefill = statistics.median(generate(1) for _ in range(repeats))
    whole = statistics.median(generate(new_tokens) for _ in range(repeats))
    decode = batch * (new_tokens - 1) / (whole - prefill)
    return load_seconds, Speed(batch * prompt_tokens / prefill, decode)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
