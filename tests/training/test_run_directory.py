"""What a training run keeps in its directory."""

import json

import pytest
import torch

from codellama.errors import DataError
from codellama.training import run_directory

RECORDS = [
    {"stage": stage, "step": step, "tokens": 64 * step, "loss": 4.5 / step}
    for stage in ("stage1", "stage2")
    for step in range(1, 5)
]


def write_log(directory, records=RECORDS):
    lines = [json.dumps(record) + "\n" for record in records]
    (directory / run_directory.LOG).write_text("".join(lines))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    state = {"stage": "stage2", "trainer": {"step": 7, "model": {"norm.weight": weight}}}
    run_directory.save_state(tmp_path, state)
    loaded = run_directory.load_state(tmp_path)
    assert torch.equal(loaded["trainer"]["model"].pop("norm.weight"), weight)
    assert loaded == {"stage": "stage2", "trainer": {"step": 7, "model": {}}}


def test_a_run_without_a_state_has_none(tmp_path):
    assert run_directory.load_state(tmp_path) is None


def test_the_newest_state_replaces_the_one_before_and_leaves_nothing_beside(tmp_path):
    for step in range(3):
        run_directory.save_state(tmp_path, {"step": step})
    assert run_directory.load_state(tmp_path) == {"step": 2}
    assert names(tmp_path) == ["state.pt"]


def test_a_save_that_fails_leaves_the_state_before(tmp_path, monkeypatch):
    run_directory.save_state(tmp_path, {"step": 1})

    def fail(state, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        run_directory.save_state(tmp_path, {"step": 2})
    assert run_directory.load_state(tmp_path) == {"step": 1}
    assert names(tmp_path) == ["state.pt"]


def test_a_full_disk_gets_one_sentence_and_leaves_the_state_before(tmp_path, monkeypatch):
    run_directory.save_state(tmp_path, {"step": 1})

    def fail(state, path):
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(DataError, match=r"state\.pt cannot be written; make room"):
        run_directory.save_state(tmp_path, {"step": 2})
    assert run_directory.load_state(tmp_path) == {"step": 1}
    assert names(tmp_path) == ["state.pt"]


def test_a_directory_is_free_until_a_step_is_done(tmp_path):
    run_directory.check_free(tmp_path / "absent")
    for name in ("tokenizer.model", "recipe.json"):
        (tmp_path / name).write_text("of a run that failed at its start")
        run_directory.check_free(tmp_path)
    run_directory.append_log(tmp_path, RECORDS[0])
    with pytest.raises(DataError, match="exists; choose a new directory"):
        run_directory.check_free(tmp_path)


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_state_that_is_cut_short_is_refused_in_one_sentence(tmp_path, kept):
    run_directory.save_state(tmp_path, {"weight": torch.ones(1_000)})
    path = tmp_path / run_directory.STATE
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=r"state\.pt is damaged.*start a new run") as error:
        run_directory.load_state(tmp_path)
    assert "\n" not in str(error.value)


def test_a_state_of_something_else_is_refused(tmp_path):
    run_directory.save_state(tmp_path, [1, 2])
    with pytest.raises(DataError, match=r"state\.pt is damaged"):
        run_directory.load_state(tmp_path)


def test_a_file_is_replaced_and_nothing_left_beside_it(tmp_path):
    path = tmp_path / "recipe.json"
    for content in (b"one", b"two"):
        run_directory.write_beside(path, content)
        assert path.read_bytes() == content
        assert names(tmp_path) == ["recipe.json"]


def test_the_log_comes_back_record_by_record(tmp_path):
    write_log(tmp_path)
    assert run_directory.read_log(tmp_path) == RECORDS


def test_records_are_added_one_by_one(tmp_path):
    for record in RECORDS:
        run_directory.append_log(tmp_path, record)
    assert run_directory.read_log(tmp_path) == RECORDS


def test_half_a_line_at_the_logs_end_is_passed_over(tmp_path):
    write_log(tmp_path)
    with (tmp_path / run_directory.LOG).open("a") as log:
        log.write('{"stage": "sta')
    assert run_directory.read_log(tmp_path) == RECORDS


@pytest.mark.parametrize("line", [b"3\n", b"{}\n", b"null\n", b"\xff\n", b"\n", b'{"stage\n'])
def test_an_odd_line_in_the_log_is_refused(tmp_path, line):
    write_log(tmp_path)
    path = tmp_path / run_directory.LOG
    path.write_bytes(line + path.read_bytes())
    with pytest.raises(DataError, match=r"log\.jsonl is damaged"):
        run_directory.read_log(tmp_path)


def test_a_directory_without_a_log_is_no_run(tmp_path):
    with pytest.raises(DataError, match=r"log\.jsonl is missing"):
        run_directory.read_log(tmp_path)


@pytest.mark.parametrize("stage", ["stage1", "stage2", "stage3"])
@pytest.mark.parametrize("step", [0, 2, 4, 9])
def test_later_steps_of_the_same_stage_alone_are_dropped(tmp_path, stage, step):
    write_log(tmp_path)
    run_directory.cut_log(tmp_path, stage, step)
    kept = [record for record in RECORDS if record["stage"] != stage or record["step"] <= step]
    assert run_directory.read_log(tmp_path) == kept
    assert names(tmp_path) == ["log.jsonl"]


def test_a_run_without_a_log_needs_no_cut(tmp_path):
    run_directory.cut_log(tmp_path, "stage1", 0)
    assert names(tmp_path) == []
