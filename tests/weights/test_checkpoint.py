from pathlib import Path

import pytest
import torch
from random_models import random_model

from codellama import CheckpointError
from codellama.weights import huggingface, meta
from codellama.weights.checkpoint import differences, first_few, new_directory, reader
from codellama.weights.loading import open_checkpoint


def test_a_directory_appears_when_all_of_it_is_written(tmp_path):
    with new_directory(tmp_path / "deep" / "new") as beside:
        (beside / "file").write_text("content")
        assert not (tmp_path / "deep" / "new").exists()
    assert (tmp_path / "deep" / "new" / "file").read_text() == "content"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_directory_that_was_not_finished_leaves_nothing(tmp_path, error):
    with pytest.raises(error), new_directory(tmp_path / "new") as beside:
        (beside / "file").write_text("content")
        raise error
    assert not list(tmp_path.iterdir())


def test_a_taken_name_is_refused_and_an_empty_directory_taken_over(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="exists"), new_directory(tmp_path / "file"):
        pass
    (tmp_path / "empty").mkdir()
    with new_directory(tmp_path / "empty") as beside:
        (beside / "file").write_text("content")
    assert (tmp_path / "empty" / "file").exists()


def test_differences_are_counted_by_kind():
    found = {"a": torch.ones(2), "b": torch.ones(3), "x": torch.ones(1)}
    problems = differences({"a": [2], "b": [2], "c": [1]}, found, " here")
    assert problems == [
        "1 missing here: c",
        "1 unexpected here: x",
        "1 mis-shaped here: b [3] instead of [2]",
    ]
    assert differences({"a": [2]}, {"a": torch.ones(2)}) == []
    assert first_few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "RssAnon" in line)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("save", "limit"), [(meta.save_checkpoint, 4), (huggingface.save_checkpoint, 2**24)]
)
def test_writing_takes_the_memory_of_a_file_at_most(tmp_path, save, limit):
    model = random_model(dim=512, n_layers=4, n_heads=8, n_kv_heads=4)
    meta.save_checkpoint(tmp_path / "source", model.config, reader(model.state_dict()))
    whole = 4 * model.config.parameter_count
    del model
    source = open_checkpoint(tmp_path / "source")
    before, peak = anonymous_bytes(), 0

    def read(name, region=None):
        nonlocal peak
        peak = max(peak, anonymous_bytes())
        return source.read(name, region)

    save(tmp_path / "new", source.config, read, limit)
    assert len([*(tmp_path / "new").glob("*.pth"), *(tmp_path / "new").glob("*.safetensors")]) >= 3
    assert peak - before < 0.4 * whole + 4e6
