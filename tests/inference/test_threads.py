"""One `CodeLlama`, asked by several threads at once, and by streams in turns."""

import threading

import pytest
import torch
from random_models import random_model

from codellama import CodeLlama
from codellama.fast.compiled import CompiledStep

PROMPTS = ["def f(x):", "import os", "", "class A:\n    "]
OPTIONS = {"max_new_tokens": 24, "temperature": 0.8, "seed": 1}


@pytest.fixture(params=["plain", "compiled"])
def llm(request, tokenizer):
    model = random_model()
    compiled = CompiledStep(model, "eager") if request.param == "compiled" else None
    yield CodeLlama(model, tokenizer, compiled)
    torch._dynamo.reset()


def chat(prompt: str) -> list[dict]:
    return [{"role": "user", "content": prompt or "x"}]


def ways(llm: CodeLlama):
    """Calls for each prompt that give a text."""
    for prompt in PROMPTS:
        yield lambda prompt=prompt: llm.complete([prompt], **OPTIONS)[0].text
        yield lambda prompt=prompt: "".join(llm.stream(prompt, **OPTIONS))
        yield lambda prompt=prompt: "".join(llm.stream_chat(chat(prompt), **OPTIONS))


def test_threads_get_what_each_gets_alone(llm):
    expected = [call() for call in ways(llm)]
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        found[number] = [call() for call in ways(llm)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(3), expected)


def test_streams_in_turns_get_what_each_gets_alone(llm):
    expected = ["".join(llm.stream(prompt, **OPTIONS)) for prompt in PROMPTS]
    streams = [llm.stream(prompt, **OPTIONS) for prompt in PROMPTS]
    texts = [""] * len(PROMPTS)
    pieces = True
    while pieces:
        pieces = [next(stream, None) for stream in streams]
        texts = [text + (piece or "") for text, piece in zip(texts, pieces, strict=True)]
        pieces = any(piece is not None for piece in pieces)
    assert texts == expected


def test_a_stream_left_half_way_changes_nothing_that_comes_later(llm):
    expected = [call() for call in ways(llm)]
    for prompt in PROMPTS:
        next(iter(llm.stream(prompt, **OPTIONS)), None)
        next(iter(llm.stream_chat(chat(prompt), **OPTIONS)), None)
    assert [call() for call in ways(llm)] == expected
