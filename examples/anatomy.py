"""Follow a sentence through one block of the decoder, with the shape of everything on the way.

    python examples/anatomy.py

Needs no checkpoint: the weights are random, the shapes and the arithmetic are Code Llama's in
small. Every step is written out with plain tensor operations; at the end the result is compared
with what the modules of `codellama.model` compute.
"""

import torch

from codellama import ModelConfig, Transformer
from codellama.model.rotary import rotary_angles

torch.manual_seed(0)
config = ModelConfig(dim=64, n_layers=1, n_heads=8, n_kv_heads=2, vocab_size=100, rope_theta=1e6)
model = Transformer(config)
block = model.layers[0]


def show(name: str, tensor: torch.Tensor, meaning: str) -> torch.Tensor:
    """Prints one line of the story and hands the tensor on."""
    print(f"{name:<12} {tuple(tensor.shape)!s:<16} {meaning}")
    return tensor


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root mean square one, then a learned weight a channel."""
    return x / (x.square().mean(-1, keepdim=True) + config.norm_eps).sqrt() * weight


print("The sentence\n")
tokens = show(
    "tokens", torch.tensor([[1, 17, 4, 42, 8, 99]]), "(batch, seq): ids of the vocabulary"
)
x = show("x", model.tok_embeddings(tokens), "(batch, seq, dim): a row of the embedding for each")
batch, seq, dim = x.shape

print("\nAttention: every token looks back\n")
attention = block.attention
h = show("h", rms_norm(x, block.attention_norm.weight), "the residual stream, normalised")
q = attention.wq(h).view(batch, seq, config.n_heads, config.head_dim)
k = attention.wk(h).view(batch, seq, config.n_kv_heads, config.head_dim)
v = attention.wv(h).view(batch, seq, config.n_kv_heads, config.head_dim)
show("q", q, "what each token asks, a question for each of 8 heads")
show("k", k, "what each token offers; 4 query heads share one of 2 key heads")
show("v", v, "what each token hands over")

cos, sin = rotary_angles(torch.arange(seq)[None], config.head_dim, config.rope_theta)
show("cos", cos, "angles: position times the frequency of each pair of channels")


def turn(heads: torch.Tensor) -> torch.Tensor:
    """Turns each pair of channels, seen as a complex number, by its angle."""
    pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)


q, k = turn(q), turn(k)
show("q, turned", q, "now a product of q and k tells how far apart they are")

k, v = (shared.repeat_interleave(config.n_heads // config.n_kv_heads, dim=2) for shared in (k, v))
scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / config.head_dim**0.5
show("scores", scores, "(batch, heads, seq, seq): how well each offer fits each question")
future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
weights = scores.masked_fill(future, -torch.inf).softmax(-1)
show("weights", weights, "sum to one over the past; the future has none")
print("\nhead 0:", *(" ".join(f"{w:.2f}" for w in row) for row in weights[0, 0]), sep="\n  ")

mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, seq, dim)
print()
show("mixed", mixed, "each head's mixture of values, side by side")
x = show("x", x + attention.wo(mixed), "projected and added to the residual stream")

print("\nFeed-forward: every token thinks for itself\n")
mlp = block.feed_forward
h = show("h", rms_norm(x, block.ffn_norm.weight), "normalised again")
gate = show(
    "gate", mlp.w1(h) * mlp.w1(h).sigmoid(), f"(batch, seq, {config.hidden_dim}): silu(w1 h)"
)
hidden = show("hidden", gate * mlp.w3(h), "the gate lets some of w3 h through")
x = show("x", x + mlp.w2(hidden), "projected back and added: the block's output")

print("\nThe next token\n")
final = rms_norm(x, model.norm.weight)
logits = show("logits", model.output(final), "(batch, seq, vocab): a score for every next token")
probability, token = logits[0, -1].softmax(-1).max(-1)
print(f"\nAfter the last token, {token} is the most likely next one, at {probability:.1%}.")

difference = (logits - model(tokens)).abs().max().item()
print(f"The modules of codellama.model differ from these steps by at most {difference:.1e}.")
