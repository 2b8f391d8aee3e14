"""Lesson 2: from a plain transformer to Llama 2 to Code Llama, in five steps.

    python examples/2_from_llama_2.py

A transformer of 60 lines grows: each class adds one idea to the one before, and each idea is
checked. The last one runs the checkpoint that comes with the package, as the library does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from lesson import same, title
from torch import Tensor

from codellama import CodeLlama, ModelConfig, Transformer, generate_tokens, prompts
from codellama.cli import checkpoint_directory, run


class Plain:
    """Causal attention and SwiGLU between RMSNorms; knows nothing of the order of tokens."""

    def __init__(self, weights: dict[str, Tensor], config: ModelConfig) -> None:
        self.weights, self.config, self.layer = weights, config, 0

    def __call__(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Token ids (seq) at the positions from `start` -> logits (seq, vocab)."""
        x = self.weights["tok_embeddings.weight"][tokens]  # (seq, dim)
        for layer in range(self.config.n_layers):
            self.layer = layer
            x = x + self.attention(self.norm(x, self.w("attention_norm")), start)
            h = self.norm(x, self.w("ffn_norm"))
            h = F.silu(h @ self.w("feed_forward.w1").T) * (h @ self.w("feed_forward.w3").T)
            x = x + h @ self.w("feed_forward.w2").T
        return self.norm(x, self.weights["norm.weight"]) @ self.weights["output.weight"].T

    def w(self, name: str) -> Tensor:
        return self.weights[f"layers.{self.layer}.{name}.weight"]

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.config.norm_eps).rsqrt() * weight

    def attention(self, x: Tensor, start: int) -> Tensor:
        q, k, v = (x @ self.w(f"attention.w{name}").T for name in "qkv")
        q, k, v = (y.view(len(x), -1, self.config.head_dim) for y in (q, k, v))  # (seq, heads, …)
        k, v = self.remember(self.place(k, start), v)
        return self.attend(self.place(q, start), k, v).flatten(1) @ self.w("attention.wo").T

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As many key heads as query heads; each query sees the keys no later than itself."""
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + len(k) - len(q))
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -torch.inf).softmax(-1), v)

    def place(self, heads: Tensor, start: int) -> Tensor:
        return heads

    def remember(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v


class Rotary(Plain):
    """Step 1, as in Llama: queries and keys are rotated by their position."""

    def place(self, heads: Tensor, start: int) -> Tensor:
        pairs = torch.arange(0, heads.shape[-1], 2) / heads.shape[-1]
        positions = torch.arange(start, start + len(heads))
        angles = positions[:, None, None] * self.config.rope_theta**-pairs
        a, b = heads.unflatten(-1, (-1, 2)).unbind(-1)
        turned = a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()
        return torch.stack(turned, -1).flatten(-2)


class Grouped(Rotary):
    """Step 2, as in Llama 2 34B and 70B: several query heads share one key and value head."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        sharing = self.config.n_heads // self.config.n_kv_heads
        return super().attend(q, k.repeat_interleave(sharing, 1), v.repeat_interleave(sharing, 1))


class Cached(Grouped):
    """Step 3: keys and values are kept, so that each token is computed once."""

    def __init__(self, weights: dict[str, Tensor], config: ModelConfig) -> None:
        super().__init__(weights, config)
        self.cache: dict[int, tuple[Tensor, Tensor]] = {}

    def remember(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        earlier_k, earlier_v = self.cache.get(self.layer, (k[:0], v[:0]))
        self.cache[self.layer] = torch.cat([earlier_k, k]), torch.cat([earlier_v, v])
        return self.cache[self.layer]


@torch.no_grad()
def from_llama_2() -> None:
    """Grow a transformer into Code Llama, and check each step."""
    torch.manual_seed(0)
    config = ModelConfig(dim=64, n_layers=1, n_heads=4, n_kv_heads=2, vocab_size=50)
    weights = {name: 2 * w.detach() for name, w in Transformer(config).state_dict().items()}
    four_heads = dict(weights)  # the same model without sharing: two of four heads are copies
    for name in ("layers.0.attention.wk.weight", "layers.0.attention.wv.weight"):
        four_heads[name] = weights[name].unflatten(0, (2, -1)).repeat_interleave(2, 0).flatten(0, 1)
    tokens, swapped = torch.tensor([[7, 1, 30, 12, 5], [1, 30, 7, 12, 5]])

    title("Step 0: attention without positions")
    plain = Plain(four_heads, config)
    same("The first three tokens in another order", plain(tokens)[-1], plain(swapped)[-1])
    print("One block cannot tell the order of earlier tokens: attention is a weighted mean.")

    title("Step 1: rotary position embedding (RoPE)")
    rotary = Rotary(four_heads, config)
    same("The same two texts", rotary(tokens)[-1], rotary(swapped)[-1], expect=False)
    same("Positions 0 to 4, and 500 to 504", rotary(tokens), rotary(tokens, 500))
    print("Order counts now, and only the distance between tokens does.")

    title("Step 2: grouped queries (GQA)")
    grouped = Grouped(weights, config)
    same("Two key heads, and four with copies", grouped(tokens), rotary(tokens))
    print("A token's keys and values take half the memory.")

    title("Step 3: the KV cache")
    cached = Cached(weights, config)
    steps = torch.cat([cached(tokens[at : at + 1], at) for at in range(len(tokens))])
    same("Token by token, and all at once", steps, grouped(tokens))
    print("A new token is one row through the matrices, however long the text is.")

    title("Step 4: a base of a million")
    llm = CodeLlama.load(checkpoint_directory(None), "cpu", "float32", fast=False)
    library, tokenizer = llm.model, llm.tokenizer
    weights, config = library.state_dict(), library.config
    text = torch.tensor(tokenizer.encode("for name in names:\n    print(name", bos=True))
    for theta in (1e4, 1e6):
        library.config = replace(config, rope_theta=theta)
        ours = Grouped(weights, library.config)(text)
        same(f"Ours and codellama.model, base {theta:g}", ours, library(text[None])[0])
    print("Code Llama changes one number of Llama 2, and trains on. Lesson 3 shows why.")

    title("Step 5: infilling")
    prefix, suffix = "def first(items):\n    if not items:\n", "\n    return items[0]\n"
    ids = [tokenizer.bos_id, tokenizer.prefix_id, *tokenizer.encode(prefix)]
    ids += [tokenizer.suffix_id, *tokenizer.encode_continuation(suffix), tokenizer.middle_id]
    assert ids == prompts.infilling(tokenizer, prefix, suffix)
    print("The same model, another order:", " ".join(map(tokenizer.piece, ids)))
    cached, written = Cached(weights, config), list[int]()
    logits = cached(torch.tensor(ids))
    while (token := logits[-1].argmax()) != tokenizer.eot_id:
        written.append(int(token))
        logits = cached(token[None], len(ids) + len(written) - 1)
    middle = tokenizer.decode(written, continuation=True)
    print(f"{prefix}[{middle}]{suffix}")
    stop_ids = [tokenizer.eot_id, tokenizer.eos_id]
    assert written == list(generate_tokens(library, ids, 256, stop_ids=stop_ids))
    [completion] = llm.infill([(prefix, suffix)])
    assert middle == completion.text
    print("The loop that wrote it is `codellama.generate_tokens`, 25 lines.")

    print("\nExercise 1: let `Cached` keep the last 8 tokens alone (a sliding window).")
    print("From which token on do its logits differ from those of `Grouped`?")
    print("Exercise 2: ask for the same middle with the suffix first.")


if __name__ == "__main__":
    run(from_llama_2)
