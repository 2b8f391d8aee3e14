"""A training run from its recipe to its checkpoints, which can be interrupted at any time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from codellama.inference.compiled import can_compile
from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import TOKENIZER, Tokenizer
from codellama.training import hardware, infilling, run_directory
from codellama.training.averaging import mix
from codellama.training.contexts import SHORTEST_RUN, ContextStream
from codellama.training.documents import DataError, Documents, find_documents, read_document
from codellama.training.expansion import insert_blocks
from codellama.training.tokenizer import train_tokenizer
from codellama.training.trainer import Stage, Trainer, initialise
from codellama.weights import meta
from codellama.weights.checkpoint import new_directory, reader
from codellama.weights.loading import load_model

HELD_OUT_TOKENS = 32_768
RECIPE = "recipe.json"

Report = Callable[[Trainer, dict[str, Any]], None]
"""Told of a step: its trainer, and its record in the log (tokens, loss and so on)."""


@dataclass(frozen=True)
class Recipe:
    """What decides on a run's result.

    Args:
        model: fields of `ModelConfig` for a new model, the size of its vocabulary among them; none
            with `ckpt`, which has its own.
        stages: by name, in order; those of 0 tokens are left out.
        data: directory of documents; None: the running interpreter's standard library.
        pattern: what the documents are called.
        ckpt: checkpoint directory to start from, instead of a new model and vocabulary.
        new_blocks: how many to insert into its model (see `insert_blocks`).
        mix_ckpt, mix_share: another checkpoint, and how far to move towards its weights before
            training (see `mix`).
        infilling_rate: share of documents cut for infilling.
        line_rate: share of those whose gap is a line.
        suffix_first_rate: share of those with the suffix first.
        gap_weight: what a token that fills a gap counts in the loss, prefix first.
        seed: decides on everything random.
        shortest_run, longest_run: as for `ContextStream`.

    Raises:
        DataError, ConfigError: a number is one that no training can follow.
    """

    model: dict[str, int]
    stages: dict[str, Stage]
    data: str | None = None
    pattern: str = "*.py"
    ckpt: str | None = None
    new_blocks: int = 0
    mix_ckpt: str | None = None
    mix_share: float = 0.5
    infilling_rate: float = infilling.RATE
    line_rate: float = infilling.LINE_RATE
    suffix_first_rate: float = infilling.SUFFIX_FIRST_RATE
    gap_weight: float = 1.0
    seed: int = 0
    shortest_run: int = SHORTEST_RUN
    longest_run: int = 0

    def __post_init__(self) -> None:
        if self.ckpt is None:
            ModelConfig(**self.model)
        if self.new_blocks < 0 or (self.new_blocks and self.ckpt is None):
            raise DataError(
                f"new_blocks is {self.new_blocks}; expected 0 or more, and a checkpoint to insert "
                "them into"
            )
        for name, stage in self.stages.items():
            if stage.tokens < 0 or min(stage.sequence, stage.batch_tokens) < 1:
                raise DataError(f"{name}: expected a sequence and a batch of a token or more")
            if not 0 <= stage.skip_rate <= 1:
                raise DataError(f"skip_rate is {stage.skip_rate}; expected 0 to 1")
            if stage.skip_rate and stage.context <= stage.sequence:
                raise DataError(
                    f"the context is {stage.context or stage.sequence}, a sequence "
                    f"{stage.sequence} tokens; positions skip in a context longer than a sequence"
                )
        if self.mix_ckpt is not None and self.ckpt is None:
            raise DataError("mix_ckpt is mixed with a checkpoint; give ckpt as well")
        for name in ("infilling_rate", "line_rate", "suffix_first_rate", "mix_share"):
            if not 0 <= (rate := getattr(self, name)) <= 1:
                raise DataError(f"{name} is {rate}; expected 0 to 1")
        if self.gap_weight < 0:
            raise DataError(f"gap_weight is {self.gap_weight}; expected 0 or more")
        if self.shortest_run < 1 or self.longest_run < 0:
            raise DataError(
                f"shortest_run is {self.shortest_run}, longest_run {self.longest_run}; expected 1 "
                "or more, and 0 or more"
            )

    def documents(self) -> Documents:
        """The files to train on, and those held out."""
        return find_documents(Path(self.data).expanduser() if self.data else None, self.pattern)


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
            self._check_recipe()
        elif directory.exists() and any(directory.iterdir()):
            raise DataError(f"{directory} exists; choose a new directory, or resume the run in it")
        else:
            directory.mkdir(parents=True, exist_ok=True)
            run_directory.write_beside(directory / TOKENIZER, self._vocabulary())
            run_directory.write_beside(directory / RECIPE, _json(asdict(recipe)))
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
        """
        model = self._new_model().to(machine.device)
        state = run_directory.load_state(self.directory)
        for name, stage in self.recipe.stages.items():
            if not stage.tokens or (self.directory / name).exists():
                continue
            trainer = self._trainer(model, stage, machine)
            if state is not None and state["stage"] == name:
                trainer.load_state_dict(state["trainer"])
            elif state is not None:  # of the stage before, whose weights this one goes on from
                model.load_state_dict(state["trainer"]["model"])
            state = None
            self._train_stage(name, trainer, save_every, report)
            self._write_checkpoint(name, model, shards)

    def _check_recipe(self) -> None:
        path = self.directory / RECIPE
        if not path.is_file():
            raise DataError(f"{self.directory} holds no run to resume; start one")
        saved, asked = json.loads(path.read_text()), json.loads(_json(asdict(self.recipe)))
        if saved != asked:
            raise DataError(
                f"{self.directory} was started with other options: {_difference(saved, asked)}; "
                "give the same ones to resume it"
            )

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

    def _train_stage(
        self, name: str, trainer: Trainer, save_every: int, report: Report | None
    ) -> None:
        stage = trainer.stage
        held_out = self._held_out(stage)
        run_directory.cut_log(self.directory, name, trainer.step)
        with (self.directory / run_directory.LOG).open("a") as log:
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
                    record["held_out_loss"] = trainer.loss(held_out)
                print(json.dumps(record), file=log, flush=True)
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


def _json(recipe: dict[str, Any]) -> bytes:
    return json.dumps(recipe, indent=2).encode() + b"\n"


def _difference(saved: dict[str, Any], asked: dict[str, Any]) -> str:
    """What two recipes disagree in, in words."""
    phrases = []
    for key, value in asked.items():
        if isinstance(value, dict) and isinstance(saved.get(key), dict):
            if inner := _difference(saved[key], value):
                phrases.append(f"{key} {inner}")
        elif saved.get(key) != value:
            phrases.append(f"{key} was {saved.get(key)}, is {value}")
    return ", ".join(phrases)
