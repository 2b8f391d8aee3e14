"""The hyper-parameters of a Code Llama model, as its `params.json` gives them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from codellama.errors import ConfigError, check_fields, number

LLAMA2_CONTEXT = 4096
CODE_LLAMA_CONTEXT = 100 * 1024
MAX = 10_000_000
"""The most that a size may be; the sizes of tensors then fit 64 bits."""


@dataclass(frozen=True)
class ModelConfig:
    """Every number that fixes a model's shape and arithmetic.

    The fields are the keys of Meta's `params.json`; 0 heads or tokens: not given.

    Args:
        dim: width of the residual stream.
        n_layers: number of decoder blocks.
        n_heads: number of query heads; each has `dim / n_heads` channels.
        vocab_size: number of token ids.
        n_kv_heads: number of key and value heads, each shared by `n_heads / n_kv_heads` query heads
            (grouped-query attention, arXiv 2305.13245). Not given: as many as query heads.
        multiple_of: the feed-forward's hidden width is rounded up to a multiple of this.
        ffn_dim_multiplier: widens the feed-forward before that rounding.
        norm_eps: added to the mean square in RMSNorm.
        rope_theta: rotary base: 1e4 in Llama 2, 1e6 in Code Llama (arXiv 2308.12950, section 2.4).
        max_seq_len: tokens of prompt and completion together. Not given, as in Meta's files: 4096
            for a base of 1e4, else 100 x 1024, up to which the paper goes (section 3.3).
        rope_scaling_factor: divides positions (linear interpolation, arXiv 2306.15595); usually 1.

    Raises:
        ConfigError: a value is no number, not positive or too large; or numbers of heads do not
            divide what they share out.
    """

    dim: int = number(least=1, most=MAX)
    n_layers: int = number(least=1, most=1000)
    n_heads: int = number(least=1, most=MAX)
    vocab_size: int = number(least=1, most=MAX)
    n_kv_heads: int = number(0, least=1, most=MAX)
    multiple_of: int = number(256, least=1, most=MAX)
    ffn_dim_multiplier: float = number(1.0, above=0, most=MAX)
    norm_eps: float = number(1e-5, above=0, most=1)
    rope_theta: float = number(10_000.0, above=0, most=10**12)
    max_seq_len: int = number(0, least=1, most=MAX)
    rope_scaling_factor: float = number(1.0, above=0, most=MAX)

    def __post_init__(self) -> None:
        check_fields(self, ConfigError)
        for field in fields(self):  # numpy's numbers become Python's, which JSON can hold
            kind = int if field.type == "int" else float
            object.__setattr__(self, field.name, kind(getattr(self, field.name)))
        context = LLAMA2_CONTEXT if self.rope_theta <= 10_000 else CODE_LLAMA_CONTEXT
        object.__setattr__(self, "n_kv_heads", self.n_kv_heads or self.n_heads)
        object.__setattr__(self, "max_seq_len", self.max_seq_len or context)
        if not 0 < self.hidden_dim <= MAX:
            raise ConfigError(
                f"ffn_dim_multiplier {self.ffn_dim_multiplier} makes the feed-forward "
                f"{self.hidden_dim:,} wide; expected up to {MAX:,}"
            )
        if self.dim % self.n_heads or self.head_dim % 2:
            raise ConfigError(
                f"dim {self.dim} over n_heads {self.n_heads} does not give heads of an even "
                "number of channels, which the rotary embedding needs"
            )
        if self.n_heads % self.n_kv_heads:
            heads, kv_heads = self.n_heads, self.n_kv_heads
            raise ConfigError(f"n_heads {heads} is not a multiple of n_kv_heads {kv_heads}")

    @classmethod
    def from_params(cls, params: Mapping[str, Any], vocab_size: int | None = None) -> ModelConfig:
        """Reads the contents of a `params.json`.

        Args:
            params: the parsed file. Keys that no field is named after are ignored with a warning;
                null counts as not given.
            vocab_size: rows of the embedding, for files whose `vocab_size` is missing or -1.

        Raises:
            ConfigError: a key is missing, contradicts `vocab_size`, or describes no model.
        """
        known = {field.name for field in fields(cls)}
        if params.get("use_scaled_rope"):
            raise ConfigError("use_scaled_rope is Llama 3's rotary scaling; expected a Llama 2")
        if unknown := sorted(set(params) - known):
            names = repr(", ".join(unknown))[1:-1]
            warnings.warn(f"params.json: ignoring unknown {names:.200}", stacklevel=2)
        given = {key: value for key, value in params.items() if key in known and value is not None}
        if given.get("vocab_size", -1) == -1:
            given.pop("vocab_size", None)
            if vocab_size is not None:
                given["vocab_size"] = vocab_size
        if missing := {"dim", "n_layers", "n_heads", "vocab_size"} - set(given):
            raise ConfigError(f"it lacks {', '.join(sorted(missing))}")
        config = cls(**given)
        if vocab_size not in (None, config.vocab_size):
            raise ConfigError(
                f"it says vocab_size {config.vocab_size}, but the embedding has {vocab_size} rows; "
                "they belong to different models"
            )
        return config

    def to_params(self) -> dict[str, int | float]:
        """The contents of a `params.json`, which `from_params` reads back. As in Meta's files, what
        follows from other values is left out."""
        params = asdict(self)
        implied = replace(self, n_kv_heads=0, max_seq_len=0, rope_scaling_factor=1.0)
        for name in ("n_kv_heads", "max_seq_len", "rope_scaling_factor"):
            if params[name] == getattr(implied, name):
                del params[name]
        return params

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.n_heads

    @property
    def hidden_dim(self) -> int:
        """Width of the feed-forward's hidden layer: two thirds of `4 * dim`, since SwiGLU has three
        matrices where a plain feed-forward has two (arXiv 2002.05202), rounded up as Meta does."""
        hidden = int(self.ffn_dim_multiplier * int(2 * 4 * self.dim / 3))
        return self.multiple_of * -(-hidden // self.multiple_of)

    @property
    def parameter_count(self) -> int:
        """Number of weights in the model."""
        kv_dim = self.n_kv_heads * self.head_dim
        attention = 2 * self.dim * self.dim + 2 * self.dim * kv_dim
        feed_forward = 3 * self.dim * self.hidden_dim
        norms = 2 * self.dim
        embeddings = 2 * self.vocab_size * self.dim
        return self.n_layers * (attention + feed_forward + norms) + self.dim + embeddings

    def kv_cache_bytes(self, tokens: int, bytes_per_number: int = 2) -> int:
        """Memory that the keys and values of `tokens` positions take, in bytes."""
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * tokens * bytes_per_number
