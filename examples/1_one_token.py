"""Lesson 1: one token, step by step.

    python examples/1_one_token.py [--prompt TEXT] [--ckpt DIR] [--plot FILE.png]

A model reads a prompt and predicts the next token, by plain operations on tensors, each with its
shape. Nothing of `codellama.model` computes here; at the end its logits are compared with ours.
The weights are read from disk when they are used, a slice at a time, so that a 7B model needs less
than 1 GB of memory (`--ckpt CodeLlama-7b`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from command_line import run_example
from lesson import Picture, show, title
from torch import Tensor

from codellama import ModelConfig, load_model
from codellama.cli import checkpoint_directory, human_bytes, peak_memory_bytes
from codellama.weights.checkpoint import parameter_shapes
from codellama.weights.loading import load_tokenizer, open_checkpoint

ROWS = 1_024
"""Rows of a matrix that are in memory together."""
SMALL = 100_000_000
"""Parameters up to which the library's model is loaded too, for the comparison."""


@dataclass(frozen=True)
class Prompt:
    """What is read, and by which model.

    Args:
        prompt: the text to continue.
        ckpt: checkpoint directory; without it, the small one that comes with the package.
    """

    prompt: str = "import os\n\ndef read(path):\n    with open("
    ckpt: str | None = None


class Weights:
    """A checkpoint's parameters, in float32, read from its mapped files when they are used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.checkpoint = open_checkpoint(directory)
        self.config: ModelConfig = self.checkpoint.config
        self.shapes = parameter_shapes(self.config)

    def vector(self, name: str) -> Tensor:
        """A norm's weight."""
        return self.checkpoint.read(f"{name}.weight", dtype=torch.float32)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Some rows of a matrix; nothing else is read."""
        region = slice(start, stop), slice(None)
        return self.checkpoint.read(f"{name}.weight", region, dtype=torch.float32)

    def multiply(self, x: Tensor, name: str) -> Tensor:
        """x W^T for a matrix W (out, in): (seq, in) -> (seq, out)."""
        count = self.shapes[f"{name}.weight"][0]
        product = torch.empty(len(x), count)
        for start in range(0, count, ROWS):
            stop = min(start + ROWS, count)
            product[:, start:stop] = x @ self.rows(name, start, stop).T
        return product

    def forget(self) -> None:
        """Maps the files anew, which frees the memory of what has been read."""
        del self.checkpoint
        self.checkpoint = open_checkpoint(self.directory)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divides by the root of the mean square, then multiplies each channel by its weight."""
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Rotates each pair of channels, taken as a complex number: (seq, heads, head_dim) -> same."""
    pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(turned).flatten(-2)


def block(
    x: Tensor, weights: Weights, layer: int, show: Callable[..., None]
) -> tuple[Tensor, Tensor]:
    """One decoder block: (seq, dim) -> (seq, dim), and attention (heads, seq, seq)."""
    config, seq, name = weights.config, len(x), f"layers.{layer}"
    heads, kv_heads = config.n_heads, config.n_kv_heads
    h = rms_norm(x, weights.vector(f"{name}.attention_norm"), config.norm_eps)
    show("h", h, "RMSNorm of x: what attention reads")
    q = weights.multiply(h, f"{name}.attention.wq").view(seq, heads, -1)
    k = weights.multiply(h, f"{name}.attention.wk").view(seq, kv_heads, -1)
    v = weights.multiply(h, f"{name}.attention.wv").view(seq, kv_heads, -1)
    show("q", q, "h wq^T: a query for each token and head, (seq, heads, head_dim)")
    show("k", k, f"h wk^T: keys; {heads // kv_heads} query heads share one of {kv_heads}")
    show("v", v, "h wv^T: values")
    pairs = torch.arange(0, config.head_dim, 2) / config.head_dim
    angles = torch.arange(seq)[:, None] * config.rope_theta**-pairs
    show("angles", angles, "position times frequency, (seq, head_dim / 2)")
    q, k = rotate(q, angles), rotate(k, angles)
    show("q rotated", q, "pairs of channels rotated by their angles; so is k")
    k, v = (shared.repeat_interleave(heads // kv_heads, dim=1) for shared in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / config.head_dim**0.5
    show("scores", scores, "q k^T / sqrt(head_dim), (heads, seq, seq)")
    later = torch.ones(seq, seq, dtype=torch.bool).triu(1)
    attention = scores.masked_fill(later, -torch.inf).softmax(-1)
    show("attention", attention, "softmax over the token itself and earlier ones; rows sum to 1")
    mixed = torch.einsum("hqk,khd->qhd", attention, v).flatten(1)
    show("mixed", mixed, "means of values, weighted by attention; heads side by side")
    x = x + weights.multiply(mixed, f"{name}.attention.wo")
    show("x", x, "x + mixed wo^T: the residual stream")
    h = rms_norm(x, weights.vector(f"{name}.ffn_norm"), config.norm_eps)
    gate = weights.multiply(h, f"{name}.feed_forward.w1")
    gate = gate * gate.sigmoid()
    show("gate", gate, "silu(h w1^T), (seq, hidden_dim)")
    hidden = gate * weights.multiply(h, f"{name}.feed_forward.w3")
    show("hidden", hidden, "gate * h w3^T")
    x = x + weights.multiply(hidden, f"{name}.feed_forward.w2")
    show("x", x, "x + hidden w2^T: the block's output")
    return x, attention


@torch.no_grad()
def one_token(options: Prompt, picture: Picture) -> None:
    """Read a prompt and predict the next token, step by step."""
    directory = checkpoint_directory(options.ckpt)
    weights = Weights(directory)
    config = weights.config
    tokenizer = load_tokenizer(directory, config.vocab_size)

    title("From text to vectors")
    ids = tokenizer.encode(options.prompt, bos=True)
    pieces = [tokenizer.piece(id).replace("<0x0A>", "\\n") for id in ids]
    print(*(f"{id}:{piece}" for id, piece in zip(ids, pieces, strict=True)))
    show("tokens", torch.tensor(ids), "(seq): ids of the vocabulary's pieces")
    x = torch.cat([weights.rows("tok_embeddings", id, id + 1) for id in ids])
    show("x", x, "(seq, dim): a row of the embedding for each token")

    title(f"Block 0 of {config.n_layers}")
    attentions, guesses = [], []
    for layer in range(config.n_layers):
        x, attention = block(x, weights, layer, show if layer == 0 else lambda *_: None)
        weights.forget()
        final = rms_norm(x, weights.vector("norm"), config.norm_eps)
        logits = weights.multiply(final, "output")
        attentions.append(attention)
        weights.forget()
        guesses.append(logits.softmax(-1).max(-1))

    title("The guess after each block (logit lens)")
    print("The last norm and the output matrix can be applied after any block:\n")
    for layer, (share, guess) in enumerate(guesses):
        print(f"after block {layer:2}: {tokenizer.piece(int(guess[-1])):<16} {share[-1]:6.1%}")

    title("The next token")
    show("final", final, "RMSNorm of the last block's output")
    show("logits", logits, "final output^T, (seq, vocab): the next token's score, at each position")
    shares, best = logits[-1].softmax(-1).topk(5)
    for share, id in zip(shares, best.tolist(), strict=True):
        print(f"{share:6.1%}  {tokenizer.piece(id)}")

    title("Check")
    if peak := peak_memory_bytes(torch.device("cpu")):
        print(f"This took {human_bytes(peak)} of memory at most, PyTorch's own code included.")
    if config.parameter_count > SMALL:
        print("The model is too large to be loaded a second time for the comparison.")
    else:
        model = load_model(directory, "cpu", torch.float32)
        difference = (model(torch.tensor([ids]))[0] - logits).abs().max().item()
        print(f"Our logits differ from those of codellama.model by {difference:.1e} at most.")
        assert difference < 1e-3
    if options.ckpt is None:
        print("Expect: `path`, from block 7 on, with 76 %; a difference of about 1e-5.")
    print("\nExercise 1: leave out `rotate` in `block`. Which guesses change?")
    print("Exercise 2: which head looks at the token before its own? Print the means of the")
    print("first diagonal of each `attention`, and take that head's values away.")
    if picture.plot:
        draw(
            picture, pieces, attentions, [[tokenizer.piece(int(i)) for i in g] for _, g in guesses]
        )


def draw(
    picture: Picture, pieces: list[str], attentions: list[Tensor], guesses: list[list[str]]
) -> None:
    """Three heads, each the clearest of its kind, and the guesses after each block."""
    every = torch.stack(attentions)[..., 1:, :]  # (layers, heads, seq - 1, seq)
    predicted = guesses[-1][-1].strip("▁")
    copies = [at for at, piece in enumerate(pieces) if piece.strip("▁") == predicted]
    kinds = {
        "to the token before": every.diagonal(0, -2, -1).mean(-1),
        "to the first token": every[..., 0].mean(-1),
        f"of the last token, to {predicted}": every[:, :, -1, copies].sum(-1),
    }
    with picture.axes(4, 15, 4.2) as axes:
        for axis, (kind, strength) in zip(axes, kinds.items(), strict=False):
            layer, head = divmod(int(strength.flatten().argmax()), strength.shape[1])
            axis.imshow(attentions[layer][head], cmap="Blues", vmin=0, vmax=1)
            axis.set(title=f"{kind}:\nblock {layer}, head {head}")
            axis.set_xticks(range(len(pieces)), pieces, rotation=90)
            axis.set_yticks(range(len(pieces)), pieces)
        shown = range(len(pieces) - 4, len(pieces))
        for layer, row in enumerate(guesses):
            for column, at in enumerate(shown):
                axes[3].text(column, layer, row[at], ha="center", va="center", fontsize=9)
        axes[3].set(title="guess after each block", ylabel="block")
        axes[3].set(xlim=(-0.5, 3.5), ylim=(-0.5, len(guesses) - 0.5))
        axes[3].set_xticks(range(4), [pieces[at] for at in shown])


if __name__ == "__main__":
    run_example(one_token)
