"""What people name in place of a checkpoint directory: each gets its own sentence."""

import json
import shutil

import commands
import pytest
import torch
from random_models import random_model

from codellama import CheckpointError, load_model
from codellama.weights.checkpoint import reader
from codellama.weights.huggingface_writing import write_huggingface
from codellama.weights.loading import open_checkpoint


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory):
    directory = tmp_path_factory.mktemp("formats") / "hf"
    model = random_model()
    write_huggingface(directory, model.config, reader(model.state_dict()), file_bytes=300_000)
    return directory


DIRECTORIES = {
    "an adapter": (["adapter_config.json", "adapter_model.safetensors"], "is a LoRA adapter"),
    "GGUF": (["config.json", "codellama-7b.Q4_K_M.gguf"], "is GGUF, the format of llama.cpp"),
    "a sharded training state": (["__0_0.distcp", ".metadata"], "dcp_to_torch"),
    "the hub's cache": (
        ["refs/main", "snapshots/0123abc/config.json"],
        "is the hub's cache of a model; name the directory ",
    ),
    "weights without a config": (["model.safetensors"], "has model.safetensors; expected config"),
    "PyTorch's weights without a config": (
        ["pytorch_model.bin"],
        "has pytorch_model.bin; expected config",
    ),
    "files without their index": (
        ["config.json", "model-00001-of-00002.safetensors"],
        "lacks config.json or model.safetensors.index.json",
    ),
    "shards without params": (["consolidated.00.pth"], "but no params.json; fetch it"),
    "params without shards": (["params.json"], "has params.json but no consolidated.00.pth"),
    "a config without weights": (["config.json"], "has config.json, but no model.safetensors"),
    "GPTQ's weights": (["config.json", "quantize_config.json", "x.safetensors"], "by GPTQ"),
    "nothing": ([], "has neither params.json nor config.json"),
}


@pytest.mark.parametrize("kind", DIRECTORIES)
def test_a_directory_is_recognised_by_its_files(tmp_path, kind):
    files, says = DIRECTORIES[kind]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    done = commands.run("describe", "--ckpt", tmp_path)
    commands.assert_one_sentence(done, str(tmp_path), says)


def test_the_hubs_cache_is_led_to_its_snapshot(tmp_path):
    (tmp_path / "snapshots" / "0123abc").mkdir(parents=True)
    (tmp_path / "snapshots" / "0123abc" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=rf"name the directory {tmp_path}/snapshots/0123abc"):
        open_checkpoint(tmp_path)


def test_a_file_of_llama_cpp_is_recognised(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="is GGUF"):
        open_checkpoint(tmp_path / "model.gguf")


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_quantized_weights_are_refused_by_name(huggingface, tmp_path, method):
    directory = shutil.copytree(huggingface, tmp_path / "quantized")
    path = directory / "config.json"
    settings = json.loads(path.read_text()) | {"quantization_config": {"quant_method": method}}
    path.write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=f"quantized by {method}, which is not read"):
        open_checkpoint(directory)


def test_params_beside_hugging_face_files_do_not_hide_them(huggingface, tmp_path):
    directory = shutil.copytree(huggingface, tmp_path / "both")
    (directory / "params.json").write_text("{}")
    assert open_checkpoint(directory).format == "Hugging Face"


def test_a_single_file_is_preferred_to_an_index_as_in_transformers(huggingface, tmp_path):
    directory = shutil.copytree(huggingface, tmp_path / "trained")
    newer = random_model(seed=1)
    write_huggingface(tmp_path / "newer", newer.config, reader(newer.state_dict()))
    shutil.copy(tmp_path / "newer" / "model.safetensors", directory)
    model = load_model(directory, "cpu")
    assert torch.equal(model.output.weight, newer.output.weight)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM.from_pretrained(directory)
    assert torch.equal(theirs.lm_head.weight, newer.output.weight)
