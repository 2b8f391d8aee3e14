"""Lesson 7: use a model from Python, adapt it, and train one of your own.

    python examples/7_train_and_use.py [--ckpt DIR] [--out DIR]

Completion, scoring, infilling and chat in a few lines each; then LoRA (arXiv 2106.09685), as
`lora.py` has it, which adapts the small model to a library it has never seen; then a new model from
nothing, as `train_tiny.py` has it: let that one run for five minutes.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lesson import title
from lora import LoraOptions, lora
from train_tiny import TinyOptions, train_tiny

from codellama import CodeLlama, prompts
from codellama.cli import checkpoint_directory, run
from codellama.errors import number
from codellama.evaluation.perplexity import perplexity
from codellama.training.documents import find_all, read_document


@dataclass(frozen=True)
class Course:
    """What is used, and how long is trained.

    Args:
        ckpt: checkpoint directory; without it, the small one that comes with the package.
        lora_tokens: tokens that LoRA learns from.
        data: what LoRA learns: a directory, or `package:NAME` for an installed package.
        minutes: for the new model.
        new_data: what the new model learns: a directory, or stdlib.
        vocab_size: ids of the new model's vocabulary.
        out: directory for both new checkpoints; without it, they are deleted in the end.
    """

    ckpt: str | None = None
    lora_tokens: int = number(40_000, least=1)
    data: str = "package:networkx"
    minutes: float = number(0.3, above=0)
    new_data: str = "stdlib"
    vocab_size: int = number(2_048, least=1)
    out: str | None = None


def use(llm: CodeLlama) -> None:
    """Everything that `CodeLlama` does."""
    title("Text as it comes")
    prompt = "def fibonacci(n):"
    print(prompt, end="")
    pieces = list(llm.stream(prompt, max_new_tokens=40, temperature=0.8, seed=1))
    print("|".join(pieces))
    [whole] = llm.complete([prompt], max_new_tokens=40, temperature=0.8, seed=1)
    assert "".join(pieces) == whole.text, "a stream gives the text that `complete` gives"

    title("Several prompts in a batch, each as if alone")
    several = ["import json\n\ndef load(path):", "class Stack:"]
    together = llm.complete(several, max_new_tokens=24)
    for text, completion in zip(several, together, strict=True):
        print(f"{text}{completion.text}\n({len(completion.tokens)} tokens, ", end="")
        print(f"finished by {completion.finish_reason})\n")

    title("How likely is a text?")
    scores = {}
    for text in ("for i in range(10):", "for range in i(10):"):
        [scored] = llm.complete([text], max_new_tokens=0, echo=True, logprobs=True)
        nats = [-logprob for logprob in scored.logprobs[1:]]  # nothing predicts the first token
        scores[text] = math.exp(sum(nats) / len(nats))
        print(f"perplexity {scores[text]:8.1f}  {text}")

    title("Infilling and chat")
    prefix, suffix = prompts.split_fill(
        "def first(items):\n    if not items:\n<FILL_ME>\n    return items[0]\n"
    )
    [middle] = llm.infill([(prefix, suffix)], max_new_tokens=16)
    print(f"{prefix}[{middle.text}]{suffix}")
    messages = [
        {"role": "system", "content": "Answer with Python code only."},
        {"role": "user", "content": "Reverse a string."},
    ]
    print("What an Instruct model reads:")
    print(repr(llm.tokenizer.decode(prompts.chat(llm.tokenizer, messages))))
    [answer] = llm.chat([messages], max_new_tokens=24)
    print(f"This model's answer: {answer.text!r}")
    print("The small model has never seen a chat; CodeLlama-7b-Instruct has.")


def adapt(course: Course, directory: Path) -> None:
    """LoRA, and what it changes."""
    title("LoRA: a small change of low rank")
    paths = find_all([course.data]).held_out[:4]
    texts = {str(path): read_document(path)[:4_000] for path in paths}
    lora(LoraOptions(str(directory), data=course.data, tokens=course.lora_tokens))
    bits = {}
    for name, adapters in {"before": (), "after": directory}.items():
        llm = CodeLlama.load(dtype="float32", lora=adapters)
        bits[name] = perplexity(llm, texts, context=256)["bits_per_byte"]
        print(f"{name:6} {bits[name]:.3f} bits a byte of files that were held out")
    assert bits["after"] < bits["before"]


def train_and_use(course: Course) -> None:
    """Use a model, adapt it, train one."""
    use(CodeLlama.load(checkpoint_directory(course.ckpt), dtype="float32"))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(course.out or scratch)
        adapt(course, directory / "adapted")
        title(f"A new model, {course.minutes:g} minutes old")
        new = directory / "run"
        train_tiny(TinyOptions(str(new), course.minutes, course.new_data, course.vocab_size))
        [completion] = CodeLlama.load(new / "model").complete(["def "], max_new_tokens=16)
        assert completion.tokens, "the new checkpoint runs as any other"
    print("\nWithout --out, both are deleted now. A better one takes five minutes:")
    print("    python examples/train_tiny.py runs/mine --minutes 5")
    print("\nExpect: LoRA lowers 2.01 bits a byte to 1.96 with 40,000 tokens. The new model's loss")
    print(
        "falls from 7.7 nats a token to between 5 and 6; it begins to write Python's line breaks."
    )
    print("\nExercise 1: adapt `wq` and `wv` alone (`lora.py OUT --layers wq --layers wv`), rank 1")
    print("and rank 32. How many weights learn, and what is the held-out loss?")
    print("Exercise 2: go on with a chat: append the answer and another question to `messages`.")


if __name__ == "__main__":
    run(train_and_use)
