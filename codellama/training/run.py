"""A training run from its recipe to its checkpoint, which can be interrupted at any time.

RUN/recipe.json       what was asked for
RUN/documents.json    path and size of every file that it reads
RUN/exercises         the documents of the source `exercises`, if the recipe names it
RUN/tokenizer.model
RUN/state-000123      the newest state, after so many steps: weights, optimiser, place in the data
RUN/log.jsonl         a line a step
RUN/model             the checkpoint in Meta's format, made at the end
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from codellama.distributed import DistributedContext
from codellama.errors import DataError
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import TOKENIZER, Tokenizer
from codellama.training.documents import (
    EXERCISES,
    Line,
    find_all,
    read_document,
    write_exercises,
)
from codellama.training.packing import PackedSequences, Packing
from codellama.training.recipe import Recipe, Stage, difference, read_recipe
from codellama.training.tokenizer import train_tokenizer
from codellama.training.trainer import Trainer, distribute, initialise, set_stage
from codellama.weights import meta
from codellama.weights.checkpoint import new_directory, reader
from codellama.weights.loading import QUANTIZED, load_model, load_tokenizer, open_checkpoint

RECIPE = "recipe.json"
DOCUMENTS = "documents.json"
LOG = "log.jsonl"
LOGGED = {"stage", "step", "tokens", "loss"}
HELD_OUT_TOKENS = 32_768
"""Held-out tokens that the validation loss is measured on; a quarter for the ends of gaps."""
VOCABULARY_BYTES = 8_000_000
"""Text that a vocabulary is learned from, at most."""

Report = Callable[[Trainer, dict[str, Any]], None]
"""Told of a step: its trainer, and its record in the log (stage, step, tokens, loss and so on)."""


class Run:
    """A directory that a recipe fills with a checkpoint.

    Args:
        resume: go on with what an earlier process has left there.
        force: go on even if the documents have changed since.

    Raises:
        DataError: the directory is taken; or holds no run, or one of another recipe or of other
            documents, to resume.
        CheckpointError: the checkpoint to start from is none.
    """

    def __init__(
        self,
        directory: Path,
        recipe: Recipe,
        context: DistributedContext,
        *,
        resume: bool = False,
        force: bool = False,
    ) -> None:
        self.directory = directory
        self.recipe = recipe
        self.context = context
        self.model_directory = directory / "model"
        context.on_rank_zero(lambda: check_directory(directory, recipe if resume else None))
        if recipe.ckpt is not None:
            start = open_checkpoint(recipe.ckpt)
            load_tokenizer(recipe.ckpt, start.config.vocab_size)  # raises if it does not fit
            if (start.directory / QUANTIZED).exists():
                raise DataError(
                    f"{recipe.ckpt} is rounded to integers, which cannot be trained; start from "
                    "the checkpoint that it was made from"
                )
        exercises = directory / EXERCISES
        sources = dict.fromkeys(stage.data or recipe.data for stage in recipe.stages)
        if {EXERCISES, f"{EXERCISES}:chat"}.intersection(*sources):
            context.on_rank_zero(lambda: write_exercises(exercises, recipe.seed, resume))
        self.documents = {data: find_all(data, recipe.pattern, exercises) for data in sources}
        context.on_rank_zero(lambda: self._start(resume, force))
        self.tokenizer = Tokenizer(directory / TOKENIZER)

    def _start(self, resume: bool, force: bool) -> None:
        """Writes the vocabulary, the checkpoint's or one learned from documents, and the recipe; a
        run that is resumed has both. Writes the sizes of files, unless others were there."""
        found = self.documents.values()
        files = dict.fromkeys(path for one in found for path in one.train)
        paths = {*files, *(path for one in found for path in one.held_out)}
        paths |= {line.path for one in found for line in one.train_chats}
        exercises = self.directory / EXERCISES  # which the recipe decides on
        sizes = {str(path): path.stat().st_size for path in paths if exercises not in path.parents}
        if resume and not force:
            check_documents(self.directory, sizes)
        if not resume:
            if self.recipe.model is None:
                vocabulary = Path(str(self.recipe.ckpt), TOKENIZER).read_bytes()
            else:
                shuffled = list(files)
                random.Random(self.recipe.seed).shuffle(shuffled)
                ends = itertools.accumulate(path.stat().st_size for path in shuffled[:-1])
                count = 1 + sum(end < VOCABULARY_BYTES for end in ends)
                texts = map(read_document, shuffled[:count])
                vocabulary = train_tokenizer(texts, self.recipe.model.vocab_size, at_most=True)
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / TOKENIZER).write_bytes(vocabulary)
            replace_file(self.directory / RECIPE, self.recipe.to_json())
        replace_file(self.directory / DOCUMENTS, json.dumps(sizes, indent=0, sort_keys=True))

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
        model = distribute(model, self.context)
        found = self.context.on_rank_zero(lambda: states(self.directory))
        saved, state = found[-1] if found else (0, self.directory)
        self.context.on_rank_zero(lambda: cut_log(self.directory, saved))
        steps = tokens = 0  # of the stages before
        for stage in self.recipe.stages:
            if stage.steps:
                set_stage(model, stage)
                if saved <= steps + stage.steps:
                    documents = self.documents[stage.data or self.recipe.data]
                    stream = self._stream(
                        [*documents.train, *documents.train_chats], stage, stage.infilling
                    )
                    trainer = Trainer(model, stream, stage, self.context)
                    if saved > steps:
                        restore_state(state, trainer)
                    self._train_stage(trainer, steps, tokens, report)
            steps += stage.steps
            tokens += stage.steps * stage.step_tokens
        weights = {}
        for name, weight in model.named_parameters():  # gathered if several processes hold it
            whole = weight.full_tensor() if hasattr(weight, "full_tensor") else weight
            if self.context.rank == 0:
                weights[name] = whole.detach().to("cpu", torch.bfloat16)

        def write() -> None:
            with new_directory(self.model_directory) as temporary:
                meta.write_meta(temporary, model.config, reader(weights), shards)
                (temporary / TOKENIZER).write_bytes((self.directory / TOKENIZER).read_bytes())

        self.context.on_rank_zero(write)

    def _start_model(self) -> Transformer:
        """A new model, or the checkpoint's in the dtype of its files, on the CPU."""
        if self.recipe.model is None:
            return load_model(str(self.recipe.ckpt), "cpu")
        vocab_size = self.tokenizer.vocab_size  # less than asked for, if documents are few
        model = Transformer(replace(self.recipe.model, vocab_size=vocab_size, max_seq_len=1))
        initialise(model, torch.Generator().manual_seed(self.recipe.seed))
        return model  # whose context grows with the stages

    def _stream(
        self, documents: Sequence[Path | Line], stage: Stage, infilling: float
    ) -> PackedSequences:
        seed = f"{self.recipe.seed} {stage.name}"
        packing = Packing(stage.sequence + 1, infilling, stage.shortest_run, seed)
        return PackedSequences(documents, self.tokenizer, packing)

    def _train_stage(
        self, trainer: Trainer, steps: int, tokens: int, report: Report | None
    ) -> None:
        """Trains the rest of a stage; `steps` and `tokens` count the stages before it."""
        stage, documents = trainer.stage, self.documents[trainer.stage.data or self.recipe.data]
        held_out = self._stream([*documents.held_out, *documents.held_out_chats], stage, 0.0)
        rows = held_out.take(max(1, HELD_OUT_TOKENS // stage.sequence))
        gaps, end_id = None, self.tokenizer.eot_id or 0
        if stage.infilling and documents.held_out:
            held_out = self._stream(documents.held_out, stage, 1.0)
            gaps = held_out.take(max(1, HELD_OUT_TOKENS // 4 // stage.sequence))
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
                loss = record["validation_loss"] = trainer.loss(rows)
                if gaps is not None:
                    record["end_accuracy"] = trainer.accuracy(gaps, end_id)
            if not math.isfinite(loss):
                raise DataError(
                    f"the loss of {stage.name} is {loss} at step {trainer.step}; start a new run "
                    "with a smaller learning rate (what was saved before is as it was)"
                )
            if self.context.rank == 0:
                with (self.directory / LOG).open("a") as log:
                    log.write(json.dumps(record) + "\n")
                if report:
                    report(trainer, record)
            if save:
                save_state(self.directory, steps + trainer.step, trainer)


def check_directory(run: Path, resumed: Recipe | None) -> None:
    """Raises DataError if a directory holds more than a run that failed before its first step; or
    no run, or one of another recipe than the one that is to be resumed."""
    if resumed is None:
        first = {RECIPE, TOKENIZER, DOCUMENTS, EXERCISES, f"{EXERCISES}.part"}
        if run.exists() and {path.name for path in run.iterdir()} - first:
            raise DataError(f"{run} exists; choose a new directory, or resume the run in it")
        return
    if not (run / RECIPE).is_file():
        raise DataError(f"{run} holds no run to resume; start one")
    if lines := difference(read_recipe(str(run / RECIPE)), resumed):
        raise DataError(
            f"{run} was started with another recipe ({lines}); give the same one to resume it"
        )


def check_documents(run: Path, sizes: dict[str, int]) -> None:
    """Raises DataError if a run was started with other files, or files of other sizes."""
    with _reading(run / DOCUMENTS):
        saved = dict(json.loads((run / DOCUMENTS).read_bytes()))
        changes = dict(saved.items() ^ sizes.items())
    if changes:
        path = min(changes)
        raise DataError(
            f"{len(changes)} documents of {run} have come, gone or changed since it was started, "
            f"as {path}, which had {saved.get(path, 0)} bytes and has {sizes.get(path, 0)}; put "
            "them back, or go on with --force"
        )


def replace_file(path: Path, text: str) -> None:
    """Replaces a file in one go: a reader finds the old one or the new one, whole."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{path} is damaged; start a new run") from None


@contextlib.contextmanager
def _state_errors(path: Path, problem: str) -> Iterator[None]:
    """Tells in one sentence what fails in any of the processes; Ctrl-C is raised."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of one process alone, as is meant
            yield
    except (CheckpointException, Exception) as error:  # the former is no Exception
        failures = error.failures if isinstance(error, CheckpointException) else {0: (error, None)}
        [(cause, _), *_] = failures.values()
        if not isinstance(cause, Exception):
            raise cause from None
        reason = str(cause).split("\n")[0]
        raise DataError(f"{path} {problem} ({type(cause).__name__}: {reason:.200})") from None


def states(run: Path) -> list[tuple[int, Path]]:
    """The steps of all stages together after which states were saved, and where they are."""
    found = (path for path in run.glob("state-*") if re.fullmatch(r"state-\d+", path.name))
    return sorted((int(path.name.removeprefix("state-")), path) for path in found)


def save_state(run: Path, steps: int, trainer: Trainer) -> None:
    """Writes what the run resumes from, and then removes what it resumed from before.

    Raises:
        DataError: a file cannot be written.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    path, context = run / f"state-{steps:06d}", trainer.context
    temporary = run / "state.part"
    context.on_rank_zero(lambda: shutil.rmtree(temporary, ignore_errors=True))
    try:
        with _state_errors(path, "cannot be written; free some of the disk and resume the run"):
            state = trainer.state_dict()
            save(state, checkpoint_id=temporary, no_dist=context.mesh is None)
    except DataError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

    def publish() -> None:
        temporary.rename(path)
        for _, older in states(run)[:-1]:
            shutil.rmtree(older)

    context.on_rank_zero(publish)


def restore_state(path: Path, trainer: Trainer) -> None:
    """Lets a trainer go on from a state of the same stage, whatever number of processes saved it.

    Raises:
        DataError: it is damaged.
    """
    from torch.distributed.checkpoint.state_dict_loader import load

    state = trainer.state_dict()
    with _state_errors(path, "is damaged; start a new run"):
        load(state, checkpoint_id=path, no_dist=trainer.context.mesh is None)
        trainer.load_state_dict(state)


def read_log(run: Path) -> list[dict[str, Any]]:
    """One record a step: stage, step in it, tokens so far, loss, learning rate, seconds; at some
    the validation loss, and the share of held-out gaps whose end the model tells.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = run / LOG
    if not path.is_file():
        raise DataError(f"{path} is missing; expected the directory of a training run")
    *lines, _ = path.read_bytes().split(b"\n")  # a stopped process may have left half a line
    with _reading(path):
        records = [json.loads(line) for line in lines]
        if not all(record.keys() >= LOGGED for record in records):
            raise ValueError
    return records


def cut_log(run: Path, steps: int) -> None:
    """Drops what a run has logged after the step that it resumes from."""
    if (run / LOG).exists():
        records = read_log(run)[:steps]
        replace_file(run / LOG, "".join(json.dumps(record) + "\n" for record in records))
