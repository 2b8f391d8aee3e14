"""Next-token training: AdamW, a cosine schedule, and a state that an interrupted run resumes from.

The recipe is the paper's (arXiv 2308.12950, sections 2.1 to 2.4), in any size: a stage with short
sequences and a rotary base of 1e4, then long-context fine-tuning with a base of 1e6.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from codellama.model.transformer import Transformer
from codellama.training import infilling
from codellama.training.contexts import PADDING, ContextStream, Position
from codellama.training.positions import skipping

BETAS = (0.9, 0.99)
"""The paper's second is 0.95, for batches of 4 million tokens. The gradients of small batches are
noisier, and 0.99 learned faster from batches of 1,024."""
WEIGHT_DECAY = 0.1
FINAL_RATIO = 1 / 30
CLIP_NORM = 1.0
SPREAD = 0.8
"""Of new weights: their standard deviation times the square root of the width."""


@dataclass(frozen=True)
class Stage:
    """One stretch of training.

    Args:
        tokens: how many to train on, in all.
        sequence: tokens in a sequence.
        batch_tokens: tokens in a step of the optimiser; rounded to whole sequences.
        learning_rate: its peak.
        warmup_steps: steps in which the learning rate rises from 0 to its peak.
        rope_theta: base of the rotary embedding.
        context: what the model's context is from then on; a sequence at least.
        skip_rate: share of sequences whose positions skip through that context (see `skipping`).
    """

    tokens: int
    sequence: int
    batch_tokens: int
    learning_rate: float
    warmup_steps: int
    rope_theta: float
    context: int = 0
    skip_rate: float = 0.0

    @property
    def batch_size(self) -> int:
        """Sequences in a step."""
        return max(1, round(self.batch_tokens / self.sequence))

    @property
    def step_tokens(self) -> int:
        """Tokens in a step."""
        return self.batch_size * self.sequence

    @property
    def steps(self) -> int:
        """Steps of the optimiser."""
        return -(-self.tokens // self.step_tokens)

    def learning_rate_at(self, step: int) -> float:
        """Rises linearly to the peak, then falls as a cosine to a thirtieth of it."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        fall = (1 + math.cos(math.pi * progress)) / 2
        return self.learning_rate * (FINAL_RATIO + (1 - FINAL_RATIO) * fall)


def initialise(model: Transformer, generator: torch.Generator) -> None:
    """Draws the weights anew: normal, near `1 / sqrt(dim)`, and smaller where a block writes to
    the residual stream, so that the stream does not grow with depth (Radford et al. 2019, section
    2.3). A model of 256 channels learned faster from 0.05 than from 0.02, which is common."""
    draw(model, model.config.dim, generator, stream_scale=(2 * len(model.layers)) ** -0.5)
    with torch.no_grad():  # at first, all tokens are as likely
        model.output.weight *= 0.02 / SPREAD / model.config.dim**-0.5


def draw(module: nn.Module, dim: int, generator: torch.Generator, stream_scale: float) -> None:
    """Draws a module's weights for `dim` channels; those that write to the residual stream are
    smaller by `stream_scale`, or zeros."""
    for name, weight in module.named_parameters():
        scale = stream_scale if name.endswith(("wo.weight", "w2.weight")) else 1.0
        if weight.dim() == 1:
            nn.init.ones_(weight)
        elif scale == 0:
            nn.init.zeros_(weight)
        else:
            nn.init.normal_(weight, std=SPREAD * dim**-0.5 * scale, generator=generator)


