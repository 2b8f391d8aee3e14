import hashlib
import json
import shutil

import pytest
import torch
from commands import run

from codellama import ModelConfig
from codellama.describe import describe_checkpoint
from codellama.weights.checkpoint import Checkpoint
from codellama.weights.variants import VARIANTS


class Headers(Checkpoint):
    """A checkpoint that has nothing but headers."""

    def parts(self, name, region):
        raise AssertionError("tensors are not read")


def test_what_a_checkpoint_is_and_needs_is_printed(checkpoint):
    facts = json.loads(run("describe", "--ckpt", checkpoint, "--json").stdout)
    assert facts["parameters"] == 188_736
    assert facts["weights_bytes"] == 4 * 188_736
    assert (facts["files"], facts["dtype"], facts["rope_theta"]) == (1, "float32", 1e6)
    # keys and values, 2 layers, 2 key-value heads of 16 channels, 4 bytes each
    assert facts["kv_cache_bytes_at_4096_tokens"] == 2 * 2 * 2 * 16 * 4 * 4096
    assert facts["infilling"] == "yes"
    printed = run("describe", "--ckpt", checkpoint).stdout
    assert "rope theta" in printed
    assert "1,000,000" in printed
    assert "kv cache at 100000 tokens" in printed


@pytest.mark.parametrize(
    ("name", "model", "chat"),
    [
        ("CodeLlama-7b", "CodeLlama-7b or CodeLlama-7b-Instruct", "[INST]"),
        ("CodeLlama-34b", "CodeLlama-34b-Python or CodeLlama-34b-Instruct", "[INST]"),
        ("CodeLlama-13b-Python", "CodeLlama-13b-Python", "no"),
        ("CodeLlama-70b", "CodeLlama-70b", "no"),
        ("CodeLlama-70b-Instruct", "CodeLlama-70b-Instruct", "Source:"),
    ],
)
def test_published_checkpoints_are_recognised(
    monkeypatch, checkpoint, tokenizer, name, model, chat
):
    monkeypatch.setattr("codellama.describe.load_tokenizer", lambda *_: tokenizer)
    config = ModelConfig.from_params(VARIANTS[name].config.to_params())
    headers = Headers()
    vars(headers).update(
        directory=checkpoint, config=config, dtypes={torch.bfloat16}, file_count=1, format="Meta"
    )
    facts = describe_checkpoint(headers)
    assert model in facts["model"]
    assert chat in facts["chat"]
    assert facts["weights_bytes"] == 2 * config.parameter_count


def test_several_dtypes_are_told(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "mixed")
    path = tmp_path / "mixed" / "consolidated.00.pth"
    tensors = torch.load(path, weights_only=True)
    torch.save({**tensors, "norm.weight": tensors["norm.weight"].bfloat16()}, path)
    facts = json.loads(run("describe", "--ckpt", tmp_path / "mixed", "--json").stdout)
    assert facts["dtype"] == "bfloat16 and float32"
    assert facts["weights_bytes"] == 4 * 188_736


def test_a_file_that_differs_from_its_checksum_is_an_error(checkpoint, tmp_path):
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    good = hashlib.md5((tmp_path / "params.json").read_bytes()).hexdigest()
    (tmp_path / "checklist.chk").write_text(f"{good}  params.json\n")
    done = run("describe", "--ckpt", tmp_path)
    assert "md5 of params.json         ok" in done.stdout
    assert done.returncode == 0
    (tmp_path / "checklist.chk").write_text(f"{'0' * 32}  params.json\n")
    done = run("describe", "--ckpt", tmp_path)
    assert (done.returncode, "differs" in done.stdout) == (2, True)
    assert "not as in checklist.chk: params.json" in done.stderr
    assert run("describe", "--ckpt", tmp_path, "--md5=False").returncode == 0


def test_a_missing_checkpoint_is_one_sentence():
    done = run("describe", "--ckpt", "/absent")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_any_dtypes_are_checked(checkpoint, tmp_path, dtype):
    shutil.copytree(checkpoint, tmp_path / "mixed")
    path = tmp_path / "mixed" / "consolidated.00.pth"
    tensors = torch.load(path, weights_only=True)
    for broken in (False, True):
        weight = tensors["norm.weight"].clone()
        weight[3] = torch.nan if broken else 1.0
        torch.save({**tensors, "norm.weight": weight.to(dtype)}, path)
        done = run("describe", "--ckpt", tmp_path / "mixed", "--check")
        assert done.returncode == (2 if broken else 0), done.stderr
        assert ("norm.weight holds NaN" in done.stderr) == broken


def test_without_a_tokenizer_the_rest_is_told(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.model").unlink()
    done = run("describe", "--ckpt", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert "tokenizer.model is missing" in done.stdout
    assert "there is no checklist.chk" in done.stdout
