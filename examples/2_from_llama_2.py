"""Lesson 2: from a plain transformer to Llama 2 to Code Llama, in five steps.

    python examples/2_from_llama_2.py

A transformer of 60 lines grows: each class adds one idea to the one before, and each idea is
checked. The last one runs the checkpoint that comes with the package, as the library does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from command_line import run_example
from lesson import title
from torch import Tensor

from codellama import CodeLlama, ModelConfig, Tokenizer, Transformer, load_model, prompts
from codellama.cli import checkpoint_directory

CODE = "def first(items):\n    if not items:\n<FILL_ME>\n    return items[0]\n"
LONGEST = 20


class Plain:
    """Causal attention and SwiGLU between RMSNorms; knows nothing of the order of tokens."""

    def __init__(self, weights: dict[str, Tensor], config: ModelConfig) -> None:
        self.weights, self.config = weights, config

    def __call__(self, tokens: Tensor, start: int = 0) -> Tensor:
        """Token ids (seq) at the positions from `start` -> logits (seq, vocab)."""
        x = self.weights["tok_embeddings.weight"][tokens]  # (seq, dim)
        for layer in range(self.config.n_layers):
            w = {name: self.weights[f"layers.{layer}.{name}.weight"] for name in NAMES}
            x = x + self.attention(self.norm(x, w["attention_norm"]), w, start, layer)
            h = self.norm(x, w["ffn_norm"])
            h = F.silu(h @ w["feed_forward.w1"].T) * (h @ w["feed_forward.w3"].T)
            x = x + h @ w["feed_forward.w2"].T
        return self.norm(x, self.weights["norm.weight"]) @ self.weights["output.weight"].T

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.config.norm_eps).rsqrt() * weight

    def attention(self, x: Tensor, w: dict[str, Tensor], start: int, layer: int) -> Tensor:
        q, k, v = (
            (x @ w[f"attention.w{n}"].T).view(len(x), -1, self.config.head_dim) for n in "qkv"
        )  # (seq, heads, head_dim)
        q, k = self.place(q, start), self.place(k, start)
        k, v = self.remember(k, v, layer)
        return self.attend(q, k, v).flatten(1) @ w["attention.wo"].T

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As many key heads as query heads; each query sees the keys no later than itself."""
        scores = torch.einsum("qhd,khd->hqk", q, k) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + len(k) - len(q))
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(later, -torch.inf).softmax(-1), v)

    def place(self, heads: Tensor, start: int) -> Tensor:
        return heads

    def remember(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        return k, v


class Rotary(Plain):
    """Step 1, as in Llama: queries and keys are rotated by their position."""

    def place(self, heads: Tensor, start: int) -> Tensor:
        seq, _, channels = heads.shape
        frequencies = self.config.rope_theta ** -(torch.arange(0, channels, 2) / channels)
        angles = torch.arange(start, start + seq)[:, None, None] * frequencies
        a, b = heads.unflatten(-1, (-1, 2)).unbind(-1)
        turned = a * angles.cos() - b * angles.sin(), a * angles.sin() + b * angles.cos()
        return torch.stack(turned, -1).flatten(-2)


class Grouped(Rotary):
    """Step 2, as in Llama 2 34B and 70B: several query heads share one key and value head."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        sharing = self.config.n_heads // self.config.n_kv_heads
        k, v = k.repeat_interleave(sharing, 1), v.repeat_interleave(sharing, 1)
        return super().attend(q, k, v)


class Cached(Grouped):
    """Step 3: keys and values are kept, so that each token is computed once."""

    def __init__(self, weights: dict[str, Tensor], config: ModelConfig) -> None:
        super().__init__(weights, config)
        self.cache: dict[int, tuple[Tensor, Tensor]] = {}

    def remember(self, k: Tensor, v: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        if layer in self.cache:
            k, v = (torch.cat(pair) for pair in zip(self.cache[layer], (k, v), strict=True))
        self.cache[layer] = k, v
        return k, v


NAMES = [
    *("attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo"),
    *("ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
]


def check(claim: str, found: Tensor, expected: Tensor, same: bool = True) -> None:
    """Prints and asserts that two results are the same, or are not."""
    difference = (found - expected).abs().max().item()
    print(f"{claim}: they differ by {difference:.1e}")
    assert (difference < 1e-3) == same


@dataclass(frozen=True)
class Source:
    """What runs in the end.

    Args:
        ckpt: a small checkpoint that can infill; without it, the one that comes with the package.
    """

    ckpt: str | None = None


@torch.no_grad()
def from_llama_2(source: Source) -> None:
    """Grow a transformer into Code Llama, and check each step."""
    directory = checkpoint_directory(source.ckpt)
    library = load_model(directory, "cpu", torch.float32)
    torch.manual_seed(0)
    config = ModelConfig(dim=64, n_layers=1, n_heads=4, vocab_size=50, multiple_of=32)
    model = Transformer(config)
    weights = {name: 4 * weight.detach() for name, weight in model.state_dict().items()}
    tokens = torch.tensor([7, 1, 30, 12, 5])
    swapped = torch.tensor([1, 30, 7, 12, 5])

    title("Step 0: attention without positions")
    plain, rotary = Plain(weights, config), Rotary(weights, config)
    check("The first three tokens in another order", plain(tokens)[-1], plain(swapped)[-1])
    print("One block cannot tell the order of earlier tokens: attention is a weighted mean.")

    title("Step 1: rotary position embedding (RoPE)")
    check("The same two texts", rotary(tokens)[-1], rotary(swapped)[-1], same=False)
    check("Positions 0 to 4, and 500 to 504", rotary(tokens), rotary(tokens, 500))
    print("Order counts now, and only the distance between tokens does.")

    title("Step 2: grouped queries (GQA)")
    fewer = replace(config, n_kv_heads=2)
    shared = dict(weights)
    for name in ("layers.0.attention.wk.weight", "layers.0.attention.wv.weight"):
        two = weights[name].unflatten(0, (4, -1))[::2]  # the first and third head
        shared[name] = two.flatten(0, 1)
        weights[name] = two.repeat_interleave(2, 0).flatten(0, 1)
    grouped, copied = Grouped(shared, fewer), Rotary(weights, config)
    check("Two key heads, and four of which two are copies", grouped(tokens), copied(tokens))
    print(f"A token's keys and values take {fewer.kv_cache_bytes(1)} instead of ", end="")
    print(f"{config.kv_cache_bytes(1)} bytes.")

    title("Step 3: the KV cache")
    cached = Cached(shared, fewer)
    steps = torch.cat([cached(tokens[at : at + 1], at) for at in range(len(tokens))])
    check("Token by token, and all at once", steps, grouped(tokens))
    print("A new token is one row through the matrices, however long the text is.")

    title("Step 4: a base of a million")
    weights, config = library.state_dict(), library.config
    tokenizer = Tokenizer(directory / "tokenizer.model")
    text = torch.tensor(tokenizer.encode("for name in names:\n    print(name", bos=True))
    for theta in (1e4, config.rope_theta):
        library.config = replace(config, rope_theta=theta)
        ours = Grouped(weights, library.config)(text)
        check(f"Ours and codellama.model, base {theta:g}", ours, library(text[None])[0])
    print("Code Llama changes one number of Llama 2, and trains on. Lesson 3 shows why.")

    title("Step 5: infilling")
    prefix, suffix = prompts.split_fill(CODE)
    ids = [tokenizer.bos_id, tokenizer.prefix_id, *tokenizer.encode(prefix)]
    ids += [tokenizer.suffix_id, *tokenizer.encode_continuation(suffix), tokenizer.middle_id]
    assert ids == prompts.infilling(tokenizer, prefix, suffix)
    print("The same model, another order:", " ".join(map(tokenizer.piece, ids)))
    written: list[int] = []
    cached, new = Cached(weights, config), torch.tensor(ids)
    while len(written) < LONGEST:
        logits = cached(new, len(ids) + len(written) - len(new))
        written.append(int(logits[-1].argmax()))
        if written[-1] == tokenizer.eot_id:
            break
        new = torch.tensor(written[-1:])
    middle = tokenizer.decode(written, continuation=True)
    print(f"{prefix}[{middle}]{suffix}")
    library.config = config
    [completion] = CodeLlama(library, tokenizer).infill([(prefix, suffix)], max_new_tokens=LONGEST)
    assert middle == completion.text

    print("Exercise 1: let `Cached` keep the last 8 tokens alone (a sliding window).")
    print("From which token on do its logits differ from those of `Grouped`?")
    print("Exercise 2: ask for the same middle with the suffix first.")


if __name__ == "__main__":
    run_example(from_llama_2)
