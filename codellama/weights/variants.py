"""The twelve published Code Llama checkpoints (arXiv 2308.12950, section 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from codellama.model.config import ModelConfig

Infilling = Literal["yes", "no", "unstated"]
Chat = Literal["[INST]", "Source:"]


@dataclass(frozen=True)
class Variant:
    """What is published of one checkpoint.

    `infilling` is "unstated" where the vocabulary has the tokens but the paper does not say that
    the model was trained with them. `trained_context` counts the tokens of a sequence in
    training; `chat` names the prompt format, None for models that do not chat.
    """

    name: str
    config: ModelConfig
    shards: int
    trained_context: int
    infilling: Infilling
    chat: Chat | None


_SIZES = {
    "7b": (ModelConfig(4096, 32, 32, 32016, rope_theta=1e6), 1),
    "13b": (ModelConfig(5120, 40, 40, 32016, rope_theta=1e6), 2),
    "34b": (ModelConfig(8192, 48, 64, 32000, n_kv_heads=8, rope_theta=1e6), 4),
    "70b": (
        ModelConfig(
            8192,
            80,
            64,
            32016,
            n_kv_heads=8,
            multiple_of=4096,
            ffn_dim_multiplier=1.3,
            rope_theta=1e6,
        ),
        8,
    ),
}


def _variant(size: str, kind: Literal["", "Python", "Instruct"]) -> Variant:
    config, shards = _SIZES[size]
    context = 16384
    if size in ("7b", "13b") and kind == "Python":
        config = replace(config, vocab_size=32000)
    if size == "70b" and kind:
        context = 4096
        config = replace(config, rope_theta=1e4, max_seq_len=0)
    infilling: Infilling = "no" if config.vocab_size == 32000 else "yes"
    if size == "70b" and kind:
        infilling = "unstated"
    chat: Chat | None = None
    if kind == "Instruct":
        chat = "Source:" if size == "70b" else "[INST]"
    name = f"CodeLlama-{size}" + (f"-{kind}" if kind else "")
    return Variant(name, config, shards, context, infilling=infilling, chat=chat)


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for size in _SIZES
    for variant in (_variant(size, kind) for kind in ("", "Python", "Instruct"))
}


def matching(config: ModelConfig) -> list[Variant]:
    """The published checkpoints of exactly this configuration: none, one, or several that only
    their weights tell apart."""
    return [
        variant
        for variant in VARIANTS.values()
        if replace(variant.config, max_seq_len=config.max_seq_len) == config
    ]
