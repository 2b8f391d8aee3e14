import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_models import random_model
from safetensors.torch import load_file, save_file

from codellama import CheckpointError, ModelConfig, load_model
from codellama.weights.checkpoint import reader
from codellama.weights.huggingface import (
    half_split_to_interleaved,
    interleaved_to_half_split,
    model_config,
)
from codellama.weights.huggingface_writing import settings_of, write_huggingface
from codellama.weights.loading import open_checkpoint
from codellama.weights.variants import VARIANTS

PATH = Path("config.json")
CONFIG = ModelConfig(64, 2, 4, 512, n_kv_heads=2, rope_theta=1e6)


def write(directory: Path, file_bytes: int = 10**9, dtype=torch.float32, **changes):
    model = random_model(**changes).to(dtype)
    write_huggingface(directory, model.config, reader(model.state_dict()), file_bytes=file_bytes)
    return model


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_model(directory, "cpu")
    return str(error.value)


def test_each_head_has_its_even_channels_before_its_odd_ones():
    rows = torch.arange(12)[:, None]  # two heads of six channels
    expected = [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
    assert interleaved_to_half_split(rows, 6).flatten().tolist() == expected
    assert torch.equal(half_split_to_interleaved(interleaved_to_half_split(rows, 6), 6), rows)


@pytest.mark.parametrize("file_bytes", [10**9, 100_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_written_is_read_back_to_the_bit(tmp_path, file_bytes, dtype):
    model = write(tmp_path, file_bytes, dtype)
    index = tmp_path / "model.safetensors.index.json"
    assert index.exists() == (file_bytes < 10**9)
    if index.exists():
        size = dtype.itemsize * model.config.parameter_count
        assert json.loads(index.read_text())["metadata"]["total_size"] == size
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.config == model.config
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, model.state_dict()[name]), name


@pytest.mark.parametrize("n_kv_heads", [2, 4])
@pytest.mark.parametrize(("theta", "factor"), [(1e4, 1.0), (1e6, 1.0), (1e4, 4.0)])
@pytest.mark.parametrize("file_bytes", [10**9, 100_000])
def test_transformers_loads_it_with_the_same_logits(
    tmp_path, n_kv_heads, theta, factor, file_bytes
):
    transformers = pytest.importorskip("transformers")
    rope = {"rope_theta": theta, "rope_scaling_factor": factor}
    model = write(tmp_path, file_bytes, n_kv_heads=n_kv_heads, **rope)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.randint(512, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (model(tokens) - theirs(tokens).logits).abs().max() < 1e-4


def test_what_transformers_writes_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    model = write(tmp_path / "ours", rope_theta=1e6)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="300KB")
    loaded = load_model(tmp_path / "theirs", device="cpu")
    assert loaded.config == model.config
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_tied_embeddings_serve_as_output(tmp_path):
    model = write(tmp_path)
    path = tmp_path / "model.safetensors"

    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file(tensors, path)
    assert "1 missing: lm_head.weight" in refusal(tmp_path)
    edit(tmp_path / "config.json", tie_word_embeddings=True)
    assert torch.equal(load_model(tmp_path, "cpu").output.weight, model.tok_embeddings.weight)


@pytest.mark.parametrize("shard_size", ["10GB", "300KB"])
def test_files_of_pytorch_are_read_and_mapped(tmp_path, shard_size):
    model = write(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = list(tensors)
    if shard_size == "10GB":
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        first, second = (f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2))
        files = {name: first if names.index(name) < 9 else second for name in names}
        for file in set(files.values()):
            part = {name: tensors[name] for name in names if files[name] == file}
            torch.save(part, tmp_path / file)
        index = json.dumps({"weight_map": files})
        (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    for mmap in (True, False):
        loaded = load_model(tmp_path, "cpu", mmap=mmap)
        for name, weight in loaded.named_parameters():
            assert torch.equal(weight, model.state_dict()[name]), name
    newer = write(tmp_path / "newer", seed=1)
    (tmp_path / "newer" / "model.safetensors").rename(tmp_path / "model.safetensors")
    assert torch.equal(load_model(tmp_path, "cpu").output.weight, newer.output.weight)


def test_prefixes_are_left_out_and_tables_of_rotary_frequencies_ignored(tmp_path):
    model = write(tmp_path)
    path = tmp_path / "model.safetensors"
    table = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    tensors = load_file(path) | table
    save_file({f"module._orig_mod.{name}": one for name, one in tensors.items()}, path)
    with pytest.warns(UserWarning, match=r"leaving out (module|_orig_mod)\."):
        loaded = load_model(tmp_path, "cpu")
    assert torch.equal(loaded.output.weight, model.output.weight)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"intermediate_size": 512}, "mis-shaped: model.layers.0.mlp.gate_proj.weight"),
        ({"num_hidden_layers": 1}, "9 unexpected: model.layers.1."),
        ({"num_hidden_layers": 3}, "9 missing: model.layers.2."),
        ({"model_type": "mistral"}, "'mistral'"),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(tmp_path, changes, says):
    write(tmp_path)
    edit(tmp_path / "config.json", **changes)
    assert says in refusal(tmp_path)


def test_missing_and_damaged_files_are_named(tmp_path):
    write(tmp_path, file_bytes=100_000)
    [path, *_] = sorted(tmp_path.glob("model-*.safetensors"))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert f"{path.name} is cut short or damaged" in refusal(tmp_path)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "Git LFS pointer" in refusal(tmp_path)
    settings = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text("<html>")
    assert "web page" in refusal(tmp_path)
    (tmp_path / "config.json").write_text(settings)
    path.unlink()
    assert f"lacks {path.name}" in refusal(tmp_path)
    (tmp_path / "b").write_text("")
    for name in ("../b", str(tmp_path / "b"), "..", "", "\\u0000", "x" * 300):
        map_of_it = f'{{"weight_map": {{"a": {json.dumps(name)}}}}}'
        (tmp_path / "model.safetensors.index.json").write_text(map_of_it)
        assert "lacks " in refusal(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "no weight_map" in refusal(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert "but lacks config.json or model.safetensors.index.json" in refusal(tmp_path)


@pytest.mark.parametrize("heads", [slice(0, 32), slice(16, 48), slice(None)])
def test_a_slices_of_whole_heads_is_read_in_metas_order(tmp_path, heads):
    model = write(tmp_path, n_kv_heads=4)
    checkpoint = open_checkpoint(tmp_path)
    for name in ("layers.0.attention.wq.weight", "layers.1.attention.wk.weight"):
        slices = (heads, slice(None))
        assert torch.equal(checkpoint.read(name, slices), model.state_dict()[name][heads])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_only_queries_and_keys_are_copied(tmp_path):
    write(tmp_path, dim=512, n_heads=8, n_kv_heads=8)
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    model = load_model(tmp_path, device="cpu", mmap=True)
    now = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    assert any(str(tmp_path) in path for path in now - mapped)
    ranges = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(tmp_path) in line
    ]
    for name, weight in model.named_parameters():
        in_file = any(start <= weight.data_ptr() < stop for start, stop in ranges)
        assert in_file != name.endswith(("wq.weight", "wk.weight")), name


def test_training_a_mapped_model_leaves_the_file_as_it_is(tmp_path):
    write(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = load_model(tmp_path, device="cpu", mmap=True)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_files_can_be_read_by_others(tmp_path):
    write(tmp_path / "new")
    for path in (tmp_path / "new", *(tmp_path / "new").iterdir()):
        assert os.access(path, os.R_OK)
        assert path.stat().st_mode & 0o044 == 0o044


def settings(config: ModelConfig = CONFIG, **changes) -> dict:
    """What is written for a model, with changes; `...` leaves a key out."""
    written = json.loads(json.dumps(settings_of(config, torch.bfloat16)))
    return {key: value for key, value in {**written, **changes}.items() if value is not ...}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_the_published_models_are_read_as_they_are_written(name):
    config = VARIANTS[name].config
    assert model_config(PATH, settings(config)) == config


@pytest.mark.parametrize("hidden_dim", [86, 172, 1000, 4097, 11008])
def test_any_hidden_width_can_be_expressed(hidden_dim):
    assert model_config(PATH, settings(intermediate_size=hidden_dim)).hidden_dim == hidden_dim


@pytest.mark.parametrize(
    ("changes", "theta"),
    [
        ({}, 1e6),
        ({"rope_parameters": ...}, 1e6),
        ({"rope_theta": ...}, 1e6),
        ({"rope_parameters": ..., "rope_theta": ...}, 1e4),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5),
        ({"rope_parameters": ..., "rope_scaling": None}, 1e6),
        ({"rope_parameters": {"rope_type": None, "rope_theta": None}}, 1e6),
        ({"rope_parameters": None, "rope_theta": None}, 1e4),
    ],
)
def test_the_rotary_base_is_found_wherever_a_release_put_it(changes, theta):
    assert model_config(PATH, settings(**changes)).rope_theta == theta


@pytest.mark.parametrize(
    ("config", "given", "context"),
    [
        (VARIANTS["CodeLlama-34b"].config, 16_384, 102_400),
        (VARIANTS["CodeLlama-34b"].config, 8192, 8192),
        (CONFIG, 16_384, 16_384),
    ],
)
def test_only_the_published_length_of_training_does_not_bound_use(config, given, context):
    found = model_config(PATH, settings(config, max_position_embeddings=given))
    assert found.max_seq_len == context


@pytest.mark.parametrize("absent", [..., None])
def test_what_is_left_out_is_what_transformers_takes(absent):
    keys = ("rms_norm_eps", "max_position_embeddings", "num_key_value_heads", "hidden_act")
    found = model_config(PATH, settings(**dict.fromkeys(keys, absent)))
    assert found == replace(CONFIG, norm_eps=1e-6, max_seq_len=2048, n_kv_heads=4)


def test_the_norms_epsilon_is_written_and_read():
    config = replace(CONFIG, norm_eps=1e-6)
    assert model_config(PATH, settings(config)) == config


def test_linear_scaling_of_positions_is_written_and_read():
    config = replace(CONFIG, rope_scaling_factor=4.0)
    assert model_config(PATH, settings(config)) == config


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_type": "mistral"}, "'mistral'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2}, "rope_parameters": ...}, "'dynamic'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "'llama3'"),
        ({"rope_scaling": {"type": "linear", "factor": "x"}}, "rope_scaling_factor is 'x'"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling_factor is 0"),
        ({"rope_parameters": "default"}, "rope_parameters is 'default'"),
        ({"rope_scaling": [1]}, "rope_scaling is [1]"),
        ({"rope_parameters": ..., "rope_theta": "1e6"}, "rope_theta is '1e6'; expected a number"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"head_dim": 32}, "head_dim is 32"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"intermediate_size": ...}, "lacks intermediate_size"),
        ({"hidden_size": 0}, "hidden_size is 0; expected a whole number from 1"),
        ({"hidden_size": 10**400}, "hidden_size is 1000"),
        ({"hidden_size": "64"}, "hidden_size is '64'; expected a whole number"),
        ({"intermediate_size": "x"}, "intermediate_size is 'x'; expected a whole number"),
        ({"intermediate_size": -5}, "intermediate_size is -5; expected a whole number from 1"),
        ({"num_hidden_layers": ..., "vocab_size": None}, "lacks num_hidden_layers, vocab_size"),
        ({"max_position_embeddings": "x"}, "max_position_embeddings is 'x'"),
        ({"num_attention_heads": "4"}, "num_attention_heads is '4'; expected a whole number"),
        ({"num_attention_heads": 5}, "hidden_size 64 over num_attention_heads 5"),
    ],
)
def test_other_architectures_and_nonsense_are_refused(changes, says):
    with pytest.raises(CheckpointError) as error:
        model_config(PATH, settings(**changes))
    assert says in str(error.value)
    assert "config.json" in str(error.value)


def test_a_model_with_tied_matrices_is_written(tmp_path):
    model = random_model()
    model.output.weight = model.tok_embeddings.weight
    write_huggingface(tmp_path / "new", model.config, reader(model.state_dict()))
    loaded = load_model(tmp_path / "new", "cpu")
    assert torch.equal(loaded.output.weight, model.tok_embeddings.weight)
