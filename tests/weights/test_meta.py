import json
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
from commands import anonymous_bytes
from random_models import random_model

from codellama import CheckpointError, load_model
from codellama.weights.checkpoint import parameter_shapes, reader
from codellama.weights.loading import open_checkpoint
from codellama.weights.meta import shard_dimension, write_meta


def write(directory: Path, shards: int = 1, dtype: torch.dtype = torch.float32, **changes):
    model = random_model(**changes).to(dtype)
    write_meta(directory, model.config, reader(model.state_dict()), shards)
    return model


def rewrite(path: Path, **changes) -> None:
    """Changes entries of a shard; None removes one."""
    tensors = {**torch.load(path, weights_only=True), **changes}
    torch.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


def edit_params(directory: Path, **changes) -> None:
    path = directory / "params.json"
    params = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in params.items() if value is not None}))


def refusal(directory: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_model(directory, "cpu")
    return str(error.value)


def test_every_matrix_is_cut_and_every_norm_is_whole():
    for name, shape in parameter_shapes(random_model().config).items():
        assert (shard_dimension(name) is None) == (len(shape) == 1)


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_any_number_of_shards_gives_the_weights_that_were_cut(tmp_path, shards):
    model = write(tmp_path, shards, n_heads=8, n_kv_heads=4)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.config == model.config
    assert not loaded.training
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_shards_are_cut_as_meta_cuts_them(tmp_path):
    model = write(tmp_path, shards=2)
    second = torch.load(tmp_path / "consolidated.01.pth", weights_only=True)
    whole = model.state_dict()
    half = {"rows": lambda w: w[len(w) // 2 :], "columns": lambda w: w[:, w.shape[1] // 2 :]}
    size = 2 * (tmp_path / "consolidated.01.pth").stat().st_size
    assert size < 4 * model.config.parameter_count + 50_000  # nothing is in both but norms
    for name, cut in (
        ("layers.0.attention.wq.weight", "rows"),
        ("layers.1.attention.wv.weight", "rows"),
        ("layers.0.feed_forward.w3.weight", "rows"),
        ("output.weight", "rows"),
        ("layers.1.attention.wo.weight", "columns"),
        ("layers.0.feed_forward.w2.weight", "columns"),
        ("tok_embeddings.weight", "columns"),
    ):
        assert torch.equal(second[name], half[cut](whole[name])), name
    assert torch.equal(second["layers.0.ffn_norm.weight"], whole["layers.0.ffn_norm.weight"])


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_the_stored_dtype_is_kept_unless_another_is_asked_for(tmp_path, shards, dtype):
    model = write(tmp_path, shards, torch.bfloat16)
    loaded = load_model(tmp_path, device="cpu", dtype=dtype)
    for name, weight in loaded.named_parameters():
        assert torch.equal(weight, model.state_dict()[name].to(dtype or torch.bfloat16)), name


def test_the_shapes_fix_what_params_leave_out(tmp_path):
    write(tmp_path)
    edit_params(tmp_path, vocab_size=-1, rope_theta=None, max_seq_len=None)
    config = load_model(tmp_path, device="cpu").config
    assert (config.vocab_size, config.rope_theta) == (512, 1e4)


@pytest.mark.parametrize(
    "name", ["rope.freqs", "layers.0.attention.inner_attention.rope.freqs"], ids=["2", "1"]
)
def test_the_rotary_tables_of_llama_are_ignored(tmp_path, name):
    write(tmp_path)
    rewrite(tmp_path / "consolidated.00.pth", **{name: torch.ones(8)})
    load_model(tmp_path, "cpu")


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_prefix_of_all_names_is_left_out_with_a_warning(tmp_path, prefix):
    model = write(tmp_path)
    tensors = {f"{prefix}{name}": weight for name, weight in model.state_dict().items()}
    torch.save(tensors, tmp_path / "consolidated.00.pth")
    with pytest.warns(UserWarning, match=f"leaving out {prefix[:5]}"):
        loaded = load_model(tmp_path, "cpu")
    assert torch.equal(loaded.output.weight, model.output.weight)


def test_a_file_from_before_archives_is_read(tmp_path):
    model = write(tmp_path)
    path = tmp_path / "consolidated.00.pth"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_model(tmp_path, "cpu").output.weight, model.output.weight)


def test_progress_counts_to_the_size_of_the_weights(tmp_path):
    model = write(tmp_path, dtype=torch.bfloat16)
    seen = []
    load_model(tmp_path, "cpu", progress=lambda *state: seen.append(state))
    assert seen[-1] == (2 * model.config.parameter_count,) * 2
    assert seen == sorted(seen)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("shards", "dtype", "share"),
    [(1, None, 0.05), (1, torch.bfloat16, 0.55), (4, None, 1.05), (4, torch.bfloat16, 0.55)],
)
@pytest.mark.parametrize("mmap", [True, False])
def test_memory_grows_by_the_weights_at_most_and_not_at_all_for_a_mapped_shard(
    tmp_path, shards, dtype, share, mmap
):
    share = share if mmap else max(share, 1.05 if dtype is None else 0.55)
    model = write(tmp_path, shards, dim=512, n_heads=8, n_kv_heads=4, vocab_size=8192)
    weights = 4 * model.config.parameter_count
    del model
    before, peak = anonymous_bytes(), 0

    def watch(*_):
        nonlocal peak
        peak = max(peak, anonymous_bytes())

    loaded = load_model(tmp_path, device="cpu", dtype=dtype, mmap=mmap, progress=watch)
    assert sum(weight.double().sum() for weight in loaded.parameters()).isfinite()
    assert peak - before < share * weights + 4e6


def test_training_a_mapped_model_leaves_the_file_as_it_is(tmp_path):
    write(tmp_path)
    path = tmp_path / "consolidated.00.pth"
    before = path.read_bytes()
    model = load_model(tmp_path, device="cpu", mmap=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.tensor([[1, 2, 3]])).square().mean().backward()
    optimizer.step()
    assert path.read_bytes() == before


def test_a_missing_directory_is_named(tmp_path):
    assert "is no directory" in refusal(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file")


def test_a_directory_without_shards_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "consolidated.00.pth").unlink()
    assert "but no consolidated.00.pth" in refusal(tmp_path)


@pytest.mark.parametrize("last", ["03", "99999999"])
def test_a_gap_in_the_numbers_is_named(tmp_path, last):
    write(tmp_path, shards=4, n_heads=8, n_kv_heads=4)
    (tmp_path / "consolidated.02.pth").unlink()
    (tmp_path / "consolidated.03.pth").rename(tmp_path / f"consolidated.{last}.pth")
    assert f"up to {last}, but lacks consolidated.02.pth" in refusal(tmp_path)


def test_two_shards_of_one_number_are_refused(tmp_path):
    write(tmp_path)
    shutil.copy(tmp_path / "consolidated.00.pth", tmp_path / "consolidated.0.pth")
    assert "consolidated.0.pth and consolidated.00.pth" in refusal(tmp_path)


def test_too_few_shards_for_their_shapes_are_refused_with_both_counts(tmp_path):
    write(tmp_path, shards=4, n_heads=8, n_kv_heads=4)
    for number in (2, 3):
        (tmp_path / f"consolidated.0{number}.pth").unlink()
    message = refusal(tmp_path)
    assert "has 2 shard" in message
    assert "4 are needed" in message


def test_a_shard_too_many_is_refused(tmp_path):
    write(tmp_path)
    shutil.copy(tmp_path / "consolidated.00.pth", tmp_path / "consolidated.01.pth")
    message = refusal(tmp_path)
    assert "has 2 shard" in message
    assert "1 are needed" in message


def test_slices_that_do_not_add_up_to_a_whole_are_refused(tmp_path):
    write(tmp_path)
    tensors = torch.load(tmp_path / "consolidated.00.pth", weights_only=True)
    for name, tensor in tensors.items():
        if (dimension := shard_dimension(name)) is not None:
            tensors[name] = tensor.narrow(dimension, 0, tensor.shape[dimension] // 3).clone()
    for number in range(3):
        torch.save(tensors, tmp_path / f"consolidated.0{number}.pth")
    assert "mis-shaped in shard 00" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["params.json", "consolidated.00.pth"])
def test_a_pointer_in_place_of_a_file_is_named(tmp_path, name):
    write(tmp_path)
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    message = refusal(tmp_path)
    assert "Git LFS pointer" in message
    assert name in message


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_truncated_shard_is_named(tmp_path, kept):
    write(tmp_path, shards=2)
    path = tmp_path / "consolidated.01.pth"
    os.truncate(path, int(kept * path.stat().st_size))
    message = refusal(tmp_path)
    assert "consolidated.01.pth" in message
    assert "cut short" in message


@pytest.mark.parametrize(
    "content", [b"no pickle at all", b"\x80\x02}q\x00.", random.Random(0).randbytes(4096)]
)
def test_a_file_that_is_no_shard_is_refused(tmp_path, content):
    write(tmp_path)
    (tmp_path / "consolidated.00.pth").write_bytes(content)
    assert "download it again" in refusal(tmp_path)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("unable to mmap 8 bytes: Cannot allocate memory (12)")]
)
def test_too_little_memory_is_no_damage(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    write(tmp_path)
    monkeypatch.setattr(torch, "load", fail)
    message = refusal(tmp_path)
    assert "does not fit into memory" in message
    assert "download" not in message


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, zipped):
    write(tmp_path)
    path = tmp_path / "consolidated.00.pth"
    bomb = {"tok_embeddings.weight": Malicious(tmp_path / "owned")}
    torch.save(bomb, path, _use_new_zipfile_serialization=zipped)
    assert "could run code" in refusal(tmp_path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "content", [[1, 2], {"model": {"weight": torch.ones(2)}}, {"a": 1}, {0: torch.ones(2)}]
)
def test_a_file_of_other_things_than_tensors_is_refused(tmp_path, content):
    write(tmp_path)
    torch.save(content, tmp_path / "consolidated.00.pth")
    assert "flat set of named, dense tensors" in refusal(tmp_path)


