"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv 2106.09685): fine-tune a few of the weights.

    python examples/lora.py OUT [--data DIR] [--rank 8]

A matrix W that was trained on much data needs a small change for other data. LoRA keeps W as it is,
and learns the change as a product of two thin matrices: `W x + B (A x)`. B starts at zero, so that
nothing changes at first. What has been learned is written as an adapter, in the format of the
package PEFT; loading merges it, so that `W + B A` is one matrix again:

    python -m codellama.generate --lora OUT --prompt "import "
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama import Tokenizer, Transformer, load_model
from codellama.cli import checkpoint_directory, run
from codellama.distributed import DistributedContext
from codellama.errors import DataError, number
from codellama.training.documents import find_all
from codellama.training.packing import PackedSequences, Packing
from codellama.training.recipe import Stage
from codellama.training.trainer import Trainer, set_stage
from codellama.weights.checkpoint import new_directory
from codellama.weights.loading import default_device, open_checkpoint
from codellama.weights.lora import save_adapter


@dataclass(frozen=True)
class LoraOptions:
    """What to adapt, and to what.

    Args:
        out: directory for the adapter.
        ckpt: checkpoint to start from; without it, the small one that comes with the package.
        data: directory of documents, `stdlib`, or `package:NAME` for an installed package.
        layers: linear layers to adapt, one or a list.
        rank: rows of A and columns of B.
        tokens: to train on.
        learning_rate: its peak.
    """

    out: str
    ckpt: str | None = None
    data: str = "package:networkx"
    layers: tuple[str, ...] = ("wq", "wv", "w2")
    rank: int = number(8, least=1)
    tokens: int = number(100_000, least=1)
    learning_rate: float = number(4e-3, above=0)


class LoraLinear(nn.Module):
    """A frozen linear layer, and a change of low rank that is learned.

    Shape:
        (..., in_features) -> (..., out_features)
    """

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.weight = linear.weight
        thin = linear.weight.new_empty(rank, linear.in_features)
        self.a = nn.Parameter(nn.init.normal_(thin, std=linear.in_features**-0.5))
        self.b = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + F.linear(F.linear(x, self.a), self.b)


def adapt(model: Transformer, layers: tuple[str, ...], rank: int) -> list[str]:
    """Freezes a model and replaces its linear layers of some names; returns where."""
    model.requires_grad_(False)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    places = [name for name in linear if name.split(".")[-1] in layers]
    if not places:
        raise DataError(f"the model has no linear layer {', '.join(layers)}; expected wq, w1, …")
    for place in places:
        owner, _, name = place.rpartition(".")
        setattr(model.get_submodule(owner), name, LoraLinear(model.get_submodule(place), rank))
    return places


def lora(options: LoraOptions) -> None:
    """Adapt a checkpoint to other code."""
    source = checkpoint_directory(options.ckpt)
    tokenizer = Tokenizer(source / "tokenizer.model")
    documents = find_all([options.data])
    context = DistributedContext.join(default_device())
    with new_directory(options.out) as scratch:
        model = load_model(source, context.device, torch.float32)
        places = adapt(model, options.layers, options.rank)
        learned = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        print(f"{learned:,} weights learn")
        stage = Stage("lora", options.tokens, 256, 1_024, options.learning_rate)
        stream = PackedSequences(documents.train, tokenizer, Packing(257))
        rows = PackedSequences(documents.held_out, tokenizer, Packing(257, 0.0)).take(32)
        set_stage(model, stage)
        trainer = Trainer(model, stream, stage, context)
        print(f"held-out loss before: {trainer.loss(rows):.3f} nats a token", flush=True)
        while trainer.step < stage.steps:
            trainer.train_step()
        print(f"held-out loss after {options.tokens:,} tokens: {trainer.loss(rows):.3f}")
        changed = {f"{place}.weight": model.get_submodule(place) for place in places}
        changes = {name: (layer.b, layer.a) for name, layer in changed.items()}
        save_adapter(scratch, open_checkpoint(source), changes)
    print(f"python -m codellama.generate --lora {options.out} --prompt 'import '")


if __name__ == "__main__":
    run(lora, first="out")
