"""Lesson 5: speed is memory.

    python examples/5_speed_is_memory.py [--width 4096] [--plot FILE.png]

Decoding reads all weights for one token, so it is as fast as memory is. Prefill reads them for many
tokens, so it is as fast as multiplication is. The lesson measures both limits of your machine (the
roofline model, Williams et al. 2009), then a stack of linear layers between them, with weights of
32, 16, 8 and 4 bits, and computes what that means for a 7B model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lesson import Picture, title
from torch import Tensor, nn

from codellama import ModelConfig
from codellama.cli import run
from codellama.errors import number
from codellama.evaluation.speed import matrix_rate, read_bandwidth
from codellama.fast.cpu_linear import can_prepack, prepack
from codellama.fast.quantization import Int4Linear, Int8Linear

LAYERS = 4
CACHES = 200_000_000
"""Bytes that the caches of most processors do not hold."""
ROWS = (1, 8, 32, 128, 512)
CODE_LLAMA_7B = ModelConfig(4096, 32, 32, 32_016, rope_theta=1e6)
CODE_LLAMA_34B = ModelConfig(8192, 48, 64, 32_000, n_kv_heads=8, rope_theta=1e6)


@dataclass(frozen=True)
class Size:
    """What is measured.

    Args:
        width: channels of the layers, a multiple of 64. Four layers of 4,096 take 268 MB in
            float32, more than the caches of most processors.
        repeats: runs, of which the fastest counts.
    """

    width: int = number(4096, least=1)
    repeats: int = number(3, least=1)


@torch.no_grad()
def seconds(layers: Sequence[Tensor | nn.Module], x: Tensor, repeats: int) -> float:
    """The time of the fastest of some passes through layers, or matrices that stand for them."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        y = x
        for layer in layers:
            y = F.linear(y, layer) if isinstance(layer, Tensor) else layer(y)
        times.append(time.perf_counter() - started)
    return min(times)