def test_missing_unexpected_and_misshapen_tensors_are_named_and_counted(tmp_path):
    write(tmp_path)
    rewrite(
        tmp_path / "consolidated.00.pth",
        **{
            **{f"layers.0.attention.w{letter}.weight": None for letter in "qkvo"},
            "freqs": torch.ones(64),
            "norm.weight": torch.ones(63),
        },
    )
    message = refusal(tmp_path)
    assert "4 missing: layers.0.attention.wq.weight" in message
    assert "and 1 more" in message
    assert "1 unexpected: freqs" in message
    assert "1 mis-shaped: norm.weight [63] instead of [64]" in message


@pytest.mark.parametrize("name", ["tok_embeddings", "layers.0.attention.wo", "norm"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2)])
def test_a_tensor_of_another_number_of_dimensions_is_refused(tmp_path, name, shape):
    write(tmp_path)
    rewrite(tmp_path / "consolidated.00.pth", **{f"{name}.weight": torch.ones(shape)})
    assert f"mis-shaped: {name}.weight {list(shape)}" in refusal(tmp_path)


def test_shards_of_different_models_are_refused(tmp_path):
    write(tmp_path / "a", shards=2)
    write(tmp_path / "b", shards=2, dim=128)
    shutil.copy(tmp_path / "b" / "consolidated.01.pth", tmp_path / "a")
    assert "in shard 01" in refusal(tmp_path / "a")


