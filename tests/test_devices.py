"""Every way of running and training on every device of this machine, against the plain CPU."""

import importlib
import json
import os
import subprocess
import sys

import pytest
import torch
from commands import ROOT, run
from random_checkpoint import Shape, random_checkpoint
from random_models import random_model

from codellama import CodeLlama, generate_tokens, load_model
from codellama.distributed import DistributedContext
from codellama.evaluation.perplexity import losses_by_position, perplexity
from codellama.evaluation.speed import Workload, read_bandwidth, speeds
from codellama.fast.compiled import can_compile
from codellama.training.recipe import Stage
from codellama.training.trainer import Trainer, distribute, initialise, set_stage

PROMPTS = ["def f(x):", "", "import os\n\nclass Path", "x"]
GREEDY = {"max_new_tokens": 16, "logprobs": True}
FORMS = {
    "plain": {"fast": False},
    "fast": {},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
    "8-bit cache": {"kv_dtype": "int8"},
    "compiled": {"compile": True},
    "int8, compiled": {"quantize": "int8", "compile": True},
    "int4, 8-bit cache, compiled": {"quantize": "int4", "kv_dtype": "int8", "compile": True},
}
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Differences of log-probabilities, in nats; rounding to integers is compared with itself."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model large enough for every kernel, with grouped heads."""
    directory = tmp_path_factory.mktemp("model")
    random_checkpoint(Shape(str(directory), dim=256, n_heads=4, n_kv_heads=2))
    return directory


@pytest.fixture(autouse=True)
def _forget_compiled():
    yield
    torch._dynamo.reset()


def skip_what_cannot_compile(form: str, device: str) -> None:
    if FORMS[form].get("compile") and device == "cpu":
        pytest.skip("tests/fast/test_compiled.py has the CPU's")
    if FORMS[form].get("compile") and not can_compile(torch.device(device)):
        pytest.skip("torch.compile needs a compiler for the device")


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
def test_logits_are_those_of_the_cpu(directory, device, dtype):
    tokens = torch.arange(1, 101).view(2, 50)
    expected = load_model(directory, "cpu", torch.float32)(tokens)
    model = load_model(directory, device, dtype)
    found = model(tokens.to(device)).cpu()
    assert (found - expected).abs().max() < CLOSE[dtype] * expected.abs().max()
    cache = model.new_cache(2)
    with torch.no_grad():
        parts = [model(part.to(device), cache).cpu() for part in tokens.split([30, 1, 19], 1)]
    assert (torch.cat(parts, 1) - found).abs().max() < CLOSE[dtype] * expected.abs().max()


def test_a_tensor_left_behind_on_the_cpu_is_found(directory, device):
    if device == "cpu":
        pytest.skip("the device is the CPU")
    model = load_model(directory, device)
    model.norm.weight = torch.nn.Parameter(model.norm.weight.detach().cpu())
    with pytest.raises(RuntimeError, match="device"):
        model(torch.ones(1, 3, dtype=torch.long, device=device))


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_equals_its_prompts_alone_and_their_streams(directory, device, form):
    skip_what_cannot_compile(form, device)
    llm = CodeLlama.load(directory, device, torch.float32, **FORMS[form])
    together = llm.complete(PROMPTS, batch_size=3, **GREEDY)
    for prompt, one in zip(PROMPTS, together, strict=True):
        [alone] = llm.complete([prompt], **GREEDY)
        assert alone.tokens == one.tokens
        assert alone.logprobs == pytest.approx(one.logprobs, abs=1e-3)
        assert "".join(llm.stream(prompt, max_new_tokens=16)) == one.text


@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_on_a_device_what_it_gives_on_the_cpu(directory, device, form):
    if device == "cpu":
        pytest.skip("the device is the CPU")
    skip_what_cannot_compile(form, device)
    found, expected = (
        CodeLlama.load(directory, one, torch.float32, **options).complete(PROMPTS, **GREEDY)
        for one, options in ((device, FORMS[form]), ("cpu", FORMS[form] | {"compile": False}))
    )
    for one, other in zip(found, expected, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=0.01)


def test_seeded_sampling_repeats_itself(directory, device):
    llm = CodeLlama.load(directory, device)
    options = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "seed": 5, "max_new_tokens": 16}
    assert llm.complete(PROMPTS, **options) == llm.complete(PROMPTS, **options)
    [drafted] = llm.complete(["x = x = x ="], speculate=4, max_new_tokens=16)
    assert drafted == llm.complete(["x = x = x ="], max_new_tokens=16)[0]


