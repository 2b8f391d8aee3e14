"""The command that trains a Code Llama: `python -m codellama.train --out RUN`."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from codellama.arguments import UsageError
from codellama.cli import run, torch_device, torch_dtype
from codellama.inference.generation import TOKENIZER, load_tokenizer
from codellama.model.config import ModelConfig
from codellama.model.transformer import Transformer
from codellama.text.tokenizer import Tokenizer
from codellama.training import hardware, runs
from codellama.training.contexts import ContextStream
from codellama.training.documents import Documents, find_documents, read_document
from codellama.training.tokenizer import train_tokenizer
from codellama.training.trainer import Stage, Trainer, initialise
from codellama.weights import meta
from codellama.weights.checkpoint import reader
from codellama.weights.loading import default_device, load_model

HELD_OUT_TOKENS = 32_768
SHORT_STAGE, LONG_STAGE = "stage1", "stage2"


@dataclass(frozen=True)
class _Recipe:
    """What decides on a run's result; kept with it, so that it is resumed with the same."""

    data: str | None
    pattern: str
    ckpt: str | None
    infilling_rate: float
    seed: int
    model: dict[str, int]
    stages: dict[str, Stage]


def train(
    *,
    out: str,
    data: str | None = None,
    pattern: str = "*.py",
    ckpt: str | None = None,
    tokens: int = 20_000_000,
    sequence: int = 1_024,
    batch_tokens: int = 4_096,
    learning_rate: float = 1.5e-3,
    theta: float = 1e4,
    long_tokens: int = 1_000_000,
    long_sequence: int = 8_192,
    long_batch_tokens: int = 16_384,
    long_learning_rate: float = 3e-4,
    long_theta: float = 1e6,
    warmup_steps: int = 200,
    infilling_rate: float = 0.9,
    dim: int = 256,
    n_layers: int = 6,
    n_heads: int = 4,
    n_kv_heads: int = 2,
    multiple_of: int = 64,
    vocab_size: int = 4_096,
    shards: int = 1,
    seed: int = 0,
    save_every: int = 250,
    resume: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    compile: bool | None = None,
    plot: str | None = None,
    quiet: bool = False,
) -> None:
    """Train a model as the paper does: short sequences first, then long ones with a larger θ.

    The directory of the run gets `stage1` and `stage2`, checkpoints in Meta's format.

    Args:
        out: directory of the run; must be new, unless the run is resumed.
        data: directory of documents; without it, the standard library of this Python.
        pattern: what the documents are called.
        ckpt: checkpoint to start from; without it, a new model and vocabulary.
        tokens: to train on in the first stage; 0 leaves it out.
        sequence: tokens in a sequence of the first stage.
        batch_tokens: tokens in a step of the optimiser.
        learning_rate: its peak; it falls as a cosine to a thirtieth.
        theta: rotary base of the first stage.
        long_tokens: to train on in the second stage; 0 leaves it out.
        long_sequence: tokens in a sequence of the second stage.
        long_batch_tokens: tokens in a step of the second stage.
        long_learning_rate: peak of the second stage.
        long_theta: rotary base of the second stage.
        warmup_steps: steps until the peak, a tenth of the stage at most.
        infilling_rate: share of documents cut for infilling.
        dim: width of a new model.
        n_layers: blocks of a new model.
        n_heads: query heads of a new model.
        n_kv_heads: key and value heads of a new model.
        multiple_of: what the feed-forward's width is rounded up to.
        vocab_size: ids of a new vocabulary.
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
        from codellama.training import plotting

        plotting.check()
    recipe = _Recipe(
        data,
        pattern,
        ckpt,
        infilling_rate,
        seed,
        {
            "dim": dim,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": n_kv_heads,
            "multiple_of": multiple_of,
            "vocab_size": vocab_size,
        },
        {
            SHORT_STAGE: Stage(tokens, sequence, batch_tokens, learning_rate, warmup_steps, theta),
            LONG_STAGE: Stage(
                long_tokens,
                long_sequence,
                long_batch_tokens,
                long_learning_rate,
                warmup_steps,
                long_theta,
            ),
        },
    )
    place = torch_device(device) or default_device()
    autocast = torch_dtype(dtype) if dtype else hardware.fast_dtype(place)
    session = _Session(
        Path(out).expanduser(),
        recipe,
        find_documents(Path(data).expanduser() if data else None, pattern),
        place,
        None if autocast == torch.float32 else autocast,
        hardware.can_compile(place) if compile is None else compile,
        save_every,
        shards,
        quiet,
    )
    session.open(resume)
    session.train()
    if plot is not None:
        plotting.draw(runs.read_log(session.out), Path(plot))


@dataclass
class _Session:
    """One process's part of a run."""

    out: Path
    recipe: _Recipe
    documents: Documents
    device: torch.device
    autocast: torch.dtype | None
    compiled: bool
    save_every: int
    shards: int
    quiet: bool

    def open(self, resume: bool) -> None:
        """Makes the run's directory, or checks that it was made for this recipe."""
        path = self.out / "recipe.json"
        recipe = json.loads(json.dumps(asdict(self.recipe)))
        if resume:
            if not path.is_file():
                raise UsageError(f"{self.out} holds no run to resume; leave out --resume")
            if (saved := json.loads(path.read_text())) != recipe:
                raise UsageError(
                    f"{self.out} was started with other options: {_difference(saved, recipe)}; "
                    "give the same ones to resume it"
                )
            return
        if self.out.exists() and any(self.out.iterdir()):
            raise UsageError(f"{self.out} exists; choose a new directory, or --resume the run")
        self.out.mkdir(parents=True, exist_ok=True)
        runs.write_beside(self.out / TOKENIZER, self._vocabulary())
        runs.write_beside(path, json.dumps(recipe, indent=2).encode() + b"\n")

    def train(self) -> None:
        """Goes through the stages that are not done yet."""
        tokenizer = Tokenizer(self.out / TOKENIZER)
        model = self._new_model(tokenizer).to(self.device)
        state = runs.load_state(self.out)
        stages = {name: stage for name, stage in self.recipe.stages.items() if stage.tokens}
        for name, stage in stages.items():
            if (self.out / name).exists():
                continue
            trainer = self._trainer(model, tokenizer, stage)
            if state is not None and state["stage"] == name:
                trainer.load_state_dict(state["trainer"])
            elif state is not None:
                model.load_state_dict(state["trainer"]["model"])
            self._train_stage(name, trainer)
            state = {"stage": name, "trainer": trainer.state_dict()}
            self._write_checkpoint(name, model)

    def _vocabulary(self) -> bytes:
        if self.recipe.ckpt is not None:
            return (Path(self.recipe.ckpt).expanduser() / TOKENIZER).read_bytes()
        texts = map(read_document, self.documents.train)
        return train_tokenizer(texts, self.recipe.model["vocab_size"])

    def _new_model(self, tokenizer: Tokenizer) -> Transformer:
        if self.recipe.ckpt is not None:
            model = load_model(self.recipe.ckpt, "cpu", torch.float32)
            load_tokenizer(self.recipe.ckpt, model.config.vocab_size)
            return model.requires_grad_(True)
        model = Transformer(ModelConfig(**self.recipe.model))
        initialise(model, torch.Generator().manual_seed(self.recipe.seed))
        return model

    def _trainer(self, model: Transformer, tokenizer: Tokenizer, stage: Stage) -> Trainer:
        stream = ContextStream(
            self.documents.train,
            tokenizer,
            stage.sequence + 1,
            self.recipe.infilling_rate,
            self.recipe.seed,
        )
        group = hardware.rows_at_once(self.device, stage.sequence)
        stage = replace(stage, warmup_steps=min(stage.warmup_steps, -(-stage.steps // 10)))
        return Trainer(model, stream, stage, group, self.autocast, self.compiled)

    def _train_stage(self, name: str, trainer: Trainer) -> None:
        stage = trainer.stage
        held_out = self._held_out(trainer)
        runs.cut_log(self.out, name, trainer.step)
        step_tokens = stage.batch_size * stage.sequence
        with (
            tqdm(
                total=stage.steps * step_tokens,
                initial=trainer.step * step_tokens,
                desc=name,
                unit="tok",
                unit_scale=True,
                disable=self.quiet,
                mininterval=1.0,
            ) as bar,
            (self.out / runs.LOG).open("a") as log,
        ):
            while trainer.step < stage.steps:
                started = time.perf_counter()
                rate = stage.learning_rate_at(trainer.step)
                loss = trainer.train_step()
                record: dict[str, Any] = {
                    "stage": name,
                    "step": trainer.step,
                    "tokens": trainer.step * step_tokens,
                    "loss": loss,
                    "learning_rate": rate,
                    "seconds": time.perf_counter() - started,
                }
                if trainer.step % self.save_every == 0 or trainer.step == stage.steps:
                    record["held_out_loss"] = trainer.loss(held_out)
                print(json.dumps(record), file=log, flush=True)
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update(step_tokens)
                if trainer.step % self.save_every == 0 or trainer.step == stage.steps:
                    state = {"stage": name, "trainer": trainer.state_dict()}
                    runs.save_state(self.out, state)

    def _held_out(self, trainer: Trainer) -> torch.Tensor:
        """Rows of held-out documents, not cut for infilling."""
        length = trainer.stage.sequence + 1
        stream = ContextStream(self.documents.held_out, trainer.stream.tokenizer, length, 0.0)
        return stream.take(max(1, HELD_OUT_TOKENS // length))

    def _write_checkpoint(self, name: str, model: Transformer) -> None:
        tensors = {
            key: weight.detach().to("cpu", torch.bfloat16)
            for key, weight in model.named_parameters()
        }
        beside = self.out / f"{name}.part"
        runs.clear(beside)
        meta.save_checkpoint(beside, model.config, reader(tensors), self.shards)
        (beside / TOKENIZER).write_bytes((self.out / TOKENIZER).read_bytes())
        beside.rename(self.out / name)
        if not self.quiet:
            print(f"wrote {self.out / name}", file=sys.stderr)


def _difference(saved: dict[str, Any], asked: dict[str, Any]) -> str:
    """What two recipes disagree in, in words."""
    phrases = []
    for key, value in asked.items():
        if isinstance(value, dict) and isinstance(saved.get(key), dict):
            if inner := _difference(saved[key], value):
                phrases.append(inner)
        elif saved.get(key) != value:
            phrases.append(f"{key} was {saved.get(key)}, is {value}")
    return ", ".join(phrases)


if __name__ == "__main__":
    run(train)
