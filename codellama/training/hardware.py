"""What makes training fast on the machine at hand."""

from __future__ import annotations

import torch

from codellama.weights.layout import multiplies_bfloat16

GROUP_TOKENS = {"cpu": 2_048, "cuda": 16_384, "mps": 8_192}
"""Tokens that run through the model together. On a CPU 2,048 were no slower than 8,192, and take a
quarter of the memory; the others are estimates."""


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where the device multiplies matrices of it faster than of float32, else None."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        fast = multiplies_bfloat16()
    else:
        fast = False
    return torch.bfloat16 if fast else None


def rows_at_once(device: torch.device, sequence: int) -> int:
    """Sequences of a length that run through the model together."""
    return max(1, GROUP_TOKENS.get(device.type, 2_048) // sequence)
