"""The command that trains: `python -m codellama.train --recipe paper --out RUN`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from codellama.cli import log, run, user_path
from codellama.distributed import DistributedContext
from codellama.errors import RequestError
from codellama.evaluation import plotting
from codellama.training.recipe import Recipe, read_recipe
from codellama.training.run import RECIPE, Run, read_log
from codellama.training.trainer import Trainer
from codellama.weights.loading import default_device, torch_device, torch_dtype


@dataclass(frozen=True)
class TrainOptions:
    """What to train, on what and for how long; all else is in the recipe.

    Args:
        out: directory of the run, new unless it is resumed; its checkpoint will be in `model`.
        recipe: paper, tiny, finetune, instruct or a file; without it, paper, or that of the resumed
            run.
        ckpt: checkpoint to start from, instead of the recipe's model.
        data: directory, file of conversations NAME.jsonl, `stdlib`, `package:NAME`, `exercises` or
            `exercises:chat`, or a list of them, instead of the recipe's and of its stages'.
        tokens: to train on in all; every stage keeps its share.
        sequence: tokens in a sequence at most, in every stage.
        learning_rate: the highest of the stages' peaks; every stage keeps its ratio to it.
        seed: the same seed gives the same weights on the same machine.
        shards: files to cut the checkpoint into.
        resume: go on with an interrupted run.
        force: resume even if its documents have changed since.
        device: cpu, cuda, cuda:1, mps; without it, the best there is.
        dtype: of matrix products: bfloat16 or float32; without it, the faster one here.
        plot: file to draw the loss curves to (needs the extra `plots`).
        quiet: print nothing but errors.
    """

    out: str
    recipe: str | None = None
    ckpt: str | None = None
    data: tuple[str, ...] = ()
    tokens: int | None = None
    sequence: int | None = None
    learning_rate: float | None = None
    seed: int | None = None
    shards: int = 1
    resume: bool = False
    force: bool = False
    device: str | None = None
    dtype: str | None = None
    plot: str | None = None
    quiet: bool = False


def train(options: TrainOptions) -> None:
    """Train a model as a recipe says, from nothing or from a checkpoint.

    The defaults make a model of 4 million parameters in about an hour on two cores with AVX-512.
    """
    directory, plot = user_path(options.out), user_path(options.plot) if options.plot else None
    if plot:
        plotting.check(plot)
    context = DistributedContext.join(torch_device(options.device) or default_device())
    if dtype := torch_dtype(options.dtype):
        if dtype == torch.float16:
            raise RequestError("--dtype is float16, too narrow for gradients; expected bfloat16")
        context = replace(context, dtype=None if dtype == torch.float32 else dtype)
    recipe = _recipe(options, directory)
    training = Run(directory, recipe, context, resume=options.resume, force=options.force)
    total = sum(stage.steps * stage.step_tokens for stage in recipe.stages)
    with tqdm(total=total, unit="tok", unit_scale=True, delay=1e-3, disable=options.quiet) as bar:

        def report(trainer: Trainer, record: dict[str, Any]) -> None:
            bar.initial = bar.n = bar.n or record["tokens"] - trainer.stage.step_tokens
            bar.set_description(record["stage"], refresh=False)
            bar.set_postfix(loss=f"{record['loss']:.3f}", refresh=False)
            bar.update(record["tokens"] - bar.n)

        training.train(report, options.shards)
    if plot and context.rank == 0:
        plotting.loss_curves(read_log(directory), plot)
    if not options.quiet:
        log(f"the checkpoint is {training.model_directory}")


def _recipe(options: TrainOptions, directory: Path) -> Recipe:
    """The recipe that the options name and change."""
    saved = directory / RECIPE
    name = options.recipe or (str(saved) if options.resume and saved.is_file() else "paper")
    changes: dict[str, Any] = {}
    if options.ckpt is not None:
        changes = {"model": None, "ckpt": str(user_path(options.ckpt))}
    if options.data:
        changes["data"] = [str(user_path(source)) for source in options.data]
    if options.seed is not None:
        changes["seed"] = options.seed
    recipe = read_recipe(str(user_path(name)), **changes)
    return recipe.scaled(options.tokens, options.sequence, options.learning_rate)


if __name__ == "__main__":
    run(train)
