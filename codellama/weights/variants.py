"""The twelve published Code Llama checkpoints (arXiv 2308.12950, section 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from codellama.model.config import ModelConfig

Infilling = Literal["yes", "no", "unstated"]
Chat = Literal["[INST]", "Source:"]

_PACKAGE = Path(__file__).parents[1]
_INSTALLED = _PACKAGE / "checkpoints" / "tiny"  # from a wheel
EMBEDDED = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "checkpoints" / "tiny"
"""The directory of the small checkpoint that comes with the package."""


@dataclass(frozen=True)
class Variant:
    """What is published of one checkpoint.

    Attributes:
        shards: number of weight files.
        trained_context: tokens of a sequence in training.
        infilling: "unstated" where the vocabulary has the infilling tokens, but the paper does not
            say that the model was trained with them.
        chat: the prompt format; None for models that do not chat.
    """

    name: str
    config: ModelConfig
    shards: int
    trained_context: int
    infilling: Infilling
    chat: Chat | None


_7B = ModelConfig(4096, 32, 32, 32016, rope_theta=1e6)
_13B = ModelConfig(5120, 40, 40, 32016, rope_theta=1e6)
_34B = ModelConfig(8192, 48, 64, 32000, n_kv_heads=8, rope_theta=1e6)
_70B = replace(_34B, n_layers=80, vocab_size=32016, multiple_of=4096, ffn_dim_multiplier=1.3)
_70B_TUNED = replace(_70B, rope_theta=1e4, max_seq_len=0)

_TABLE: tuple[tuple[str, ModelConfig, int, int, Infilling, Chat | None], ...] = (
    ("CodeLlama-7b", _7B, 1, 16384, "yes", None),
    ("CodeLlama-7b-Python", replace(_7B, vocab_size=32000), 1, 16384, "no", None),
    ("CodeLlama-7b-Instruct", _7B, 1, 16384, "yes", "[INST]"),
    ("CodeLlama-13b", _13B, 2, 16384, "yes", None),
    ("CodeLlama-13b-Python", replace(_13B, vocab_size=32000), 2, 16384, "no", None),
    ("CodeLlama-13b-Instruct", _13B, 2, 16384, "yes", "[INST]"),
    ("CodeLlama-34b", _34B, 4, 16384, "no", None),
    ("CodeLlama-34b-Python", _34B, 4, 16384, "no", None),
    ("CodeLlama-34b-Instruct", _34B, 4, 16384, "no", "[INST]"),
    ("CodeLlama-70b", _70B, 8, 16384, "yes", None),
    ("CodeLlama-70b-Python", _70B_TUNED, 8, 4096, "unstated", None),
    ("CodeLlama-70b-Instruct", _70B_TUNED, 8, 4096, "unstated", "Source:"),
)
VARIANTS: dict[str, Variant] = {row[0]: Variant(*row) for row in _TABLE}


def matching(config: ModelConfig) -> list[Variant]:
    """The published checkpoints of exactly this configuration, whatever context it allows: none,
    one, or several that only their weights tell apart."""
    context = config.max_seq_len
    return [one for one in VARIANTS.values() if replace(one.config, max_seq_len=context) == config]
