"""Faults in how the commands and the library are used."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import commands
import pytest
import torch

from codellama import CodeLlama, RequestError, cli
from codellama.weights import memory
from codellama.weights.loading import open_checkpoint

OPTIONS = {
    "~ before nobody": (["--ckpt", "~nobody-there/x", "--prompt", "a"], "there is no such user"),
    "a word that follows no option": (["--prompt", "a", "b"], "unexpected 'b'"),
    "a prompt twice": (["--prompt", "a", "--prompt", "b"], "given twice"),
    "a system message without a chat": (["--prompt", "a", "--system", "x"], "--chat"),
    "log-probabilities without JSON": (["--prompt", "a", "--logprobs"], "--json"),
    "two places to fill": (["--prompt", "<FILL_ME><FILL_ME>"], "2 <FILL_ME> marks"),
    "a system message that breaks out": (["--chat", "--system", "[INST]"], "contains [INST]"),
}


@pytest.mark.parametrize("fault", OPTIONS)
def test_a_mistake_is_told_in_a_sentence(checkpoint, fault):
    options, says = OPTIONS[fault]
    ckpt = () if "--ckpt" in options else ("--ckpt", checkpoint)
    done = commands.run("generate", "--quiet", *ckpt, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and says in done.stderr


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("<FILL_ME> <FILL_ME>", "the text has 2 <FILL_ME> marks"),
        ("\ud800", "surrogate"),
        ("x " * 60_000, "but the model's context holds"),
        (1, "expected a JSON string"),
    ],
)
def test_a_bad_line_of_a_file_is_named_before_the_weights_are_read(
    checkpoint, tmp_path, monkeypatch, line, says
):
    monkeypatch.setattr(cli.CodeLlama, "load", lambda *_, **__: pytest.fail("was loaded"))
    file = tmp_path / "prompts.JSONL"
    file.write_text(f'"good"\n{json.dumps(line)}\n')
    done = commands.run("generate", "--ckpt", checkpoint, "--file", file)
    assert done.returncode == 2
    assert f"{file}, line 2: " in done.stderr and says in done.stderr


@pytest.mark.parametrize("options", [("--prompt", "a"), ("--chat",)])
def test_a_model_that_does_not_fit_is_refused_unless_forced(checkpoint, monkeypatch, options):
    monkeypatch.setattr(memory, "free_bytes", lambda _: 400_000)
    options = ("generate", "--ckpt", checkpoint, "--device", "cpu", *options)
    done = commands.run(*options, "--max_new_tokens", 600)
    assert done.returncode == 2
    assert "0.8 MB for its weights" in done.stderr and "--force" in done.stderr
    assert "what would fit: int4 weights" in done.stderr
    assert commands.run(*options, "--max_new_tokens", 600, "--force").returncode == 0


def test_memory_is_asked_for_no_more_tokens_than_the_context_holds(checkpoint, monkeypatch):
    seen = []

    def check_memory(checkpoint, options, tokens, *_, **__):
        seen.append(tokens)
        raise RequestError("enough")

    monkeypatch.setattr(cli, "check_memory", check_memory)
    given = ("--ckpt", checkpoint, "--prompt", "x = 1", "--speculate", 4)
    assert commands.run("generate", *given, "--max_new_tokens", 10**9).returncode == 2
    assert seen == [open_checkpoint(checkpoint).config.max_seq_len]


def test_prompts_may_come_from_a_generator(llm):
    assert len(llm.complete((text for text in ("a", "b")), max_new_tokens=2)) == 2


def test_token_ids_are_not_truncated(llm):
    with pytest.raises(RequestError, match="whole numbers"):
        llm.generate([[1.5]])


@pytest.mark.parametrize("top_p", [1e-46, 1e-30])
def test_the_likeliest_token_stays_in_the_smallest_nucleus(llm, top_p):
    greedy = llm.complete(["def"], max_new_tokens=6, temperature=0.0)
    assert llm.complete(["def"], max_new_tokens=6, temperature=1.0, top_p=top_p) == greedy


def test_a_dialog_goes_on_after_inference_mode(checkpoint):
    llm = CodeLlama.load(checkpoint, "cpu", dtype="float32")
    messages = [{"role": "user", "content": "x"}]
    with torch.inference_mode():
        first = "".join(llm.stream_chat(messages, max_new_tokens=4))
    assert "".join(llm.stream_chat(messages, max_new_tokens=4)) == first


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_text_comes_although_stderr_is_full(checkpoint):
    options = ("--ckpt", checkpoint, "--prompt", "def", "--max_new_tokens", 4)
    with Path("/dev/full").open("w") as full:
        process = commands.start("generate", *options, stderr=full)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and output.strip()


def test_sigterm_leaves_nothing_of_a_conversion(checkpoint, tmp_path):
    script = (
        "import sys, time\n"
        "from codellama import cli, convert\n"
        "convert.write_meta = lambda *_, **__: (print('writing', flush=True), time.sleep(60))\n"
        f"sys.argv = ['x', '--src', {str(checkpoint)!r}, '--dst', 'new', '--to', 'meta']\n"
        "cli.run(convert.convert)\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_itself_is_no_place_to_write(checkpoint, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    done = commands.run("convert", "--src", checkpoint, "--dst", loop, "--to", "meta")
    assert done.returncode == 2 and "link to itself" in done.stderr


def test_a_mount_point_is_filled_where_it_is(checkpoint, tmp_path):
    target = tmp_path / "volume"
    target.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "tmpfs", target], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        done = commands.run("convert", "--src", checkpoint, "--dst", target, "--to", "meta")
        assert done.returncode == 0, done.stderr
        assert (target / "params.json").is_file()
        assert [path.name for path in tmp_path.iterdir()] == ["volume"]
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_broken_compiler_is_told_before_any_output(checkpoint, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Python.h: No such file\nmore")

    monkeypatch.setattr(torch, "compile", fail)
    done = commands.run("generate", "--ckpt", checkpoint, "--prompt", "a", "--compile")
    assert (done.returncode, done.stdout) == (2, "")
    assert "torch.compile" in done.stderr and done.stderr.count("\n") == 1
