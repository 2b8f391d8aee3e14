"""Whether a model fits."""

from pathlib import Path

import pytest
import torch

from codellama import CodeLlama, RequestError
from codellama.weights import memory
from codellama.weights.loading import LoadOptions, open_checkpoint, weight_bytes

FORMS = [
    {},
    {"dtype": "float32"},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "quantize": "int8"},
    {"dtype": "bfloat16", "quantize": "int4"},
    {"dtype": "float32", "kv_dtype": "int8"},
]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_estimate_is_what_a_model_takes(checkpoint, form):
    options = LoadOptions("cpu", **form)
    weights, cache = memory.needed_bytes(open_checkpoint(checkpoint), options, 1_000)
    model = CodeLlama.load(checkpoint, "cpu", **form).model
    assert weights == pytest.approx(
        weight_bytes(model), rel=0.1
    )  # matrices this small have more scales
    assert cache == pytest.approx(1_000 * model.new_cache().bytes_per_token, rel=0.3)


def test_what_would_fit_is_named_with_its_size(checkpoint, monkeypatch):
    source = open_checkpoint(checkpoint)
    weights, cache = memory.needed_bytes(source, LoadOptions("cpu"), 1_000)
    monkeypatch.setattr(memory, "free_bytes", lambda _: weights + cache // 2)
    with pytest.raises(RequestError, match=r"int8 weights .*, or (499|500) tokens"):
        memory.check_memory(source, LoadOptions("cpu"), 1_000)
    memory.check_memory(source, LoadOptions("cpu"), 400)


def test_compiled_steps_take_a_second_cache(checkpoint):
    source = open_checkpoint(checkpoint)
    (weights, one), (same, two) = (
        memory.needed_bytes(source, LoadOptions("cpu", compile=compile), 1_000)
        for compile in (False, True)
    )
    assert (same, two) == (weights, 2 * one)


def test_nobody_is_told_to_round_what_cannot_be_rounded(checkpoint, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 400_000)
    with pytest.raises(RequestError, match="what would fit: a smaller model"):
        memory.check_memory(open_checkpoint(checkpoint), LoadOptions("cpu"), 1_000, fast=False)


def test_what_is_free_is_less_than_all_memory():
    free = memory.free_bytes(torch.device("cpu"))
    if free is None:
        pytest.skip("the system does not say")
    assert 0 < free < 2**50


@pytest.mark.parametrize("inner", ["", "slice/job/"])
def test_the_limit_of_a_control_group_counts_but_not_its_file_pages(tmp_path, monkeypatch, inner):
    read_text = Path.read_text

    def read(path):
        return f"0::/{inner}\n" if path.name == "cgroup" else read_text(path)

    monkeypatch.setattr(Path, "read_text", read)
    (tmp_path / inner).mkdir(parents=True, exist_ok=True)
    for name, content in {
        "memory.max": "1000000\n",
        "memory.current": "700000\n",
        "memory.stat": "anon 200000\nfile 500000\n",
    }.items():
        (tmp_path / inner / name).write_text(content)
    monkeypatch.setattr(memory, "CONTROL_GROUP", tmp_path)
    if memory.free_bytes(torch.device("cpu")) is None:
        pytest.skip("the system does not say what is free")
    assert memory.free_bytes(torch.device("cpu")) == 800_000
