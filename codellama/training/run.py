"""A training run from its recipe to its checkpoint, which can be interrupted at any time."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codellama.errors import DataError
from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import TOKENIZER, Tokenizer
from codellama.training import run_directory
from codellama.training.documents import read_document
from codellama.training.machine import Machine
from codellama.training.packing import PackedSequences, Packing
from codellama.training.recipe import Recipe, Stage
from codellama.training.tokenizer import train_tokenizer
from codellama.training.trainer import Trainer, initialise, learning_rate
from codellama.weights import meta
from codellama.weights.checkpoint import new_directory, reader
from codellama.weights.loading import load_model

HELD_OUT_TOKENS = 32_768
VOCABULARY_BYTES = 32_000_000
"""Documents that a vocabulary is learned from, at most."""

Report = Callable[[Trainer, dict[str, Any]], None]
"""Told of a step: its trainer, and its record in the log (stage, step, tokens, loss and so on)."""


class Run:
    """A directory that a recipe fills with a checkpoint (see `run_directory` for its files).

    Args:
        directory: made if it does not exist.
        machine: how to compute.
        resume: go on with what an earlier process has left there.

    Raises:
        DataError: the directory is taken; or there is nothing to resume, or it was started with
            another recipe; or the checkpoint to start from holds no weights that can be trained.
    """

    def __init__(
        self, directory: Path, recipe: Recipe, machine: Machine, resume: bool = False
    ) -> None:
        self.directory = directory
        self.recipe = recipe
        self.machine = machine
        self.documents = recipe.documents()
        if resume:
            run_directory.check_recipe(directory, recipe)
        else:
            run_directory.check_free(directory)
        self._loaded = load_trainable(Path(recipe.ckpt).expanduser()) if recipe.ckpt else None
        if not resume:
            machine.once(self._start)
        self.tokenizer = Tokenizer(directory / TOKENIZER)

    @property
    def model_directory(self) -> Path:
        """Where the checkpoint is once the run is done."""
        return self.directory / run_directory.MODEL

    def train(self, report: Report | None = None, shards: int = 1) -> None:
        """Goes through what is not done yet.

        Args:
            report: told of each step.
            shards: files to cut the checkpoint into.

        Raises:
            CheckpointError: the model cannot be cut into so many shards.
            DataError: the loss is no longer a number; what an earlier process has left is damaged.
        """
        if self.model_directory.exists():
            return
        model = self._loaded or self._new_model()
        meta.check_shards(model.config, shards)
        model = self.machine.place(model)
        saved = run_directory.newest_state(self.directory)
        self.machine.once(lambda: run_directory.cut_log(self.directory, saved.steps))
        steps = tokens = 0
        for stage in self.recipe.stages:
            if stage.steps and steps + stage.steps >= saved.steps:
                trainer = self._trainer(model, stage)
                if steps < saved.steps:
                    saved.restore(trainer)
                self._train_stage(trainer, (steps, tokens), report)
            steps += stage.steps
            tokens += stage.steps * stage.step_tokens
        weights = {name: _whole(weight) for name, weight in model.named_parameters()}
        self.machine.once(lambda: self._write_checkpoint(model.config, weights, shards))

    def _start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, content in (
            (TOKENIZER, self._vocabulary()),
            (run_directory.RECIPE, self.recipe.to_json()),
        ):
            with run_directory.written_beside(self.directory / name) as beside:
                beside.write_bytes(content)

    def _vocabulary(self) -> bytes:
        """The checkpoint's, or one learned from a random part of the documents."""
        if self.recipe.model is None:
            return (Path(str(self.recipe.ckpt)).expanduser() / TOKENIZER).read_bytes()
        files = list(self.documents.train)
        random.Random(self.recipe.seed).shuffle(files)
        sizes = itertools.accumulate(file.stat().st_size for file in files)
        some = [file for file, size in zip(files, sizes, strict=True) if size <= VOCABULARY_BYTES]
        return train_tokenizer(map(read_document, some), self.recipe.model.vocab_size)

    def _new_model(self) -> Transformer:
        model = Transformer(replace(self.recipe.model, max_seq_len=1))  # grows with the stages
        initialise(model, torch.Generator().manual_seed(self.recipe.seed))
        return model

    def _trainer(self, model: Transformer, stage: Stage) -> Trainer:
        seed = f"{self.recipe.seed} {stage.name}"
        packing = Packing(stage.sequence + 1, stage.infilling, stage.shortest_run, seed)
        stream = PackedSequences(self.documents.train, self.tokenizer, packing)
        return Trainer(model, stream, stage, self.machine)

    def _train_stage(
        self, trainer: Trainer, before: tuple[int, int], report: Report | None
    ) -> None:
        """Does a stage's steps; `before` it were so many steps and tokens."""
        stage = trainer.stage
        held_out = self._held_out(stage)
        while trainer.step < stage.steps:
            started = time.perf_counter()
            loss = trainer.train_step()
            record = {
                "stage": stage.name,
                "step": trainer.step,
                "tokens": before[1] + trainer.step * stage.step_tokens,
                "loss": loss,
                "learning_rate": learning_rate(stage, trainer.step - 1),
                "seconds": time.perf_counter() - started,
            }
            save = trainer.step % stage.save_steps == 0 or trainer.step == stage.steps
            if save:
                loss = record["held_out_loss"] = trainer.loss(held_out)
            if not math.isfinite(loss):
                raise DataError(
                    f"the loss of {stage.name} is {loss} at step {trainer.step}; start a new run "
                    "with a smaller learning rate (what was saved before is as it was)"
                )
            if self.machine.is_first:
                run_directory.append_log(self.directory, record)
                if report:
                    report(trainer, record)
            if save:
                run_directory.save_state(self.directory, before[0] + trainer.step, trainer)

    def _held_out(self, stage: Stage) -> Tensor:
        """Rows of held-out documents, not cut for infilling."""
        packing = Packing(stage.sequence + 1, 0.0)
        stream = PackedSequences(self.documents.held_out, self.tokenizer, packing)
        return stream.take(max(1, HELD_OUT_TOKENS // packing.length))

    def _write_checkpoint(
        self, config: ModelConfig, weights: Mapping[str, Tensor], shards: int
    ) -> None:
        with new_directory(self.model_directory) as beside:
            meta.save_checkpoint(beside, config, reader(weights), shards)
            (beside / TOKENIZER).write_bytes((self.directory / TOKENIZER).read_bytes())


def load_trainable(directory: Path) -> Transformer:
    """A checkpoint's model on the CPU, in the dtype that it is stored in.

    Raises:
        DataError: it is rounded, or its vocabulary is another's.
        CheckpointError: as `load_model`.
    """
    model = load_model(directory, "cpu")
    with torch.device("meta"):
        plain = Transformer(model.config)
    if [name for name, _ in model.named_parameters()] != [
        name for name, _ in plain.named_parameters()
    ]:
        raise DataError(
            f"{directory} holds rounded weights, which cannot be trained; expected the checkpoint "
            "that it was made from"
        )
    tokenizer = Tokenizer(directory / TOKENIZER)
    if model.config.vocab_size != tokenizer.vocab_size:
        raise DataError(
            f"{directory}: the model has {model.config.vocab_size} ids, its tokenizer "
            f"{tokenizer.vocab_size}; expected those of one checkpoint"
        )
    return model


def _whole(weight: Tensor) -> Tensor:
    """A weight in bfloat16 on the CPU, gathered if several processes hold it."""
    weight = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
    return weight.detach().to("cpu", torch.bfloat16)
