"""What a training run keeps in its directory."""

import json

import pytest
import torch
from codellama.training.machine import Machine

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


class Trained:
    """What is saved of a trainer, and what comes back to it."""

    def __init__(self, **state) -> None:
        self.machine = Machine(torch.device("cpu"))
        self.state = state

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = {key: value for key, value in state.items() if key != "steps"}


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    weight = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    run_directory.save_state(tmp_path, 7, Trained(step=3, model={"norm.weight": weight}))
    (steps, path), trainer = run_directory.newest_state(tmp_path), Trained()
    run_directory.restore_state(path, trainer)
    assert (steps, trainer.state["step"]) == (7, 3)
    assert torch.equal(trainer.state["model"]["norm.weight"], weight)


def test_a_run_without_a_state_has_done_no_steps(tmp_path):
    assert run_directory.newest_state(tmp_path)[0] == 0


def test_the_newest_state_replaces_the_one_before_and_leaves_nothing_beside(tmp_path):
    for steps in range(1, 4):
        run_directory.save_state(tmp_path, steps, Trained())
    assert run_directory.newest_state(tmp_path)[0] == 3
    assert names(tmp_path) == ["state.pt"]


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (OSError(28, "No space left on device"), OSError, "No space left"),
        (
            RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
            DataError,
            r"state\.pt cannot be written; free some",
        ),
    ],
)
def test_a_save_that_fails_leaves_the_state_before(tmp_path, monkeypatch, error, raised, says):
    run_directory.save_state(tmp_path, 1, Trained())

    def fail(state, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(raised, match=says):
        run_directory.save_state(tmp_path, 2, Trained())
    assert run_directory.newest_state(tmp_path)[0] == 1
    assert names(tmp_path) == ["state.pt"]


def test_slices_that_are_not_complete_are_passed_over_and_then_removed(tmp_path):
    for name in ("state-000004", "state-000009"):
        (tmp_path / name).mkdir()
    (tmp_path / "state-000004" / ".metadata").touch()
    assert run_directory.newest_state(tmp_path)[0] == 4
    run_directory.save_state(tmp_path, 5, Trained())
    assert run_directory.newest_state(tmp_path)[0] == 5
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
    run_directory.save_state(tmp_path, 1, Trained(weight=torch.ones(1_000)))
    path = tmp_path / run_directory.STATE
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match=r"state\.pt is damaged; start a new run") as error:
        run_directory.newest_state(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"steps": "many"}, {"steps": None}, 3])
def test_a_state_of_something_else_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "state.pt")
    with pytest.raises(DataError, match=r"state\.pt is damaged"):
        run_directory.newest_state(tmp_path)


@pytest.mark.parametrize("content", [b"one", b"two"])
def test_a_file_is_replaced_and_nothing_left_beside_it(tmp_path, content):
    (tmp_path / "recipe.json").write_bytes(b"before")
    run_directory.replace_file(tmp_path / "recipe.json", lambda path: path.write_bytes(content))
    assert (tmp_path / "recipe.json").read_bytes() == content
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


@pytest.mark.parametrize(
    "line", [b"3\n", b"{}\n", b"null\n", b"[" * 99_999 + b"\n", b"\xff\n", b"\n", b'{"stage\n']
)
def test_an_odd_line_in_the_log_is_refused(tmp_path, line):
    write_log(tmp_path)
    path = tmp_path / run_directory.LOG
    path.write_bytes(line + path.read_bytes())
    with pytest.raises(DataError, match=r"log\.jsonl is damaged"):
        run_directory.read_log(tmp_path)


def test_a_directory_without_a_log_is_no_run(tmp_path):
    with pytest.raises(DataError, match=r"log\.jsonl is missing"):
        run_directory.read_log(tmp_path)


@pytest.mark.parametrize("steps", [0, 2, 4, 5, 8, 9])
def test_later_steps_are_dropped(tmp_path, steps):
    write_log(tmp_path)
    run_directory.cut_log(tmp_path, steps)
    assert run_directory.read_log(tmp_path) == RECORDS[:steps]
    assert names(tmp_path) == ["log.jsonl"]


def test_a_run_without_a_log_needs_no_cut(tmp_path):
    run_directory.cut_log(tmp_path, 0)
    assert names(tmp_path) == []


def test_copies_of_states_are_left_alone(tmp_path):
    (tmp_path / "state-good.pt").touch()
    (tmp_path / "state-000500.bak").mkdir()
    (tmp_path / "state-000500.bak" / ".metadata").touch()
    run_directory.save_state(tmp_path, 7, Trained())
    assert run_directory.newest_state(tmp_path)[0] == 7
    assert names(tmp_path) == ["state-000500.bak", "state-good.pt", "state.pt"]
