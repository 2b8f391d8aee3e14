"""A training run from its recipe to its checkpoints, which can be interrupted at any time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codellama.errors import DataError
from codellama.inference.compiled import can_compile
from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import TOKENIZER, Tokenizer
from codellama.training import hardware, run_directory
from codellama.training.averaging import mix
from codellama.training.contexts import ContextStream
from codellama.training.documents import read_document
from codellama.training.expansion import insert_blocks
from codellama.training.recipe import Recipe
from codellama.training.tokenizer import train_tokenizer
from codellama.training.trainer import Stage, Trainer, initialise
from codellama.weights import meta
from codellama.weights.checkpoint import new_directory, reader
from codellama.weights.loading import load_model

HELD_OUT_TOKENS = 32_768

Report = Callable[[Trainer, dict[str, Any]], None]
"""Told of a step: its trainer, and its record in the log (tokens, loss and so on)."""


@dataclass(frozen=True)
class Machine:
    """How to train on the machine at hand; affects results by rounding alone.

    Args:
        device: where the model is.
        autocast: dtype of matrix products; None: float32.
        compiled: fuse the model with torch.compile.
    """

    device: torch.device
    autocast: torch.dtype | None
    compiled: bool

    @classmethod
    def best(cls, device: torch.device) -> Machine:
        """What is fastest on a device."""
        return cls(device, hardware.fast_dtype(device), can_compile(device))


class Run:
    """A directory that a recipe fills with checkpoints (see `run_directory` for its files).

    Args:
        directory: made if it does not exist.
        resume: go on with what an earlier process has left there.

    Raises:
        DataError: the directory is taken; or there is nothing to resume, or it was started with
            another recipe.
    """

    def __init__(self, directory: Path, recipe: Recipe, resume: bool = False) -> None:
        self.directory = directory
        self.recipe = recipe
        self.documents = recipe.documents()
        if resume:
            recipe.check(directory / run_directory.RECIPE)
        else:
            run_directory.check_free(directory)
            directory.mkdir(parents=True, exist_ok=True)
            run_directory.write_beside(directory / TOKENIZER, self._vocabulary())
            run_directory.write_beside(directory / run_directory.RECIPE, recipe.to_json())
        self.tokenizer = Tokenizer(directory / TOKENIZER)

    def train(
        self,
        machine: Machine,
        save_every: int = 250,
        shards: int = 1,
        report: Report | None = None,
    ) -> None:
        """Goes through the stages that are not done yet.

        Args:
            save_every: steps between saves of the state.
            shards: files to cut each checkpoint into.
            report: told of each step.

        Raises:
            CheckpointError: the model cannot be cut into so many shards.
            DataError: the loss is no longer a number; what an earlier process has left is damaged.
        """
        model = self._new_model().to(machine.device)
        meta.check_shards(model.config, shards)
        state = run_directory.load_state(self.directory)
        for name, stage in self.recipe.stages.items():
            if not stage.tokens or (self.directory / name).exists():
                continue
            trainer = self._trainer(model, stage, machine)
            if state is not None:
                self._restore(trainer, name, state)
                state = None
            self._train_stage(name, trainer, save_every, report)
            self._write_checkpoint(name, model, shards)

    def _vocabulary(self) -> bytes:
        if self.recipe.ckpt is not None:
            return (Path(self.recipe.ckpt).expanduser() / TOKENIZER).read_bytes()
        texts = map(read_document, self.documents.train)
        return train_tokenizer(texts, self.recipe.model["vocab_size"])

    def _new_model(self) -> Transformer:
        if self.recipe.ckpt is None:
            model = Transformer(ModelConfig(**self.recipe.model))
            initialise(model, torch.Generator().manual_seed(self.recipe.seed))
            return model
        model = load_model(Path(self.recipe.ckpt).expanduser(), "cpu", torch.float32)
        if model.config.vocab_size != self.tokenizer.vocab_size:
            raise DataError(
                f"{self.recipe.ckpt}: the model has {model.config.vocab_size} ids, its tokenizer "
                f"{self.tokenizer.vocab_size}; expected those of one checkpoint"
            )
        if self.recipe.new_blocks:
            generator = torch.Generator().manual_seed(self.recipe.seed)
            insert_blocks(model, self.recipe.new_blocks, generator)
        if self.recipe.mix_ckpt is not None:
            other = load_model(Path(self.recipe.mix_ckpt).expanduser(), "cpu", torch.float32)
            mix(model, other, self.recipe.mix_share)
        return model

    def _trainer(self, model: Transformer, stage: Stage, machine: Machine) -> Trainer:
        stream = ContextStream(
            self.documents.train,
            self.tokenizer,
            stage.sequence + 1,
            self.recipe.infilling_rate,
            self.recipe.line_rate,
            self.recipe.suffix_first_rate,
            self.recipe.seed,
            self.recipe.shortest_run,
            self.recipe.longest_run,
        )
        stage = replace(stage, warmup_steps=min(stage.warmup_steps, -(-stage.steps // 10)))
        rows = hardware.rows_at_once(machine.device, stage.sequence)
        return Trainer(
            model,
            stream,
            stage,
            rows,
            machine.autocast,
            machine.compiled,
            self.recipe.gap_weight,
        )

    def _restore(self, trainer: Trainer, stage: str, state: dict[str, Any]) -> None:
        """Goes on from a state of this stage, or from the weights of the stage before."""
        try:
            if state["stage"] == stage:
                trainer.load_state_dict(state["trainer"])
            else:
                trainer.model.load_state_dict(state["trainer"]["model"])
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            raise run_directory.damaged_state(self.directory) from None

    def _train_stage(
        self, name: str, trainer: Trainer, save_every: int, report: Report | None
    ) -> None:
        stage = trainer.stage
        held_out = self._held_out(stage)
        run_directory.cut_log(self.directory, name, trainer.step)
        while trainer.step < stage.steps:
            started = time.perf_counter()
            learning_rate = stage.learning_rate_at(trainer.step)
            loss = trainer.train_step()
            record = {
                "stage": name,
                "step": trainer.step,
                "tokens": trainer.step * stage.step_tokens,
                "loss": loss,
                "learning_rate": learning_rate,
                "seconds": time.perf_counter() - started,
            }
            save = trainer.step % save_every == 0 or trainer.step == stage.steps
            if save:
                loss = record["held_out_loss"] = trainer.loss(held_out)
            if not math.isfinite(loss):
                raise DataError(
                    f"the loss of {name} is {loss} at step {trainer.step}; start a new run with a "
                    "smaller learning rate (what was saved before is as it was)"
                )
            run_directory.append_log(self.directory, record)
            if report:
                report(trainer, record)
            if save:
                state = {"stage": name, "trainer": trainer.state_dict()}
                run_directory.save_state(self.directory, state)

    def _held_out(self, stage: Stage) -> Tensor:
        """Rows of held-out documents, not cut for infilling."""
        length = stage.sequence + 1
        stream = ContextStream(self.documents.held_out, self.tokenizer, length, 0.0)
        return stream.take(max(1, HELD_OUT_TOKENS // length))

    def _write_checkpoint(self, name: str, model: Transformer, shards: int) -> None:
        weights = {
            key: weight.detach().to("cpu", torch.bfloat16)
            for key, weight in model.named_parameters()
        }
        with new_directory(self.directory / name) as beside:
            meta.save_checkpoint(beside, model.config, reader(weights), shards)
            (beside / TOKENIZER).write_bytes((self.directory / TOKENIZER).read_bytes())
