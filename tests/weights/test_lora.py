"""Adapters in PEFT's format: merged by the formula, and as PEFT applies them."""

import json

import pytest
import torch
from commands import assert_one_sentence, run
from random_models import random_model
from safetensors.torch import load_file, save_file

from codellama import CheckpointError, load_model
from codellama.weights.checkpoint import reader
from codellama.weights.huggingface_writing import write_huggingface
from codellama.weights.loading import open_checkpoint
from codellama.weights.lora import save_adapter, with_lora
from codellama.weights.meta import shard_slices, write_meta

MATRICES = {
    "model.layers.0.self_attn.q_proj": (64, 64),
    "model.layers.1.self_attn.k_proj": (32, 64),
    "model.layers.0.mlp.down_proj": (64, 256),
    "lm_head": (512, 64),
}


@pytest.fixture(scope="module", params=["meta", "hf"])
def base(request, tmp_path_factory):
    """One model in either format."""
    directory, model = tmp_path_factory.mktemp("base") / request.param, random_model()
    if request.param == "meta":
        write_meta(directory, model.config, reader(model.state_dict()), shards=2)
    else:
        write_huggingface(directory, model.config, reader(model.state_dict()))
    return directory


def adapter(directory, seed=0, matrices=MATRICES, rank=4, **settings):
    """An adapter of random numbers; returns its tensors."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (rows, columns) in matrices.items():
        stem = f"base_model.model.{name}.lora"
        tensors[f"{stem}_A.weight"] = torch.randn(rank, columns, generator=generator) / 8
        tensors[f"{stem}_B.weight"] = torch.randn(rows, rank, generator=generator) / 8
    directory.mkdir()
    save_file(tensors, directory / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, **settings}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def interleaved(rows, heads):
    """Rows of Hugging Face's heads of 16 channels in Meta's order, one by one."""
    order = [half * 8 + pair for pair in range(8) for half in range(2)]
    return torch.cat([rows[head * 16 :][order] for head in range(heads)])


@pytest.mark.parametrize(("settings", "scale"), [({}, 2.0), ({"use_rslora": True}, 4.0)])
def test_an_adapter_changes_each_matrix_by_the_formula(base, tmp_path, settings, scale):
    tensors = adapter(tmp_path / "adapter", **settings)
    merged = load_model(with_lora(open_checkpoint(base), [tmp_path / "adapter"]), "cpu")
    expected = {name: weight.double() for name, weight in random_model().state_dict().items()}
    deltas = {
        name: scale
        * tensors[f"base_model.model.{name}.lora_B.weight"].double()
        @ tensors[f"base_model.model.{name}.lora_A.weight"].double()
        for name in MATRICES
    }
    wq, wk, w2, output = deltas.values()
    expected["layers.0.attention.wq.weight"] += interleaved(wq, 4)
    expected["layers.1.attention.wk.weight"] += interleaved(wk, 2)
    expected["layers.0.feed_forward.w2.weight"] += w2
    expected["output.weight"] += output
    for name, weight in merged.named_parameters():
        assert (weight.double() - expected[name]).abs().max() < 1e-5, name


def test_several_adapters_add_up_and_slices_are_those_of_the_whole(base, tmp_path):
    for number in range(2):
        adapter(tmp_path / str(number), seed=number)
    plain = open_checkpoint(base)
    one, other, sum_ = (
        with_lora(plain, directories)
        for directories in ([tmp_path / "0"], [tmp_path / "1"], [tmp_path / "0", tmp_path / "1"])
    )
    for name in ("layers.0.attention.wq.weight", "layers.0.feed_forward.w2.weight"):
        whole = sum_.read(name)
        assert torch.allclose(whole, one.read(name) + other.read(name) - plain.read(name))
        slices = shard_slices(name, whole.shape, 1, 2)
        assert torch.allclose(sum_.read(name, slices), whole[slices])
    assert plain.read("norm.weight").equal(sum_.read("norm.weight"))


def test_peft_gives_the_same_logits(tmp_path):
    peft = pytest.importorskip("peft", reason="needs the package peft")
    transformers = pytest.importorskip("transformers")
    model = random_model(n_kv_heads=2)
    write_huggingface(tmp_path / "base", model.config, reader(model.state_dict()))
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", use_rslora=True)
    adapted = peft.get_peft_model(theirs, config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) / 10)
    adapted.save_pretrained(tmp_path / "adapter")
    options = ("--src", tmp_path / "base", "--lora", tmp_path / "adapter")
    for to in ("meta", "hf"):
        done = run("convert", *options, "--dst", tmp_path / to, "--to", to, "--quiet")
        assert done.returncode == 0, done.stderr
        tokens = torch.randint(512, (2, 20), generator=generator)
        with torch.no_grad():
            ours = load_model(tmp_path / to, "cpu")
            expected = adapted(tokens).logits
            assert (ours(tokens) - expected).abs().max() < 1e-4
            assert (model(tokens) - expected).abs().max() > 0.1


def test_peft_reads_what_is_written_here(tmp_path):
    peft = pytest.importorskip("peft", reason="needs the package peft")
    transformers = pytest.importorskip("transformers")
    model, generator = random_model(n_kv_heads=2), torch.Generator().manual_seed(0)
    write_huggingface(tmp_path / "base", model.config, reader(model.state_dict()))
    shapes = {name: weight.shape for name, weight in model.named_parameters() if weight.dim() > 1}
    del shapes["tok_embeddings.weight"]
    changes = {
        name: tuple(
            torch.randn(size, generator=generator) / 8 for size in ((rows, 4), (4, columns))
        )
        for name, (rows, columns) in shapes.items()
    }
    base = open_checkpoint(tmp_path / "base")
    save_adapter(tmp_path / "adapter", base, changes)
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "base")
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    tokens = torch.randint(512, (2, 20), generator=generator)
    with torch.no_grad():
        expected = adapted(tokens).logits
        ours = load_model(with_lora(base, [tmp_path / "adapter"]), "cpu")(tokens)
        for name, (b, a) in changes.items():
            model.get_parameter(name).add_(b @ a)
        by_hand = model(tokens)
    assert (ours - by_hand).abs().max() < 1e-4
    assert (ours - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"use_dora": True}, "use_dora is True; only plain LoRA"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern is {'q_proj': 3}"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"lora_alpha": "x"}, "lora_alpha is 'x'; expected a number"),
        ({"matrices": {"score": (2, 64)}}, "base_model.model.score.lora_A.weight"),
        ({"matrices": {"model.layers.0.self_attn.v_proj": (64, 64)}}, "for another model"),
        ({"matrices": {"model.layers.7.self_attn.v_proj": (32, 64)}}, "layers.7.self_attn.v_proj"),
        ({"matrices": {}}, "changes nothing"),
    ],
)
def test_other_adapters_are_refused_by_name(base, tmp_path, settings, says):
    adapter(tmp_path / "adapter", **settings)
    options = ("--src", base, "--lora", tmp_path / "adapter", "--dst", tmp_path / "new")
    assert_one_sentence(run("convert", *options, "--to", "meta"), says)
    assert not (tmp_path / "new").exists()


def test_a_directory_without_an_adapter_is_told(base, tmp_path):
    with pytest.raises(CheckpointError, match=r"adapter_config\.json is missing"):
        with_lora(open_checkpoint(base), [tmp_path])


def test_an_adapter_in_a_file_of_pytorch_is_read(base, tmp_path):
    adapter(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    expected = with_lora(open_checkpoint(base), [file.parent]).read("output.weight")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    assert with_lora(open_checkpoint(base), [file.parent]).read("output.weight").equal(expected)
