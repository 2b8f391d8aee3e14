"""Train a Code Llama from nothing for some minutes, and watch what it writes get better.

    python examples/train_tiny.py RUN [--minutes 5]

Everything is the package's: the vocabulary, the infilling transform and the trainer are those of
`python -m codellama.train`, on the standard library of the running Python. The run first times
a few steps, so that the learning rate falls to its end when the time is up.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from command_line import run_example

from codellama import CodeLlama
from codellama.training import run_directory
from codellama.training.recipe import Recipe
from codellama.training.run import Machine, Run
from codellama.training.trainer import Stage, Trainer
from codellama.weights.loading import default_device

MODEL = {"dim": 192, "n_layers": 4, "n_heads": 3, "n_kv_heads": 1, "multiple_of": 64}
STAGE = Stage(
    tokens=0,
    sequence=256,
    batch_tokens=1_024,
    learning_rate=2e-3,
    warmup_steps=100,
    rope_theta=1e4,
)
PROMPT = "def fibonacci(n):"
GAP = ("def add(a, b):\n    total = ", "\n    return total\n")
SAMPLES = 6


def train_tiny(
    directory: str, minutes: float = 5.0, data: str | None = None, vocab_size: int = 2_048
) -> None:
    """Trains for about so many minutes.

    Args:
        directory: of the run; must be new. Its checkpoint will be in `model`.
        minutes: to train for; the vocabulary comes on top.
        data: directory of documents; without it, the standard library.
        vocab_size: ids of the vocabulary.
    """
    run_directory.check_free(Path(directory))
    machine = replace(Machine.best(default_device()), compiled=False)

    def run(where: str, tokens: int) -> Run:
        stages = {"model": replace(STAGE, tokens=tokens)}
        return Run(Path(where), Recipe({**MODEL, "vocab_size": vocab_size}, stages, data))

    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        run(scratch, 4 * STAGE.step_tokens).train(
            machine, report=lambda _, record: seconds.append(record["seconds"])
        )
    steps = max(2, int(60 * minutes / min(seconds)))
    training = run(directory, steps * STAGE.step_tokens)
    print(f"{steps} steps of {STAGE.step_tokens:,} tokens", flush=True)

    def report(trainer: Trainer, record: dict[str, Any]) -> None:
        if record["step"] == 1 or record["step"] % max(1, steps // SAMPLES) == 0:
            llm = CodeLlama(trainer.model, training.tokenizer)
            [completion] = llm.complete([PROMPT], max_new_tokens=40)
            [middle] = llm.infill([GAP], max_new_tokens=16)
            print(f"\n== step {record['step']}, loss {record['loss']:.2f}")
            print(f"{PROMPT}{completion.text}\n-- infilled: {middle.text!r}", flush=True)

    training.train(machine, report=report)
    print(f"\nThe checkpoint is {training.directory / 'model'}; go on with it:")
    print(f"python -m codellama.generate --ckpt {training.directory / 'model'} --prompt 'import '")


if __name__ == "__main__":
    run_example(train_tiny)