def speed_is_memory(size: Size, picture: Picture) -> None:
    """Measure this machine's two limits, and what lies between them."""
    torch.manual_seed(0)
    device = torch.device("cpu")
    matrices = [torch.randn(size.width, size.width) for _ in range(LAYERS)]
    weights = LAYERS * size.width**2
    measured = [seconds(matrices, torch.randn(n, size.width), size.repeats) for n in ROWS]
    title("Two limits of this machine, the best of what was measured")
    bandwidth = max(read_bandwidth(device, 400_000_000), 4 * weights / measured[0])
    rate = matrix_rate(device, torch.float32, 2048)
    rate = max(rate, 2 * weights * ROWS[-1] / measured[-1])
    print(f"memory:          {bandwidth / 1e9:8.1f} GB a second")
    print(f"multiplication:  {rate / 1e9:8.1f} billion operations a second, float32")
    print("Each weight takes part in 2 operations a row, and has 4 bytes. So multiplying takes")
    print(f"longer than reading from about {4 * rate / bandwidth / 2:.0f} rows on.")

    title(f"{LAYERS} layers of {size.width} x {size.width}, float32: milliseconds a pass")
    print(f"{'rows':>5} {'to read':>9} {'to multiply':>12} {'measured':>9} {'a row':>9}")
    for rows, taken in zip(ROWS, measured, strict=True):
        limits = 4 * weights / bandwidth, 2 * weights * rows / rate
        shown = [1e3 * number for number in (*limits, taken, taken / rows)]
        print(f"{rows:5} {shown[0]:9.2f} {shown[1]:12.2f} {shown[2]:9.2f} {shown[3]:9.3f}")
    print("One row is a step of decoding, hundreds are prefill, a few are a batch of prompts, or")
    print("drafts to be verified: they share one reading of the weights.")
    gain = measured[0] / (measured[-1] / ROWS[-1])
    print(f"A token of prefill takes 1/{gain:.0f} of the time of one of decoding.")
    assert gain > 1, "a row among many takes a fraction of a row alone"

    title("Fewer bits a weight: one row, milliseconds a pass")
    halves = [matrix.bfloat16() for matrix in matrices]
    kinds = {32: matrices, 16: halves}
    for bits, kind in ((8, Int8Linear), (4, Int4Linear)):
        kinds[bits] = [kind.from_weight(matrix) for matrix in halves]
    one_row = {}
    for bits, layers in kinds.items():
        x = torch.randn(1, size.width, dtype=torch.float32 if bits == 32 else torch.bfloat16)
        taken = one_row[bits] = seconds(layers, x, 2 * size.repeats)
        read = weights * bits / 8
        print(f"{bits:2} bits: {read / 1e6:6.0f} MB in {1e3 * taken:6.2f}", end="")
        print(f" = {read / taken / 1e9:5.1f} GB a second")
    if 4 * weights > CACHES:  # smaller ones are not read from memory
        assert one_row[4] < one_row[32], "4 bits are read faster than 32"
    print("Unpacking takes time, too, so that 4 bits gain less than their bytes say.")
    if can_prepack(device):
        packed = [prepack(matrix) for matrix in halves]
        inputs = [torch.randn(rows, size.width).bfloat16() for rows in (1, 8)]
        one, eight = (seconds(packed, x, 2 * size.repeats) for x in inputs)
        print(f"16 bits, prepacked: {1e3 * one:.2f} for 1 row, {1e3 * eight:.2f} for 8.")
        print(f"If 7 drafts are accepted, a token takes 1/{8 * one / eight:.1f} of the time.")

    title("What follows for Code Llama on this machine, at best")
    count = CODE_LLAMA_7B.parameter_count
    for bits in (16, 8, 4):
        decode, size_gb = 8 * bandwidth / bits / count, count * bits / 8e9
        print(f"7B, {bits:2} bits: {size_gb:5.1f} GB, decode {decode:5.1f} tokens a second")
    print(f"7B prefill: {rate / 2 / count:.1f} tokens a second in float32, whatever the bits")
    for name, config in (("7B", CODE_LLAMA_7B), ("34B", CODE_LLAMA_34B)):
        cache = config.kv_cache_bytes(16_384)
        print(f"{name} with 16,384 tokens in the KV cache reads {cache / 1e9:.1f} GB more a token")
    print("The 34B has 8 key and value heads for 64 query heads: grouped queries pay here.")
    print("\nExpect: one row nearly as fast as memory allows, and a token of prefill at least 10")
    print("times as fast. With 8 to 32 rows both limits are missed on x86: `F.linear` reorders")
    print("the weights at each pass. `codellama.fast.prepacked` reorders them once.")
    print("\nExercise 1: how many rows does it take on your machine until a row costs twice the")
    print("least? Compare with the first part's estimate.")
    print("Exercise 2: at which context does the 7B read as much KV cache as weights (16 bits)?")
    if picture.plot:
        with picture.axes(1, 6, 4.2) as [axes]:
            rates = [rows / taken for rows, taken in zip(ROWS, measured, strict=True)]
            axes.plot(ROWS, rates, "o-", label="32 bits, measured")
            for bits, style in ((32, "--"), (8, "-."), (4, ":")):
                ceiling = [rows * 8 * bandwidth / bits / weights for rows in ROWS]
                bound = [min(limit, rate / 2 / weights) for limit in ceiling]
                axes.plot(ROWS, bound, style, color="grey", label=f"limits, {bits} bits")
            axes.plot(1, 1 / one_row[4], "v", label="4 bits, measured")
            axes.plot(1, 1 / one_row[8], "s", label="8 bits, measured")
            axes.set(xscale="log", yscale="log", xlabel="rows in a pass", ylabel="rows a second")
            axes.set(title="Memory limits few rows, multiplication many")
            axes.set_xticks(ROWS, list(map(str, ROWS)))
            axes.minorticks_off()
            axes.legend()


if __name__ == "__main__":
    run(speed_is_memory)
