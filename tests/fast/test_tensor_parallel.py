import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import ROOT, run
from random_checkpoint import Shape, random_checkpoint

from codellama import CodeLlama, ModelConfig, RequestError
from codellama.fast.tensor_parallel import check_divisible

PROMPTS = ["def f(x):", "", "import os\n\nclass Path", "x"]
WORKER = Path(__file__).with_name("parallel_worker.py")


def torchrun(processes: int, *arguments: object, **pipes) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc_per_node", str(processes), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}
    environment = {**os.environ, "PYTHONUTF8": "1"}
    return subprocess.Popen(launcher, cwd=ROOT, env=environment, text=True, **pipes)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A model with four key-value heads in two shards, large enough for its memory to be seen."""
    directory = tmp_path_factory.mktemp("sharded")
    sizes = {"dim": 512, "n_layers": 3, "n_heads": 8, "n_kv_heads": 4}
    random_checkpoint(Shape(str(directory), shards=2, **sizes))
    return directory


@pytest.fixture(scope="module")
def quantized(directory, tmp_path_factory) -> list[Path]:
    """The same model in files of int8 and int4."""
    places = [tmp_path_factory.mktemp(mode) / "new" for mode in ("int8", "int4")]
    for place in places:
        options = ("--src", directory, "--dst", place, "--to", place.parent.name.rstrip("0"))
        assert run("convert", *options, "--dtype", "float32", "--quiet").returncode == 0
    return places


@pytest.fixture(scope="module")
def alone(directory) -> CodeLlama:
    return CodeLlama.load(directory, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request, directory, quantized) -> dict:
    with torchrun(request.param, WORKER, directory, json.dumps(PROMPTS), *quantized) as process:
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return {"processes": request.param, **json.loads(output.splitlines()[-1])}


def test_greedy_tokens_are_those_of_one_process(together, alone):
    completions = alone.complete(PROMPTS, max_new_tokens=12, logprobs=True)
    assert together["greedy"] == [completion.tokens for completion in completions]
    for found, completion in zip(together["logprobs"], completions, strict=True):
        assert found == pytest.approx(completion.logprobs, abs=1e-5)


def test_seeded_samples_are_those_of_one_process(together, alone):
    options = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9, "seed": 3}
    completions = alone.complete(PROMPTS, **options)
    assert together["seeded"] == [completion.tokens for completion in completions]


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("source", ["rounded while it is read", "from its file"])
def test_integers_are_those_of_one_process(together, directory, mode, source):
    alone = CodeLlama.load(directory, device="cpu", dtype=torch.float32, quantize=mode)
    completions = alone.complete(PROMPTS, max_new_tokens=12, logprobs=True)
    found = together["integers"][f"{mode} {None if source == 'from its file' else mode}"]
    for (tokens, logprobs), completion in zip(found, completions, strict=True):
        assert tokens == completion.tokens
        # Activations are split by the largest of each process's own channels.
        assert logprobs == pytest.approx(completion.logprobs, abs=2e-3)


def test_without_a_seed_all_processes_sample_alike(together):
    assert together["agreed"]


def test_the_first_process_tells_the_others(together):
    assert together["told"] == [["ü", 0]] * together["processes"]


def test_each_process_caches_its_own_heads(together):
    assert together["cache_heads"] == 4 // together["processes"]


def test_each_process_takes_the_memory_of_its_share(together):
    share = 4 * together["parameters"] / together["processes"]
    assert max(together["memory"]) < 1.1 * share + 2e6


@pytest.mark.slow  # the measurement below prints once, too
def test_the_command_prints_once(directory, alone):
    prompt = "def f(x):"
    options = ("--ckpt", directory, "--max_new_tokens", 8, "--dtype", "float32")
    with torchrun(2, "-m", "codellama.generate", *options, stdin=subprocess.PIPE) as process:
        output, errors = process.communicate(prompt, timeout=120)
    assert process.returncode == 0, errors
    assert output == alone.complete([prompt], max_new_tokens=8)[0].text + "\n"
    assert errors.count("loaded in") == 1
    assert "on 2 x cpu" in errors


def test_a_measurement_is_that_of_one_process(directory, alone, tmp_path):
    text, results = tmp_path / "text.py", tmp_path / "results.jsonl"
    text.write_text("def f(x):\n    return x\n" * 20)
    given = ("--ckpt", directory, "--data", text, "--dtype", "float32", "--json")
    expected = json.loads(run("evaluate", "perplexity", *given).stdout)
    options = ("codellama.evaluate", "perplexity", *given, "--results", results)
    with torchrun(2, "-m", *options) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(output) == pytest.approx(expected, rel=1e-5)
    assert len(results.read_text().splitlines()) == 1


@pytest.mark.slow  # loads as the measurement above does
def test_a_benchmark_runs_in_several_processes(directory):
    work = ("--prompt_tokens", 8, "--new_tokens", 2, "--repeats", 1, "--json")
    command = ("codellama.benchmark", "--ckpt", directory, "--quantize", "int8", *work)
    with torchrun(2, "-m", *command) as process:
        output, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert json.loads(output)["decode_tokens_per_second"] > 0


@pytest.mark.parametrize(
    ("processes", "says"), [(3, "4 key-value heads"), (8, "4 key-value heads")]
)
def test_a_number_of_processes_that_does_not_divide_the_heads_is_refused(processes, says):
    config = ModelConfig(dim=256, n_layers=1, n_heads=8, n_kv_heads=4, vocab_size=512)
    with pytest.raises(RequestError, match=rf"{says}.* {processes} processes"):
        check_divisible(config, processes)
    check_divisible(config, 4)


def children(process: subprocess.Popen[str]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("ending", ["a dead process", "Ctrl-C"])
def test_the_end_of_one_is_the_end_of_all(directory, ending):
    options = ("--ckpt", directory, "--max_new_tokens", 100_000, "--prompt", "def")
    with torchrun(2, "-m", "codellama.generate", *options, start_new_session=True) as process:
        assert process.stdout.read(1)
        ranks = children(process)
        assert len(ranks) == 2
        if ending == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(ranks[1], signal.SIGKILL)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode != 0
    deadline = time.monotonic() + 30
    while any(map(is_alive, ranks)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(is_alive, ranks))
    ours = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(ours) <= 1
    if ending != "Ctrl-C":
        assert "SIGKILL" in errors or ours