def test_integer_weights_are_refused(tmp_path):
    write(tmp_path)
    rewrite(tmp_path / "consolidated.00.pth", **{"norm.weight": torch.ones(64, dtype=torch.int8)})
    assert "int8" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_layers": 3}, "9 missing: layers.2."),
        ({"n_layers": 1}, "9 unexpected: layers.1."),
        ({"dim": 128}, "mis-shaped"),
        ({"n_kv_heads": 4}, "attention.wk.weight [32, 64] instead of [64, 64]"),
        ({"multiple_of": 100}, "feed_forward.w1.weight"),
        ({"vocab_size": 32000}, "32000"),
        ({"dim": None}, "lacks dim"),
        ({"dim": "64"}, "expected a whole number"),
        ({"n_heads": 5}, "n_heads 5"),
        ({"ffn_dim_multiplier": 1e-9}, "params.json: ffn_dim_multiplier 1e-09"),
    ],
)
def test_params_that_contradict_the_tensors_or_themselves_are_refused(tmp_path, changes, says):
    write(tmp_path)
    edit_params(tmp_path, **changes)
    assert says in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "has consolidated.00.pth but no params.json"),
        ("dim: 64", "not JSON"),
        ("[64]", "JSON object"),
        ("", "is empty"),
        ("[" * 10**5, "not JSON"),
    ],
)
def test_params_that_cannot_be_read_are_refused(tmp_path, content, says):
    write(tmp_path)
    path = tmp_path / "params.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    message = refusal(tmp_path)
    assert says in message
    assert "params.json" in message


