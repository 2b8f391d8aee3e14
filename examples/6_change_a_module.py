"""Lesson 6: change a module.

    python examples/6_change_a_module.py [--steps 60] [--plot FILE.png]

The modules of `codellama.model` are ordinary PyTorch. So research with them is: look at any tensor
through a hook, put another function or module in a module's place, and train or measure. Four
changes, each a few lines: tensors seen by name, attention that records its weights, LayerNorm
instead of RMSNorm, and positions that are divided by a factor (arXiv 2306.15595).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from lesson import Picture, python_source, same, show, title
from torch import Tensor, nn

from codellama import ModelConfig, Tokenizer, Transformer, load_model
from codellama.cli import checkpoint_directory, run
from codellama.errors import number
from codellama.evaluation import plotting
from codellama.model.norm import RMSNorm
from codellama.model.rotary import rotary_embedding

TEXT = "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):"
FACTOR = 4


@dataclass(frozen=True)
class Budget:
    """How long to train.

    Args:
        steps: steps of each of the three trainings.
        sequence: tokens in a sequence.
    """

    steps: int = number(60, least=1)
    sequence: int = number(256, least=1)


class RecordedAttention:
    """Attention that keeps its weights, (batch, heads, seq, keys), for whoever wants to look."""

    def __call__(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        sharing = queries.shape[1] // keys.shape[1]  # query heads for each key and value head
        keys, values = keys.repeat_interleave(sharing, 1), values.repeat_interleave(sharing, 1)
        scores = queries @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        if mask is None:  # each query sees the keys up to its own, which are the last
            every = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
            mask = every.tril(keys.shape[2] - queries.shape[2])
        self.weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return self.weights @ values


def divide_positions(block: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A hook before a block: its angles are those of positions divided by `FACTOR`."""
    x, _, _, *rest = args
    positions = torch.arange(x.shape[1], device=x.device)[None] / FACTOR
    return x, *rotary_embedding(positions, block.attention.head_dim, 1e6), *rest


def loss(model: Transformer, rows: Tensor) -> Tensor:
    """Nats a token, of texts (batch, seq + 1)."""
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def train(model: Transformer, tokens: Tensor, budget: Budget, rate: float) -> None:
    """Learns from random pieces of a text."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(budget.steps):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 10) * (1 - step / budget.steps)
        starts = torch.randint(len(tokens) - budget.sequence, (4,))
        rows = torch.stack([tokens[start : start + budget.sequence + 1] for start in starts])
        loss(model, rows).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def change_a_module(budget: Budget, picture: Picture) -> None:
    """Look into a model, change it, and train what has become of it."""
    model = load_model(checkpoint_directory(None), "cpu", torch.float32)
    tokenizer = Tokenizer(checkpoint_directory(None) / "tokenizer.model")
    text, held_out = python_source(tokenizer)
    rows = held_out[:20_000].unfold(0, budget.sequence + 1, 2_000)  # (10, sequence + 1)

    title("Hooks: every tensor has a name")
    tokens = torch.tensor([tokenizer.encode(TEXT, bos=True)])
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
        for name, module in model.named_modules()
        if name and not isinstance(module, nn.ModuleList)
    ]
    plain = model(tokens)
    for hook in hooks:
        hook.remove()
    for name in [name for name in seen if not name.startswith("layers.") or ".0." in name]:
        print(f"{name:28} {tuple(seen[name].shape)}")
    print(f"and so for all {len(model.layers)} blocks: {len(seen)} tensors")

    title("Attention that records its weights")
    for block in model.layers:
        block.attention.attend = RecordedAttention()
    same("Logits with the new attention and with the old", model(tokens), plain)
    weights = torch.stack([block.attention.attend.weights[0] for block in model.layers]).detach()
    show("weights", weights, "(blocks, heads, seq, keys)")
    positions = torch.arange(tokens.shape[1])
    far = (positions[:, None] - positions).clamp(min=0)
    reach = (weights * far).sum(-1).mean(-1)  # (blocks, heads)
    print("It stays in place below. How far back each head looks on average, in tokens:")
    for layer, heads in enumerate(reach.tolist()):
        print(f"block {layer}: " + "  ".join(f"{back:5.1f}" for back in heads))

    title(f"LayerNorm instead of RMSNorm: two small models, {budget.steps} steps each")
    losses = []
    for norm in (RMSNorm, nn.LayerNorm):
        torch.manual_seed(0)
        new = Transformer(ModelConfig(128, 2, 4, tokenizer.vocab_size, 2, multiple_of=64))
        for block in new.layers:
            block.attention_norm, block.ffn_norm = norm(128), norm(128)
        new.norm = norm(128)
        train(new, text, budget, 4e-3)
        losses.append(loss(new, rows).item())
        print(f"{norm.__name__:10} held-out loss {losses[-1]:.3f} nats a token", flush=True)
    assert abs(losses[0] - losses[1]) < 0.2
    print("RMSNorm leaves out LayerNorm's mean and bias, and learns as fast.")

    title(f"Positions divided by {FACTOR} (linear interpolation)")
    print("A hook before each block replaces its angles; `rope_scaling_factor` does the same.")
    before = loss(model, rows).item()
    hooks = [block.register_forward_pre_hook(divide_positions) for block in model.layers]
    divided = loss(model, rows).item()
    train(model, text, budget, 1e-3)
    tuned = loss(model, rows).item()
    for hook in hooks:
        hook.remove()
    model.config = replace(model.config, rope_scaling_factor=FACTOR)
    assert abs(loss(model, rows).item() - tuned) < 1e-3, "the library's option does the same"
    print(f"held-out loss {before:.3f}, divided {divided:.3f}, fine-tuned {tuned:.3f}")
    assert before < divided > tuned
    print("The model has never seen such angles, and gets used to them within a few steps.")
    print("\nExpect: block 6, head 0 looks at the token before; 6.08 nats with RMSNorm, 6.07")
    print("with LayerNorm; 3.26, divided 4.23, fine-tuned 3.48.")
    print("\nExercise 1: in `RecordedAttention`, set one head's result after the other to zero.")
    print("Which one costs the most loss?")
    print("Exercise 2: replace SwiGLU by a plain feed-forward with as many parameters, and train.")
    if picture.plot:
        with picture.axes(1, 4.5, 4) as [axes]:
            blocks, heads = map(range, reach.shape)
            plotting.matrix(axes, reach.tolist(), heads, blocks, format="{:.1f}")
            axes.set(xlabel="head", ylabel="block")
            axes.set(title="How far back each head looks, tokens on average")


if __name__ == "__main__":
    run(change_a_module)
