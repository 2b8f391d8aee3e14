"""The command that times a model; no figure of it is a promise, so none is checked."""

import json

import pytest
from commands import run

from codellama import RequestError

FIGURES = {
    "load_seconds",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "peak_memory_bytes",
    "read_bandwidth_bytes_per_second",
    "decode_share_of_bandwidth",
}


@pytest.fixture(autouse=True)
def small_probes(monkeypatch):
    """Measures the machine with less than it takes to be exact."""
    from codellama.evaluation import speed

    read, multiply = speed.read_bandwidth, speed.matrix_rate
    monkeypatch.setattr(speed, "read_bandwidth", lambda device: read(device, 1_000_000))
    monkeypatch.setattr(speed, "matrix_rate", lambda device, kind: multiply(device, kind, 64))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--quantize", "int8"),
        ("--quantize", "int4", "--kv_dtype", "int8"),
        pytest.param(("--quantize", "int8", "--compile"), marks=pytest.mark.slow),
    ],
)
def test_it_prints_one_object_of_positive_figures(checkpoint, options):
    result = run(
        "benchmark", "--ckpt", checkpoint, "--prompt_tokens", 20, "--new_tokens", 3,
        "--batch", 2, "--repeats", 1, "--json", *options,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures.keys() >= FIGURES
    assert all(value > 0 for value in figures.values())


def test_for_readers_it_prints_a_line_a_figure(checkpoint):
    result = run(
        "benchmark", "--ckpt", checkpoint, "--prompt_tokens", 8, "--new_tokens", 2, "--repeats", 1
    )
    names = [line[:36].strip() for line in result.stdout.splitlines()]
    assert {name.replace("_", " ") for name in FIGURES} <= set(names)
    assert all(float(line[36:].replace(",", "")) >= 0 for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("new_tokens", 1, "new_tokens is 1; expected a whole number from 2"),
        ("quantize", "int3", "quantize is 'int3'"),
        ("repeats", 0, "repeats is 0"),
        ("prompt_tokens", 10**6, "--prompt_tokens"),
    ],
)
def test_options_that_cannot_be_measured_are_refused(checkpoint, option, value, says):
    result = run("benchmark", "--ckpt", checkpoint, f"--{option}", value)
    assert result.returncode == 2
    assert says in result.stderr
    assert result.stdout == ""


def test_a_table_has_a_row_for_each_way_of_running(checkpoint, monkeypatch):
    monkeypatch.setattr("codellama.fast.acceleration.check_compiler", no_compiler)
    work = ("--prompt_tokens", 8, "--new_tokens", 3, "--repeats", 1)
    done = run("benchmark", "--ckpt", checkpoint, "--device", "cpu", "--table", *work)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["float32", "int8", "int4"]
    assert all(float(figure.replace(",", "")) > 0 for row in rows[2:] for figure in row[3:5])
    assert done.stderr.count("compiled is left out: no compiler") == 3


def test_a_table_is_no_json(checkpoint):
    done = run("benchmark", "--ckpt", checkpoint, "--table", "--json")
    assert (done.returncode, "leave out --json" in done.stderr) == (2, True)


def no_compiler(_):
    raise RequestError("no compiler")
