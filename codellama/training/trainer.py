"""Next-token training with AdamW and a cosine schedule (arXiv 2308.12950, sections 2.1 to 2.4)."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from codellama.model.transformer import Transformer
from codellama.training.machine import GROUP_TOKENS, Machine
from codellama.training.packing import PADDING, PackedSequences, Position
from codellama.training.recipe import Stage

WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0
INIT_STD = 0.8
"""Of new weights: their standard deviation times the square root of the width."""


class Trainer:
    """Trains a model on a stream of sequences, one step of the optimiser at a time.

    Args:
        model: float32 parameters; changed in place, as are its rotary base and context.
        stream: rows of token ids, one longer than a sequence.
    """

    def __init__(
        self, model: Transformer, stream: PackedSequences, stage: Stage, machine: Machine
    ) -> None:
        theta = stage.rope_theta or model.config.rope_theta
        context = max(model.config.max_seq_len, stage.sequence)
        model.config = replace(model.config, rope_theta=theta, max_seq_len=context)
        for block in model.layers:
            vars(block).pop("forward", None)  # of the stage before
            if stage.activation_checkpointing:  # Chen et al. 2016, arXiv 1604.06174
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        self.model = model.train()
        self.stream = stream
        self.stage = stage
        self.machine = machine
        self.step = 0  # steps done
        self.optimizers = new_optimizers(model, stage)

    def train_step(self) -> float:
        """Learns from the next batch; returns its loss before that, in nats a token."""
        loss = self.loss(self.stream.take(self.stage.batch_size), learn=True)
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.stage, self.step)
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss

    def loss(self, rows: Tensor, learn: bool = False) -> float:
        """The mean cross-entropy of each token but a row's first, given those before it, in nats.

        Args:
            rows: (batch, sequence + 1) token ids.
            learn: add the loss's gradients to those of the weights.
        """
        tokens = (rows[:, 1:] != PADDING).sum() / self.machine.processes  # gradients are averaged
        total = torch.zeros((), device=self.machine.device)
        at_once = max(1, GROUP_TOKENS[total.device.type] // (rows.size(1) - 1))
        # Gradients add up over groups; memory holds the activations of one.
        for group in self.machine.share(rows).split(at_once):
            inputs, targets = group[:, :-1].clamp(min=0), group[:, 1:].flatten()
            with torch.set_grad_enabled(learn), self.machine.autocast():
                logits = self.model(inputs).flatten(0, 1)  # (batch * sequence, vocab)
                summed = F.cross_entropy(logits, targets, ignore_index=PADDING, reduction="sum")
                loss = summed / tokens
            if learn:
                loss.backward()
            total += loss.detach()
        return self.machine.mean(total)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on as if nothing had happened."""
        return {
            "step": self.step,
            "position": list(self.stream.position),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict` of the same model, stream and stage."""
        self.step = int(state["step"])
        self.stream.position = Position(*map(int, state["position"]))
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def learning_rate(stage: Stage, step: int) -> float:
    """Rises linearly to the stage's peak, then falls as a cosine to its last."""
    warmup = min(stage.warmup_steps, -(-stage.steps // 10))
    if step < warmup:
        return stage.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, stage.steps - warmup)
    fall = (1 + math.cos(math.pi * progress)) / 2
    return stage.learning_rate * (stage.final_ratio + (1 - stage.final_ratio) * fall)


def new_optimizers(model: Transformer, stage: Stage) -> list[Optimizer]:
    """AdamW for all weights; or Muon (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982) for
    the matrices of the blocks, at AdamW's learning rate, and AdamW for the others."""
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
    muon = torch.optim.Muon(by_muon, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
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
