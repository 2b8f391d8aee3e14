"""Train a Code Llama from nothing for some minutes, and watch what it writes get better.

    python examples/train_tiny.py RUN [--minutes 5]

Everything is the package's: the vocabulary, the infilling transform and the trainer are those of
`python -m codellama.train`, on the standard library of the running Python. A few steps are timed
first, so that the learning rate falls to its end when the time is up.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codellama import CodeLlama, ModelConfig
from codellama.cli import run
from codellama.distributed import DistributedContext
from codellama.errors import number
from codellama.training.recipe import Recipe, Stage
from codellama.training.run import Run, check_directory
from codellama.training.trainer import Trainer
from codellama.weights.loading import default_device

STAGE = Stage(
    name="tiny",
    tokens=4 * 1_024,
    sequence=256,
    batch_tokens=1_024,
    learning_rate=2e-3,
    beta2=0.99,
    rope_theta=1e4,
)
PROMPT = "def fibonacci(n):"
GAP = ("def add(a, b):\n    total = ", "\n    return total\n")
SAMPLES = 6


@dataclass(frozen=True)
class TinyOptions:
    """Where to train, and for how long.

    Args:
        out: directory of the run; must be new. Its checkpoint will be in `model`.
        minutes: to train for; the vocabulary comes on top.
        data: directory of documents; without it, the standard library.
        vocab_size: ids of the vocabulary.
    """

    out: str
    minutes: float = number(5.0, above=0)
    data: str = "stdlib"
    vocab_size: int = number(2_048, least=1)


def train_tiny(options: TinyOptions) -> None:
    """Train for about so many minutes."""
    check_directory(Path(options.out), None)
    context = DistributedContext.join(default_device())
    shape = ModelConfig(192, 4, 3, options.vocab_size, n_kv_heads=1, multiple_of=64)
    recipe = Recipe((STAGE,), model=shape, data=(options.data,))
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch), recipe, context)
        run.train(lambda _, record: seconds.append(record["seconds"]))
    steps = max(2, int(60 * options.minutes / min(seconds)))
    stage = replace(STAGE, tokens=steps * STAGE.step_tokens)
    training = Run(Path(options.out), replace(recipe, stages=(stage,)), context)
    print(f"{steps} steps of {STAGE.step_tokens:,} tokens", flush=True)

    def report(trainer: Trainer, record: dict[str, Any]) -> None:
        if record["step"] == 1 or record["step"] % max(1, steps // SAMPLES) == 0:
            llm = CodeLlama(trainer.model, training.tokenizer)
            [completion] = llm.complete([PROMPT], max_new_tokens=40)
            [middle] = llm.infill([GAP], max_new_tokens=16)
            print(f"\n== step {record['step']}, loss {record['loss']:.2f}")
            print(f"{PROMPT}{completion.text}\n-- infilled: {middle.text!r}", flush=True)

    training.train(report)
    print(f"\nThe checkpoint is {training.model_directory}; go on with it:")
    print(f"python -m codellama.generate --ckpt {training.model_directory} --prompt 'import '")


if __name__ == "__main__":
    run(train_tiny, first="out")