def test_a_few_steps_of_training_lower_the_loss(device):
    model = random_model(n_layers=1)
    initialise(model, torch.Generator().manual_seed(0))
    stage = Stage("s", 4_096, 32, 256, 3e-3, activation_checkpointing=True)
    context = DistributedContext.join(torch.device(device))
    rows = torch.arange(8 * 33).view(8, 33) % 40
    stream = type("Rows", (), {"take": lambda _, count: rows[:count]})()
    set_stage(model, stage)
    trainer = Trainer(distribute(model, context), stream, stage, context)
    losses = [trainer.train_step() for _ in range(12)]
    assert losses[-1] < losses[0] - 0.5


def test_infilling_healing_and_chat_give_the_texts_of_the_cpu(directory, device):
    texts = []
    for one in ("cpu", device):
        llm = CodeLlama.load(directory, one, torch.float32)
        options = {"max_new_tokens": 12}
        texts.append(
            [
                *llm.infill([("def f(", "):\n    pass")], **options),
                *llm.infill([("def fun", "(x)")], suffix_first=True, heal=True, **options),
                *llm.chat([[{"role": "user", "content": "hi"}]], repetition_penalty=1.2, **options),
                *llm.complete(PROMPTS, echo=True, **GREEDY),
            ]
        )
    assert [one.tokens for one in texts[0]] == [one.tokens for one in texts[1]]


def test_the_plain_loop_gives_the_tokens_of_the_cpu(directory, device):
    loops = (
        generate_tokens(load_model(directory, one, torch.float32), [1, 42, 7], 12)
        for one in ("cpu", device)
    )
    assert list(next(loops)) == list(next(loops))


def test_measurements_are_those_of_the_cpu(directory, device):
    text, found = "def f(x):\n    return x\n" * 40, []
    for one in ("cpu", device):
        llm = CodeLlama.load(directory, one, torch.float32)
        losses = losses_by_position(llm, text, [0, 16, 64], 2)
        found.append([perplexity(llm, {"a": text})["loss"], *losses[0], *losses[1]])
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_speed_is_measured(directory, device):
    llm = CodeLlama.load(directory, device)
    figures = speeds(llm, Workload(prompt_tokens=8, new_tokens=2, batch=2, repeats=1))
    assert all(figure > 0 for figure in figures.values())
    if device in ("cpu", "cuda", "mps"):  # nothing waits for a pretend one
        assert read_bandwidth(torch.device(device), 1_000_000) > 0


def test_an_adapter_is_learned(directory, device):
    lora = importlib.import_module("lora")
    model = load_model(directory, device, torch.float32)
    lora.adapt(model, ("wq", "w2"), 2)
    stage = Stage("s", 1_024, 32, 256, 3e-2)
    context = DistributedContext.join(torch.device(device))
    rows = torch.arange(8 * 33).view(8, 33) % 40
    stream = type("Rows", (), {"take": lambda _, count: rows[:count]})()
    set_stage(model, stage)
    trainer = Trainer(model, stream, stage, context)
    losses = [trainer.train_step() for _ in range(4)]
    assert losses[-1] < losses[0]


def test_the_lessons_modules_run(directory, device):
    lesson = importlib.import_module("6_change_a_module")
    model, tokens = load_model(directory, device, torch.float32), torch.arange(1, 9)[None]
    plain = model(tokens.to(device))
    for block in model.layers:
        block.attention.attend = lesson.RecordedAttention()
    assert (model(tokens.to(device)) - plain).abs().max() < 1e-4
    for block in model.layers:
        block.register_forward_pre_hook(lesson.divide_positions)
    assert (model(tokens.to(device)) - plain).abs().max() > 1e-3


def test_a_model_is_laid_over_all_devices(directory, device):
    if device != "cuda" or torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs; tests/fast/test_tensor_parallel.py has the CPU's")
    options = ["--prompt", PROMPTS[0], "--max_new_tokens", "16", "--device", device, "--json"]
    options += ["--ckpt", str(directory), "--dtype", "float32"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, "--nproc_per_node", "2", "-m", "codellama.generate", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads(run("generate", *options).stdout)
