"""The hyper-parameters of a Code Llama model, as its `params.json` gives them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from codellama.errors import ConfigError

LLAMA2_CONTEXT = 4096
CODE_LLAMA_CONTEXT = 100 * 1024
LARGEST = 2**24
"""The most that a field without an entry in `_BOUNDS` may be; sizes of tensors then fit 64 bits."""
_BOUNDS = {"n_layers": 1000, "rope_theta": 10**12}


@dataclass(frozen=True)
class ModelConfig:
    """Every number that fixes a model's shape and arithmetic.

    The fields are the keys of Meta's `params.json`; 0 `n_kv_heads` or `max_seq_len`: not given.

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

    dim: int
    n_layers: int
    n_heads: int
    vocab_size: int
    n_kv_heads: int = 0
    multiple_of: int = 256
    ffn_dim_multiplier: float = 1.0
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    max_seq_len: int = 0
    rope_scaling_factor: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            name, value = field.name, getattr(self, field.name)
            whole, most = field.type == "int", _BOUNDS.get(field.name, LARGEST)
            is_number = isinstance(value, Integral if whole else Real)
            if isinstance(value, bool) or not is_number:
                kind = "a whole number" if whole else "a number"
                raise ConfigError(f"{name} is {value!r}; expected {kind}")
            if value != field.default and not 0 < value <= most:
                raise ConfigError(f"{name} is {value}; a positive number up to {most:,} is needed")
            # Numpy's numbers become Python's, which JSON can hold.
            object.__setattr__(self, name, int(value) if whole else float(value))
        context = LLAMA2_CONTEXT if self.rope_theta <= 10_000 else CODE_LLAMA_CONTEXT
        object.__setattr__(self, "n_kv_heads", self.n_kv_heads or self.n_heads)
        object.__setattr__(self, "max_seq_len", self.max_seq_len or context)
        if not 0 < self.hidden_dim <= LARGEST:
            raise ConfigError(
                f"ffn_dim_multiplier {self.ffn_dim_multiplier} makes the feed-forward "
                f"{self.hidden_dim:,} wide; expected a width up to {LARGEST:,}"
            )
        if self.dim % self.n_heads or self.head_dim % 2:
            raise ConfigError(
                f"dim {self.dim} over n_heads {self.n_heads} does not give heads of an even "
                "number of channels, which the rotary embedding needs"
            )
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}"
            )

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