def test_the_headers_alone_tell_the_dtype_and_the_number_of_shards(tmp_path):
    write(tmp_path, shards=2, dtype=torch.float16)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.dtype == torch.float16
    assert checkpoint.file_count == 2


@pytest.mark.parametrize("stored", [1, 2, 4])
@pytest.mark.parametrize("start", [0, 8, 24])
@pytest.mark.parametrize("stop", [40, 64])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_slices_is_read_across_shards(tmp_path, stored, start, stop, axis):
    model = write(tmp_path, stored, n_heads=8, n_kv_heads=4)
    checkpoint = open_checkpoint(tmp_path)
    slices = (slice(start, stop), slice(None)) if axis == 0 else (slice(None), slice(start, stop))
    for name in ("attention.wq", "attention.wo", "feed_forward.w1", "feed_forward.w2"):
        whole = model.state_dict()[f"layers.1.{name}.weight"]
        assert torch.equal(checkpoint.read(f"layers.1.{name}.weight", slices), whole[slices])


def test_a_checkpoint_is_never_overwritten(tmp_path):
    model = write(tmp_path)
    before = (tmp_path / "consolidated.00.pth").read_bytes()
    with pytest.raises(CheckpointError, match="exists"):
        write_meta(tmp_path, model.config, lambda *_: torch.zeros(1))
    assert (tmp_path / "consolidated.00.pth").read_bytes() == before


@pytest.mark.parametrize("shards", [0, 3])
def test_what_cannot_be_cut_equally_is_refused(tmp_path, shards):
    with pytest.raises(CheckpointError, match=f"{shards} equal slices"):
        write(tmp_path / "new", shards=shards)
    assert not (tmp_path / "new").exists()


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    def read(name, slices):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_meta(tmp_path / "new", random_model().config, read)
    assert not list(tmp_path.iterdir())


def test_shards_of_parameters_are_read_as_tensors(tmp_path):
    model = write(tmp_path, shards=2)
    for path in tmp_path.glob("*.pth"):
        tensors = torch.load(path, weights_only=True)
        torch.save({name: torch.nn.Parameter(one) for name, one in tensors.items()}, path)
    for name, weight in load_model(tmp_path, "cpu").named_parameters():
        assert torch.equal(weight, model.state_dict()[name]), name


def test_a_matrix_that_lies_whole_in_each_of_several_shards_is_refused(tmp_path):
    write(tmp_path, shards=2, vocab_size=512)
    edit_params(tmp_path, vocab_size=511)
    for path in tmp_path.glob("*.pth"):
        whole = {"output.weight": torch.zeros(511, 64)}
        embedding = torch.load(path, weights_only=True)["tok_embeddings.weight"][:511]
        rewrite(path, **whole, **{"tok_embeddings.weight": embedding.clone()})
    assert "do not divide into 2 equal slices" in refusal(tmp_path)
