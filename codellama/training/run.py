"""A training run from its recipe to its checkpoint, which can be interrupted at any time."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from codellama.errors import DataError
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import TOKENIZER, Tokenizer
from codellama.training import run_directory
from codellama.training.documents import find_all, read_document
from codellama.training.machine import Machine
from codellama.training.packing import PackedSequences, Packing
from codellama.training.recipe import Recipe, Stage
from codellama.training.tokenizer import train_tokenizer
from codellama.training.trainer import Trainer, initialise
from codellama.weights import meta
from codellama.weights.checkpoint import new_directory, reader
from codellama.weights.loading import QUANTIZED, load_model, load_tokenizer, open_checkpoint

HELD_OUT_TOKENS = 32_768
VOCABULARY_BYTES = 8_000_000
"""Text that a vocabulary is learned from, at most."""

Report = Callable[[Trainer, dict[str, Any]], None]
"""Told of a step: its trainer, and its record in the log (stage, step, tokens, loss and so on)."""


class Run:
    """A directory that a recipe fills with a checkpoint (see `run_directory` for its files).

    Args:
        resume: go on with what an earlier process has left there.

    Raises:
        DataError: the directory is taken; or holds no run, or one of another recipe, to resume.
        CheckpointError: the checkpoint to start from is none.
    """

    def __init__(
        self, directory: Path, recipe: Recipe, machine: Machine, resume: bool = False
    ) -> None:
        self.directory = directory
        self.recipe = recipe
        self.machine = machine
        self.model_directory = directory / run_directory.MODEL
        self.documents = find_all(recipe.data, recipe.pattern)
        if resume:
            run_directory.check_resumable(directory, recipe)
        else:
            run_directory.check_free(directory)
        if recipe.ckpt is not None:
            start = open_checkpoint(recipe.ckpt)
            load_tokenizer(recipe.ckpt, start.config.vocab_size)  # raises if it does not fit
            if (start.directory / QUANTIZED).exists():
                raise DataError(
                    f"{recipe.ckpt} is rounded to integers, which cannot be trained; start from "
                    "the checkpoint that it was made from"
                )
        if not resume:
            machine.once(self._start)
        self.tokenizer = Tokenizer(directory / TOKENIZER)

    def train(self, report: Report | None = None, shards: int = 1) -> None:
        """Does what is not done yet, and writes the checkpoint in so many shards.

        Raises:
            CheckpointError: the model cannot be cut into so many.
            DataError: the loss is no longer a number; what an earlier process has left is damaged.
        """
        if self.model_directory.exists():
            return
        model = self._start_model()
        meta.check_shards(model.config, shards)
        model = self.machine.place(model)
        saved, state = run_directory.newest_state(self.directory)
        self.machine.once(lambda: run_directory.cut_log(self.directory, saved))
        steps = tokens = 0  # of the stages before
        for stage in self.recipe.stages:
            if stage.steps:
                stream = self._stream(self.documents.train, stage)
                # Gives the model the base and context of a stage that is done, too.
                trainer = Trainer(model, stream, stage, self.machine)
                if steps < saved <= steps + stage.steps:
                    run_directory.restore_state(state, trainer)
                if saved <= steps + stage.steps:
                    self._train_stage(trainer, steps, tokens, report)
            steps += stage.steps
            tokens += stage.steps * stage.step_tokens
        weights = {}
        for name, weight in model.named_parameters():  # gathered if several processes hold it
            whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
            weights[name] = whole.detach().to("cpu", torch.bfloat16)

        def write() -> None:
            with new_directory(self.model_directory) as temporary:
                meta.write_meta(temporary, model.config, reader(weights), shards)
                (temporary / TOKENIZER).write_bytes((self.directory / TOKENIZER).read_bytes())

        self.machine.once(write)

    def _start(self) -> None:
        """Writes the recipe and the vocabulary, the checkpoint's or one learned from documents."""
        if self.recipe.model is None:
            vocabulary = Path(str(self.recipe.ckpt), TOKENIZER).read_bytes()
        else:
            files = list(self.documents.train)
            random.Random(self.recipe.seed).shuffle(files)
            sizes = itertools.accumulate(file.stat().st_size for file in files[:-1])
            count = 1 + sum(size < VOCABULARY_BYTES for size in sizes)
            texts = map(read_document, files[:count])
            vocabulary = train_tokenizer(texts, self.recipe.model.vocab_size, at_most=True)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / TOKENIZER).write_bytes(vocabulary)
        recipe = self.directory / run_directory.RECIPE
        run_directory.replace_file(recipe, lambda path: path.write_bytes(self.recipe.to_json()))

    def _start_model(self) -> Transformer:
        """A new model, or the checkpoint's in the dtype of its files, on the CPU."""
        if self.recipe.model is None:
            return load_model(str(self.recipe.ckpt), "cpu")
        vocab_size = self.tokenizer.vocab_size  # less than asked for, if documents are few
        model = Transformer(replace(self.recipe.model, vocab_size=vocab_size, max_seq_len=1))
        initialise(model, torch.Generator().manual_seed(self.recipe.seed))
        return model  # whose context grows with the stages

    def _stream(self, files: list[Path], stage: Stage) -> PackedSequences:
        seed = f"{self.recipe.seed} {stage.name}"
        packing = Packing(stage.sequence + 1, stage.infilling, stage.shortest_run, seed)
        return PackedSequences(files, self.tokenizer, packing)

    def _train_stage(
        self, trainer: Trainer, steps: int, tokens: int, report: Report | None
    ) -> None:
        """Trains the rest of a stage; `steps` and `tokens` count the stages before it."""
        stage = trainer.stage
        held_out = self._stream(self.documents.held_out, replace(stage, infilling=0.0))
        measured = held_out.take(max(1, HELD_OUT_TOKENS // stage.sequence))
        while trainer.step < stage.steps:
            started = time.perf_counter()
            loss = trainer.train_step()
            record = {
                "stage": stage.name,
                "step": trainer.step,
                "tokens": tokens + trainer.step * stage.step_tokens,
                "loss": loss,
                "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
                "seconds": time.perf_counter() - started,
            }
            save = trainer.step % stage.save_steps == 0 or trainer.step == stage.steps
            if save:
                loss = record["validation_loss"] = trainer.loss(measured)
            if not math.isfinite(loss):
                raise DataError(
                    f"the loss of {stage.name} is {loss} at step {trainer.step}; start a new run "
                    "with a smaller learning rate (what was saved before is as it was)"
                )
            if self.machine.rank == 0:
                run_directory.append_log(self.directory, record)
                if report:
                    report(trainer, record)
            if save:
                run_directory.save_state(self.directory, steps + trainer.step, trainer)
