"""Lesson 1: one token, step by step.

    python examples/1_one_token.py [--prompt TEXT] [--ckpt DIR] [--plot FILE.png]

A model reads a prompt and predicts the next token, by plain operations on tensors, each with its
shape. Nothing of `codellama.model` computes here; at the end its logits are compared with ours.
Each weight is read from disk when it is used, so that a 7B model needs less than 1 GB of memory
beside the mapped files (`--ckpt CodeLlama-7b`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from lesson import Picture, heat_map, same, show, title
from torch import Tensor

from codellama import load_model
from codellama.cli import checkpoint_directory, run
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.loading import load_tokenizer, open_checkpoint


@dataclass(frozen=True)
class Prompt:
    """What is read, and by which model.

    Args:
        prompt: the text to continue.
        ckpt: checkpoint directory; without it, the small one that comes with the package.
    """

    prompt: str = "import os\n\ndef read(path):\n    with open("
    ckpt: str | None = None


def read(checkpoint: Checkpoint, name: str) -> Tensor:
    """A parameter in float32, read from the mapped files now."""
    return checkpoint.read(f"{name}.weight", dtype=torch.float32)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divides by the root of the mean square, then multiplies each channel by its weight."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def apply_rotary_embedding(heads: Tensor, angles: Tensor) -> Tensor:
    """Rotates each pair of channels, taken as a complex number: (seq, heads, head_dim) -> same."""
    pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(turned).flatten(-2)


def block(x: Tensor, checkpoint: Checkpoint, layer: int) -> tuple[Tensor, Tensor]:
    """One decoder block: (seq, dim) -> (seq, dim), and attention (heads, seq, seq)."""
    config, seq = checkpoint.config, len(x)

    def w(name: str) -> Tensor:
        return read(checkpoint, f"layers.{layer}.{name}")

    note = show if layer == 0 else lambda *_: None  # the shapes are those of block 0 everywhere
    heads, kv_heads = config.n_heads, config.n_kv_heads
    h = rms_norm(x, w("attention_norm"), config.norm_eps)
    note("h", h, "RMSNorm of x: what attention reads")
    q = (h @ w("attention.wq").T).view(seq, heads, -1)
    k = (h @ w("attention.wk").T).view(seq, kv_heads, -1)
    v = (h @ w("attention.wv").T).view(seq, kv_heads, -1)
    note("q", q, "h wq^T: a query for each token and head, (seq, heads, head_dim)")
    note("k", k, f"h wk^T: keys; {heads // kv_heads} query heads share one of {kv_heads}")
    note("v", v, "h wv^T: values")
    pairs = torch.arange(0, config.head_dim, 2) / config.head_dim
    angles = torch.arange(seq)[:, None] * config.rope_theta**-pairs
    note("angles", angles, "position times frequency, (seq, head_dim / 2)")
    q, k = apply_rotary_embedding(q, angles), apply_rotary_embedding(k, angles)
    note("q rotated", q, "pairs of channels rotated by their angles; so is k")
    k, v = (shared.repeat_interleave(heads // kv_heads, dim=1) for shared in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / config.head_dim**0.5
    note("scores", scores, "q k^T / sqrt(head_dim), (heads, seq, seq)")
    later = torch.ones(seq, seq, dtype=torch.bool).triu(1)
    attention = scores.masked_fill(later, -torch.inf).softmax(-1)
    note("attention", attention, "softmax over the token itself and earlier ones; rows sum to 1")
    mixed = torch.einsum("hqk,khd->qhd", attention, v).flatten(1)
    note("mixed", mixed, "means of values, weighted by attention; heads side by side")
    x = x + mixed @ w("attention.wo").T
    note("x", x, "x + mixed wo^T: the residual stream")
    h = rms_norm(x, w("ffn_norm"), config.norm_eps)
    gate = h @ w("feed_forward.w1").T
    gate = gate * gate.sigmoid()
    note("gate", gate, "silu(h w1^T), (seq, hidden_dim)")
    hidden = gate * (h @ w("feed_forward.w3").T)
    note("hidden", hidden, "gate * h w3^T")
    x = x + hidden @ w("feed_forward.w2").T
    note("x", x, "x + hidden w2^T: the block's output")
    return x, attention


@torch.no_grad()
def one_token(options: Prompt, picture: Picture) -> None:
    """Read a prompt and predict the next token, step by step."""
    directory = checkpoint_directory(options.ckpt)
    checkpoint = open_checkpoint(directory)
    config = checkpoint.config
    tokenizer = load_tokenizer(directory, config.vocab_size)

    title("From text to vectors")
    print(f"{options.prompt}\n")
    ids = tokenizer.encode(options.prompt, bos=True)
    pieces = [tokenizer.piece(id).replace("<0x0A>", "\\n") for id in ids]
    print(*(f"{id}:{piece}" for id, piece in zip(ids, pieces, strict=True)))
    show("tokens", torch.tensor(ids), "(seq): ids of the vocabulary's pieces")
    x = read(checkpoint, "tok_embeddings")[ids]
    show("x", x, "(seq, dim): a row of the embedding for each token")

    title(f"Block 0 of {config.n_layers}, and the guess after each block (logit lens)")
    attentions = []
    for layer in range(config.n_layers):
        checkpoint = open_checkpoint(directory)  # mapped anew, which frees the block before
        x, attention = block(x, checkpoint, layer)
        attentions.append(attention)
        final = rms_norm(x, read(checkpoint, "norm"), config.norm_eps)
        logits = final @ read(checkpoint, "output").T
        share, guess = logits[-1].softmax(-1).max(-1)
        print(f"after block {layer:2}: {tokenizer.piece(int(guess)):<16} {share:6.1%}")
    print("The last norm and the output matrix can be applied after any block.")

    title("The next token")
    show("final", final, "RMSNorm of the last block's output")
    show("logits", logits, "final output^T, (seq, vocab): the next token's score, at each position")
    shares, best = logits[-1].softmax(-1).topk(5)
    for share, id in zip(shares, best.tolist(), strict=True):
        print(f"{share:6.1%}  {tokenizer.piece(id)}")

    title("Check")
    if config.parameter_count < 1e8:  # a larger one is not loaded a second time
        model = load_model(directory, "cpu", torch.float32)
        same("Our logits and those of codellama.model", logits, model(torch.tensor([ids]))[0])
    if options.ckpt is None:
        print("Expect: `path`, from block 7 on, with 76 %; a difference of about 1e-5.")
    print("\nExercise 1: leave out `rotate` in `block`. Which guesses change?")
    print("Exercise 2: which head looks at the token before its own? Print the means of the")
    print("first diagonal of each `attention`, and take that head's values away.")
    if picture.plot:
        likeliest = tokenizer.piece(int(best[0])).strip("▁")
        copies = [at for at, piece in enumerate(pieces) if piece.strip("▁") == likeliest]
        every = torch.stack(attentions)  # (layers, heads, seq, seq)
        kinds = {
            "to the token before": every.diagonal(-1, -2, -1).mean(-1),
            "to the first token": every[..., 0].mean(-1),
            "of the last token, to the guess": every[:, :, -1, copies].sum(-1),
        }
        with picture.axes(3, 11.5, 4.2) as axes:
            for axis, (kind, strength) in zip(axes, kinds.items(), strict=True):
                layer, head = divmod(int(strength.argmax()), config.n_heads)
                heat_map(axis, every[layer, head], pieces)
                axis.set(title=f"{kind}:\nblock {layer}, head {head}")


if __name__ == "__main__":
    run(one_token, first="prompt")
