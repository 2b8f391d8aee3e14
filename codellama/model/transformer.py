"""The Code Llama decoder, as in Llama 2 (Touvron et al. 2023, arXiv 2307.09288, section 2.2).

Tokens become vectors, a stack of blocks refines them, and the last norm and projection turn each
into a score for every token that may come next.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from codellama.model.attention import Attention, causal_mask
from codellama.model.config import ModelConfig
from codellama.model.feed_forward import FeedForward
from codellama.model.kv_cache import KVCache
from codellama.model.norm import RMSNorm
from codellama.model.rotary import rotary_embedding


class TransformerBlock(nn.Module):
    """Attention, then the feed-forward; each reads the residual stream normalised, and adds to it.

    Shape:
        (batch, seq, dim) -> (batch, seq, dim)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = Attention(config.dim, config.n_heads, config.n_kv_heads)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
        *,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        normed = self.attention_norm(x)
        x = x + self.attention(normed, cos, sin, mask, cache=cache, layer=layer)
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """A causal language model whose parameters are named as in Meta's files.

    `model(tokens)` scores the next token at every position and is differentiable; with a cache from
    `new_cache` the tokens continue the sequences that it holds.

    Attributes:
        cache_type: the class of the caches that `new_cache` makes.
    """

    cache_type: type[KVCache] = KVCache

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        # nn.Embedding draws from a normal distribution, which takes seconds on the meta device.
        embedding = torch.empty(config.vocab_size, config.dim).uniform_(-0.03, 0.03)
        self.tok_embeddings = nn.Embedding.from_pretrained(embedding, freeze=False)
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Scores of the next token after each given one.

        Args:
            tokens: (batch, seq) token ids.
            cache: keys and values of what came before; is extended by `tokens`.

        Returns:
            float32 logits (batch, seq, vocab_size)
        """
        return self.logits(self.hidden(tokens, cache))

    def hidden(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """The normalised output of the last block, for callers who need the logits of few
        positions. Takes what `forward` takes.

        Shape:
            (batch, seq) -> (batch, seq, dim)
        """
        seq = tokens.shape[1]
        mask = None
        if cache is None:
            positions = torch.arange(seq, device=tokens.device)[None]
        else:
            positions = cache.next_positions(seq)
            if cache.needs_mask(seq):
                mask = causal_mask(positions, cache.key_count(seq))
        positions = positions.float() / self.config.rope_scaling_factor
        cos, sin = rotary_embedding(positions, self.config.head_dim, self.config.rope_theta)
        x = self.tok_embeddings(tokens)
        for layer, block in enumerate(self.layers):
            x = block(x, cos, sin, mask, cache=cache, layer=layer)
        if cache is not None:
            cache.advance(seq)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token of the vocabulary, float32.

        Shape:
            (..., dim) -> (..., vocab_size)
        """
        return self.output(hidden).float()

    def new_cache(self, batch_size: int = 1, capacity: int = 0) -> KVCache:
        """An empty cache for this model, of its dtype and on its device."""
        heads = getattr(self.layers[0].attention, "n_kv_heads", self.config.n_kv_heads)
        weight = self.tok_embeddings.weight
        shape = len(self.layers), heads, self.config.head_dim, batch_size
        return self.cache_type(*shape, capacity=capacity, dtype=weight.dtype, device=weight.device)