class Trainer:
    """Trains a model on a stream of sequences, one step of the optimiser at a time.

    Args:
        model: float32 parameters; changed in place.
        stream: where sequences come from; its rows are one token longer than a sequence.
        stage: what to do; also sets the model's rotary base and context.
        rows_at_once: sequences that run through the model together; the gradients of a step's
            groups add up, so that memory holds the activations of one group.
        autocast: dtype of the matrix products; None: that of the parameters.
        compiled: let torch.compile fuse the model. Takes a minute at first.
        gap_weight: what a token that fills a gap counts, prefix first; all others count 1.

    Attributes:
        step: steps done.
    """

    def __init__(
        self,
        model: Transformer,
        stream: ContextStream,
        stage: Stage,
        rows_at_once: int = 1,
        autocast: torch.dtype | None = None,
        compiled: bool = False,
        gap_weight: float = 1.0,
    ) -> None:
        self.model = model.train()
        self.stream = stream
        self.stage = stage
        self.rows_at_once = rows_at_once
        self.autocast = autocast
        self.gap_weight = gap_weight
        self.step = 0
        model.config = replace(
            model.config,
            rope_theta=stage.rope_theta,
            max_seq_len=max(stage.context, stage.sequence),
        )
        groups: list[dict[str, Any]] = [
            {"params": [weight for weight in model.parameters() if weight.dim() > 1]},
            {
                "params": [weight for weight in model.parameters() if weight.dim() == 1],
                "weight_decay": 0.0,
            },
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            betas=BETAS,
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
        self._loss: Callable[[Tensor, Tensor, Tensor | None], Tensor] = (
            torch.compile(self._summed_loss) if compiled else self._summed_loss
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.tok_embeddings.weight.device

    def train_step(self) -> float:
        """Learns from the next batch; returns its loss before that, in nats a token (by weight)."""
        rows = self.stream.take(self.stage.batch_size)
        weights = self._weights(rows, self.gap_weight)
        weights /= weights.sum()
        positions = self._positions(rows).to(self.device)
        total = torch.zeros((), device=self.device)
        for places in torch.arange(len(rows)).split(self.rows_at_once):
            group = rows[places].to(self.device).long()
            loss = self._loss(group, weights[places].to(self.device), positions[places])
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.stage.learning_rate_at(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return total.item()

    @torch.no_grad()
    def loss(self, rows: Iterable[Tensor]) -> float:
        """The mean loss on rows of tokens, in nats a token, without learning from them."""
        total, count = 0.0, 0
        for row in rows:
            weights = self._weights(row[None]).to(self.device)
            total += self._summed_loss(row[None].to(self.device).long(), weights).item()
            count += int(weights.sum())
        return total / count

    def _positions(self, rows: Tensor) -> Tensor:
        """Where the tokens of this step's `rows` (batch, length) are, (batch, length - 1)."""
        count, length = len(rows), rows.size(1) - 1
        context = self.model.config.max_seq_len
        random_numbers = random.Random(f"{self.stream.seed} {self.step}")
        return skipping(count, length, context, self.stage.skip_rate, random_numbers)

    def _weights(self, rows: Tensor, gap_weight: float = 1.0) -> Tensor:
        """What each token of `rows` (batch, length) but the first counts, (batch, length - 1)."""
        weights = (rows != PADDING).float()
        if gap_weight != 1:
            weights[infilling.in_gap(rows, self.stream.tokenizer)] *= gap_weight
        return weights[:, 1:]

    def _summed_loss(
        self, rows: Tensor, weights: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Cross-entropy of every token of `rows` (batch, length) but the first, added up by
        `weights` (batch, length - 1); `positions` as for the model."""
        device, dtype = self.device.type, self.autocast
        with torch.autocast(device, dtype, enabled=dtype is not None):
            logits = self.model(rows[:, :-1].clamp(min=0), positions=positions)
        targets = rows[:, 1:].flatten()
        losses = F.cross_entropy(
            logits.flatten(0, 1), targets, ignore_index=PADDING, reduction="none"
        )
        return losses @ weights.flatten()

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs to go on as if nothing had happened."""
        return {
            "step": self.step,
            "position": asdict(self.stream.position),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from a `state_dict` of the same model, stream and stage."""
        self.step = state["step"]
        self.stream.position = Position(**state["position"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
