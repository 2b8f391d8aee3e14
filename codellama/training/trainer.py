"""Next-token training with AdamW and a cosine schedule (arXiv 2308.12950, sections 2.1 to 2.4).

Several processes shard a model by fully sharded data parallelism (Rajbhandari et al. 2020, arXiv
1910.02054; Zhao et al. 2023, arXiv 2304.11277), PyTorch's `fully_shard`. Each keeps a slice of the
weights, gradients and optimiser's state. Before a block runs, they gather its weights, and free
them afterwards; its gradients are averaged. Each computes other sequences of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._composable.checkpoint_activation import checkpoint
from torch.optim import Optimizer

from codellama.distributed import DistributedContext
from codellama.errors import RequestError
from codellama.model.transformer import Transformer
from codellama.training.muon import Muon
from codellama.training.packing import PADDING, PackedSequences, Position
from codellama.training.recipe import Stage

WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0
INIT_STD = 0.8
"""Standard deviation of a new weight, in units of `1 / sqrt(dim)`."""
GROUP_TOKENS = {"cpu": 2_048, "cuda": 16_384, "mps": 8_192}
"""Tokens that run through the model together. On a CPU 2,048 were no slower than 8,192, and take a
quarter of the memory; the others are estimates."""


def distribute(model: Transformer, context: DistributedContext) -> Transformer:
    """The model in float32, ready to train. Of several processes, each copies its slice of `model`,
    which may have any dtype and be mapped from disk.

    Raises:
        RequestError: of several processes, for a model of other modules or parameters.
    """
    if context.mesh is None:
        return model.to(context.device, torch.float32)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor

    with torch.device("meta"):
        sharded = Transformer(model.config)
    whole = dict(model.named_parameters())
    kinds, own = ([*map(type, one.modules())] for one in (sharded, model))
    shapes = {name: weight.shape for name, weight in sharded.named_parameters()}
    if kinds != own or shapes != {name: weight.shape for name, weight in whole.items()}:
        raise RequestError(
            "a model whose modules were changed cannot be sharded over processes; train it in one"
        )
    # Block inputs stay as they are: cosines in bfloat16 would ruin the rotary embedding.
    policy = MixedPrecisionPolicy(
        param_dtype=context.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    for part in (*sharded.layers, sharded):
        fully_shard(part, mesh=context.mesh, mp_policy=policy)
    sharded.to_empty(device=context.device)
    for name, weight in sharded.named_parameters():
        weight.requires_grad_(whole[name].requires_grad)
        slices = whole[name].detach().chunk(context.size)
        if isinstance(weight, DTensor) and context.rank < len(slices):
            weight.to_local().detach().copy_(slices[context.rank])
    return sharded


def set_stage(model: Transformer, stage: Stage) -> None:
    """Gives a model a stage's rotary base, lengthens its context to the stage's sequences, and
    turns activation checkpointing on or off (Chen et al. 2016, arXiv 1604.06174)."""
    theta = stage.rope_theta or model.config.rope_theta
    max_seq_len = max(model.config.max_seq_len, stage.sequence)
    model.config = replace(model.config, rope_theta=theta, max_seq_len=max_seq_len)
    for block in model.layers:
        if stage.activation_checkpointing and checkpoint.state(block) is None:
            checkpoint(block)  # by hooks, so that parameters keep their names
        if state := checkpoint.state(block):
            state.enable_hook = stage.activation_checkpointing


class Trainer:
    """Trains a model on a stream of sequences, one step of the optimiser at a time.

    Args:
        model: from `distribute`, with float32 parameters, which change in place; and prepared by
            `set_stage`.
        stream: rows of token ids, one longer than a sequence.
    """

    def __init__(
        self, model: Transformer, stream: PackedSequences, stage: Stage, context: DistributedContext
    ) -> None:
        self.model = model
        self.stream = stream
        self.stage = stage
        self.context = context
        self.step = 0  # steps done
        self.optimizers = new_optimizers(model, stage, context.dtype)

    def train_step(self) -> float:
        """Learns from the next batch; returns its loss before that, in nats a token."""
        loss = self.loss(self.stream.take(self.stage.batch_size), backward=True)
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.stage, self.step)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss

    def loss(self, rows: Tensor, backward: bool = False) -> float:
        """The mean cross-entropy of each token but a row's first, given those before it, in nats.

        Args:
            rows: (batch, sequence + 1) token ids; `~id` for one that is read but not predicted.
            backward: add the loss's gradients to those of the weights.
        """
        count = (rows[:, 1:] >= 0).sum().clamp(min=1)
        total = torch.zeros((), device=self.context.device)
        with torch.set_grad_enabled(backward):
            for logits, targets in self._forward(rows):
                summed = F.cross_entropy(logits, targets, ignore_index=PADDING, reduction="sum")
                if backward:  # the processes' gradients are averaged, the groups' add up
                    (summed * (self.context.size / count)).backward()
                total += summed.detach()
        return self.context.sum(total).item() / count.item()

    @torch.no_grad()
    def accuracy(self, rows: Tensor, id: int) -> float:
        """Of the places in rows where a token is to be predicted, the share at which it is the
        likeliest."""
        counts = torch.zeros(2, device=self.context.device)
        for logits, targets in self._forward(rows):
            is_likeliest = logits.argmax(-1) == targets
            is_place = targets == id
            counts += torch.stack([(is_likeliest & is_place).sum(), is_place.sum()])
        hits, places = self.context.sum(counts).tolist()
        return hits / max(1, places)

    def _forward(self, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (tokens, vocab) and targets (tokens) of this process's rows, group by group, so
        that memory holds the activations of one."""
        at_once = max(1, GROUP_TOKENS[self.context.device.type] // (rows.size(1) - 1))
        for group in self.context.shard(rows, PADDING).split(at_once):
            inputs = torch.where(group < 0, ~group, group)[:, :-1]
            targets = group[:, 1:].clamp(min=PADDING).flatten()
            dtype = self.context.dtype
            with torch.autocast(self.context.device.type, dtype, enabled=dtype is not None):
                logits = self.model(inputs)
            yield logits.flatten(0, 1), targets

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on as if nothing had happened, for
        `torch.distributed.checkpoint`: each process has its slices."""
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizers = get_state_dict(self.model, self.optimizers)
        place = torch.tensor([self.step, *self.stream.position])
        return {"model": model, "optimizers": optimizers, "place": place}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict` of the same model, stream and stage."""
        from torch.distributed.checkpoint.state_dict import set_state_dict

        set_state_dict(
            self.model,
            self.optimizers,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizers"],
        )
        self.step, *position = state["place"].tolist()
        self.stream.position = Position(*position)


def learning_rate(stage: Stage, step: int) -> float:
    """Rises linearly to the stage's peak, then falls as a cosine to its last."""
    warmup = min(stage.warmup_steps, -(-stage.steps // 10))
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, stage.steps - warmup)
    fall = (1 + math.cos(math.pi * progress)) / 2
    return stage.learning_rate * (stage.final_ratio + (1 - stage.final_ratio) * fall)


def new_optimizers(
    model: Transformer, stage: Stage, dtype: torch.dtype | None = None
) -> list[Optimizer]:
    """AdamW for all weights; or Muon (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982) for
    the matrices of the blocks, at AdamW's learning rate, and AdamW for the others. `dtype` is
    that of Muon's products."""
    matrices = {name: w for name, w in model.named_parameters() if w.dim() > 1}
    by_muon = [w for name, w in matrices.items() if name.startswith("layers.")]
    others = [w for name, w in matrices.items() if not name.startswith("layers.")]
    decayed = others if stage.optimizer == "muon" else [*matrices.values()]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": [w for w in model.parameters() if w.dim() < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, betas=(0.9, stage.beta2), fused=True)
    if stage.optimizer == "adamw":
        return [adamw]
    muon = Muon(by_muon, stage.learning_rate, WEIGHT_DECAY, dtype or torch.float32)
    return [adamw, muon]


def initialise(model: Transformer, generator: torch.Generator) -> None:
    """Draws the weights anew: normal, near `1 / sqrt(dim)`, and smaller where a block writes to
    the residual stream, so that the stream does not grow with depth (Radford et al. 2019, section
    2.3). A model of 256 channels learned faster from 0.05 than from 0.02, which is common."""
    for name, weight in model.named_parameters():
        std = INIT_STD * model.config.dim**-0.5
        if name.endswith(("wo.weight", "w2.weight")):
            std *= (2 * len(model.layers)) ** -0.5
        elif name == "output.weight":  # at first, all tokens are as likely
            std = 0.02
        if weight.dim() == 1:
            nn.init.ones_(weight)
        else:
            nn.init.normal_(weight, std=std, generator=generator)
