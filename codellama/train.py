"""The command that trains a Code Llama: `python -m codellama.train --out RUN`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from codellama.cli import run, torch_device, torch_dtype
from codellama.errors import UsageError
from codellama.training import infilling, plotting, run_directory
from codellama.training.contexts import SHORTEST_RUN
from codellama.training.recipe import Recipe
from codellama.training.run import Machine, Report, Run
from codellama.training.trainer import Stage, Trainer
from codellama.weights.loading import default_device, open_checkpoint

NEW_MODEL = {
    "dim": 192,
    "n_layers": 6,
    "n_heads": 3,
    "n_kv_heads": 1,
    "multiple_of": 64,
    "vocab_size": 4_096,
}
"""The shape that is trained where none is asked for."""


def train(
    *,
    out: str,
    data: str | None = None,
    pattern: str = "*.py",
    ckpt: str | None = None,
    new_blocks: int = 0,
    mix_ckpt: str | None = None,
    mix_share: float | None = None,
    tokens: int = 22_000_000,
    sequence: int = 512,
    batch_tokens: int = 1_024,
    learning_rate: float = 1.5e-3,
    theta: float | None = None,
    context: int = 0,
    skip_rate: float = 0.0,
    long_tokens: int = 800_000,
    long_sequence: int = 8_192,
    long_batch_tokens: int = 8_192,
    long_learning_rate: float = 3e-4,
    long_theta: float | None = None,
    warmup_steps: int = 200,
    infilling_rate: float = infilling.RATE,
    line_rate: float = infilling.LINE_RATE,
    suffix_first_rate: float = infilling.SUFFIX_FIRST_RATE,
    gap_weight: float = 1.0,
    shortest_run: int = SHORTEST_RUN,
    longest_run: int = 0,
    dim: int | None = None,
    n_layers: int | None = None,
    n_heads: int | None = None,
    n_kv_heads: int | None = None,
    multiple_of: int | None = None,
    vocab_size: int | None = None,
    shards: int = 1,
    seed: int = 0,
    save_every: int = 1_000,
    resume: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    compile: bool | None = None,
    plot: str | None = None,
    quiet: bool = False,
) -> None:
    """Train a model as the paper does: short sequences first, then long ones with a larger θ.

    The directory of the run gets `stage1` and `stage2`, checkpoints in Meta's format. The defaults
    make a model of 4 million parameters in about an hour on two cores.

    Args:
        out: directory of the run; must be new, unless the run is resumed.
        data: directory of documents; without it, the standard library of this Python.
        pattern: what the documents are called.
        ckpt: checkpoint to start from; without it, a new model and vocabulary.
        new_blocks: blocks to insert into the checkpoint's model; they change nothing at first.
        mix_ckpt: another checkpoint of the same shape, to start from weights between the two.
        mix_share: how far between: 0 for ckpt, 1 for mix_ckpt (0.5).
        tokens: to train on in the first stage; 0 leaves it out.
        sequence: tokens in a sequence of the first stage.
        batch_tokens: tokens in a step of the optimiser.
        learning_rate: its peak; it falls as a cosine to a thirtieth.
        theta: rotary base of the first stage; without it, the checkpoint's, 1e4 for a new model.
        context: of the first stage's checkpoint. 0, as in the second stage: that of the checkpoint
            to start from, or the length of a sequence if that is more.
        skip_rate: share of the first stage's sequences whose positions skip somewhere, so that they
            span the context.
        long_tokens: to train on in the second stage; 0 leaves it out.
        long_sequence: tokens in a sequence of the second stage.
        long_batch_tokens: tokens in a step of the second stage.
        long_learning_rate: peak of the second stage.
        long_theta: rotary base of the second stage; without it, 1e6, or the checkpoint's if that
            is larger.
        warmup_steps: steps until the peak, a tenth of the stage at most.
        infilling_rate: share of documents cut for infilling.
        line_rate: share of those whose gap is a line; the paper cuts at any character.
        suffix_first_rate: share of those with the suffix first; in the paper half.
        gap_weight: what a token that fills a gap counts in the loss, prefix first; all others count
            1, as in the paper.
        shortest_run: tokens of a document at least; files are taken as several documents.
        longest_run: tokens of a document at most; 0: as many as fit in a sequence. Short documents
            show more gaps.
        dim: width of a new model (192).
        n_layers: blocks of a new model (6).
        n_heads: query heads of a new model (3).
        n_kv_heads: key and value heads of a new model (1).
        multiple_of: what its feed-forward's width is rounded up to (64).
        vocab_size: ids of a new vocabulary (4096).
        shards: files to cut each checkpoint into.
        seed: the same seed gives the same weights on the same machine.
        save_every: steps between saves of the state.
        resume: go on with an interrupted run, given the options that it was started with.
        device: cpu, cuda, cuda:1, mps; without it, the best there is.
        dtype: of matrix products: bfloat16 or float32; without it, the faster one here.
        compile: fuse the model with torch.compile; without it, where that works.
        plot: file to draw the loss curves to (needs the extra `plots`).
        quiet: print nothing but errors.
    """
    if plot is not None:
        plotting.check(Path(plot).expanduser())
    shape = {
        "dim": dim,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "n_kv_heads": n_kv_heads,
        "multiple_of": multiple_of,
        "vocab_size": vocab_size,
    }
    asked = {name: size for name, size in shape.items() if size is not None}
    if ckpt is not None and asked:
        raise UsageError(f"--{next(iter(asked))} is for a new model; {ckpt} has a shape of its own")
    if mix_share is not None and mix_ckpt is None:
        raise UsageError("--mix_share is how far to go to another checkpoint; give --mix_ckpt too")
    own_theta, own_context = 1e4, 0
    if ckpt is not None:
        own = open_checkpoint(Path(ckpt).expanduser()).config
        own_theta, own_context = own.rope_theta, own.max_seq_len
    recipe = Recipe(
        model=NEW_MODEL | asked if ckpt is None else {},
        stages={
            "stage1": Stage(
                tokens,
                sequence,
                batch_tokens,
                learning_rate,
                warmup_steps,
                own_theta if theta is None else theta,
                context or own_context,
                skip_rate,
            ),
            "stage2": Stage(
                long_tokens,
                long_sequence,
                long_batch_tokens,
                long_learning_rate,
                warmup_steps,
                max(own_theta, 1e6) if long_theta is None else long_theta,
                own_context,
            ),
        },
        data=data,
        pattern=pattern,
        ckpt=ckpt,
        new_blocks=new_blocks,
        mix_ckpt=mix_ckpt,
        mix_share=Recipe.mix_share if mix_share is None else mix_share,
        infilling_rate=infilling_rate,
        line_rate=line_rate,
        suffix_first_rate=suffix_first_rate,
        gap_weight=gap_weight,
        seed=seed,
        shortest_run=shortest_run,
        longest_run=longest_run,
    )
    machine = Machine.best(torch_device(device) or default_device())
    if dtype is not None:
        autocast = torch_dtype(dtype)
        if autocast == torch.float16:
            raise UsageError(
                "--dtype is float16, too narrow for gradients; expected bfloat16 or float32"
            )
        machine = replace(machine, autocast=None if autocast == torch.float32 else autocast)
    if compile is not None:
        machine = replace(machine, compiled=compile)
    if save_every < 1:
        raise UsageError(f"--save_every is {save_every}; expected 1 or more")
    training = Run(Path(out).expanduser(), recipe, resume)
    with _Bars(quiet) as report:
        training.train(machine, save_every, shards, report)
    if plot is not None:
        plotting.draw(run_directory.read_log(training.directory), Path(plot).expanduser())
    if not quiet:
        print(f"checkpoints are in {training.directory}", file=sys.stderr)


class _Bars:
    """A progress bar for each stage, with loss, tokens a second and time left."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.stage = ""
        self.bar: Any = None

    def __enter__(self) -> Report:
        return self._report

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def _report(self, trainer: Trainer, record: dict[str, Any]) -> None:
        stage = trainer.stage
        if self.stage != record["stage"]:
            self.__exit__()
            self.stage = record["stage"]
            self.bar = tqdm(
                desc=record["stage"],
                total=stage.steps * stage.step_tokens,
                initial=record["tokens"] - stage.step_tokens,
                unit="tok",
                unit_scale=True,
                disable=self.quiet,
                mininterval=1.0,
            )
        self.bar.set_postfix(loss=f"{record['loss']:.3f}", refresh=False)
        self.bar.update(stage.step_tokens)


if __name__ == "__main__":
    run(train)
