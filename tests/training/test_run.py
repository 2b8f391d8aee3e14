"""What a training run keeps in its directory, in one process and in several, over Gloo."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import ROOT, run
from random_models import random_model

from codellama import load_model
from codellama.distributed import DistributedContext
from codellama.errors import DataError
from codellama.training.packing import Position
from codellama.training.recipe import Stage
from codellama.training.run import (
    LOG,
    check_directory,
    cut_log,
    read_log,
    replace_file,
    restore_state,
    save_state,
    states,
)
from codellama.training.trainer import Trainer

RECORDS = [
    {"stage": stage, "step": step, "tokens": 64 * step, "loss": 4.5 / step}
    for stage in ("stage1", "stage2")
    for step in range(1, 5)
]


def write_log(directory, records=RECORDS):
    lines = [json.dumps(record) + "\n" for record in records]
    (directory / LOG).write_text("".join(lines))


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def trainer():
    """A trainer that has done a step."""
    rows = torch.randint(3, 512, (8, 33), generator=torch.Generator().manual_seed(0))
    stream = SimpleNamespace(take=lambda count: rows[:count], position=Position(1, 2, 3))
    model = random_model(dim=32, n_heads=2, multiple_of=32, n_layers=1)
    stage = Stage("a", 1_000, 32, 128, 1e-3)
    trainer = Trainer(model, stream, stage, DistributedContext(torch.device("cpu")))
    trainer.train_step()
    return trainer


def test_a_state_comes_back_as_it_was_saved(tmp_path, trainer):
    save_state(tmp_path, 7, trainer)
    saved = copy.deepcopy(trainer.state_dict())
    trainer.train_step()
    trainer.stream.position = Position()
    steps, path = states(tmp_path)[-1]
    restore_state(path, trainer)
    assert (steps, trainer.step, trainer.stream.position) == (7, 1, (1, 2, 3))
    weights = trainer.model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in saved["model"].items())
    moments = trainer.state_dict()["optimizers"]["state"]
    for name, moment in saved["optimizers"]["state"].items():
        assert torch.equal(moment["exp_avg"], moments[name]["exp_avg"])


def test_a_run_without_a_state_has_none(tmp_path):
    assert states(tmp_path) == []


def test_the_newest_state_replaces_the_one_before_and_leaves_nothing_beside(tmp_path, trainer):
    (tmp_path / "state.part").mkdir()
    (tmp_path / "state.part" / "half").write_text("of a process that was killed")
    for steps in (1, 2, 999_999, 1_000_000):
        save_state(tmp_path, steps, trainer)
        assert states(tmp_path) == [(steps, tmp_path / f"state-{steps:06d}")]
    assert names(tmp_path) == ["state-1000000"]
    assert names(tmp_path / "state-1000000") == [".metadata", "__0_0.distcp"]


def test_a_process_that_dies_at_any_moment_of_a_save_leaves_a_whole_state(
    tmp_path, trainer, monkeypatch
):
    save_state(tmp_path, 1, trainer)
    moments = [(Path, "rename"), (shutil, "rmtree"), (torch, "save"), (pickle, "dump")]
    for owner, name in moments:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, press_ctrl_c)
            save_state(tmp_path, states(tmp_path)[-1][0] + 1, trainer)
        restore_state(states(tmp_path)[-1][1], trainer)
    save_state(tmp_path, 9, trainer)
    assert names(tmp_path) == ["state-000009"]


def press_ctrl_c(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64\nvs 0")]
)
def test_a_save_that_fails_leaves_the_state_before(tmp_path, trainer, monkeypatch, error):
    save_state(tmp_path, 1, trainer)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(torch, "save", fail)
    says = r"state-000002 cannot be written; free some of the disk .*(No space left|unexpected pos)"
    with pytest.raises(DataError, match=says) as told:
        save_state(tmp_path, 2, trainer)
    assert "\n" not in str(told.value)
    assert names(tmp_path) == ["state-000001"]


def test_a_directory_is_free_until_a_step_is_done(tmp_path):
    check_directory(tmp_path / "absent", None)
    for name in ("tokenizer.model", "recipe.json", "documents.json", "exercises"):
        (tmp_path / name).write_text("of a run that failed at its start")
        check_directory(tmp_path, None)
    write_log(tmp_path)
    with pytest.raises(DataError, match="exists; choose a new directory"):
        check_directory(tmp_path, None)


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp"])
@pytest.mark.parametrize("kept", [0, 0.01, 0.5, 0.99])
def test_a_state_that_is_cut_short_is_refused_in_one_sentence(tmp_path, trainer, name, kept):
    save_state(tmp_path, 1, trainer)
    path = states(tmp_path)[-1][1] / name
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(DataError, match="state-000001 is damaged; start a new run") as error:
        restore_state(path.parent, trainer)
    assert "\n" not in str(error.value)


def test_a_state_of_another_model_is_refused(tmp_path, trainer):
    save_state(tmp_path, 1, trainer)
    other = random_model(dim=64, n_heads=2, multiple_of=32, n_layers=1)
    with pytest.raises(DataError, match="state-000001 is damaged"):
        restore_state(
            states(tmp_path)[-1][1],
            Trainer(other, trainer.stream, trainer.stage, trainer.context),
        )


def test_a_file_is_replaced_and_nothing_left_beside_it(tmp_path):
    (tmp_path / "recipe.json").write_text("before")
    replace_file(tmp_path / "recipe.json", "after")
    assert (tmp_path / "recipe.json").read_text() == "after"
    assert names(tmp_path) == ["recipe.json"]


def test_the_log_comes_back_record_by_record(tmp_path):
    write_log(tmp_path)
    assert read_log(tmp_path) == RECORDS


def test_half_a_line_at_the_logs_end_is_passed_over(tmp_path):
    write_log(tmp_path)
    with (tmp_path / LOG).open("a") as log:
        log.write('{"stage": "sta')
    assert read_log(tmp_path) == RECORDS


@pytest.mark.parametrize(
    "line", [b"3\n", b"{}\n", b"null\n", b"[" * 99_999 + b"\n", b"\xff\n", b"\n", b'{"stage\n']
)
def test_an_odd_line_in_the_log_is_refused(tmp_path, line):
    write_log(tmp_path)
    path = tmp_path / LOG
    path.write_bytes(line + path.read_bytes())
    with pytest.raises(DataError, match=r"log\.jsonl is damaged"):
        read_log(tmp_path)


def test_a_directory_without_a_log_is_no_run(tmp_path):
    with pytest.raises(DataError, match=r"log\.jsonl is missing"):
        read_log(tmp_path)


@pytest.mark.parametrize("steps", [0, 2, 4, 5, 8, 9])
def test_later_steps_are_dropped(tmp_path, steps):
    write_log(tmp_path)
    cut_log(tmp_path, steps)
    assert read_log(tmp_path) == RECORDS[:steps]
    assert names(tmp_path) == ["log.jsonl"]


def test_a_run_without_a_log_needs_no_cut(tmp_path):
    cut_log(tmp_path, 0)
    assert names(tmp_path) == []


def test_copies_of_states_are_left_alone(tmp_path, trainer):
    for name in ("state-good", "state-000500.bak"):
        (tmp_path / name).mkdir()
    save_state(tmp_path, 7, trainer)
    assert states(tmp_path)[-1][0] == 7
    assert names(tmp_path) == ["state-000007", "state-000500.bak", "state-good"]


WORKER = Path(__file__).with_name("train_worker.py")
STAGE = {"tokens": 8 * 192, "sequence": 64, "batch_tokens": 192, "learning_rate": 1.5e-3}
STAGE |= {"rope_theta": 1e4, "shortest_run": 8, "save_steps": 3}
RECIPE = {
    "model": {"dim": 36, "n_layers": 2, "n_heads": 2, "vocab_size": 311, "multiple_of": 32},
    "stages": [
        STAGE | {"name": "short"},
        STAGE
        | {"name": "long", "tokens": 4 * 256, "sequence": 128, "activation_checkpointing": True},
    ],
}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A recipe whose sizes no number of processes divides, and documents for it."""
    directory = tmp_path_factory.mktemp("inputs")
    (directory / "recipe.json").write_text(json.dumps(RECIPE))
    for number in range(40):
        lines = (f"value_{number} = items[{line}] + {number}\n" for line in range(60))
        (directory / f"{number}.py").write_text("".join(lines))
    names = {"recipe": directory / "recipe.json", "data": directory, "device": "cpu"}
    return [f"--{name}={value}" for name, value in (names | {"dtype": "float32"}).items()]


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory):
    """The run of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codellama.training.run.HELD_OUT_TOKENS", 1_024)
        done = run("train", f"--out={out}", *options)
    assert done.returncode == 0, done.stderr
    return out


def launch(processes, out, *options, kill=(0, -1)):
    """Trains with so many processes; kills the one of a rank at a step of its stage."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*launcher, f"--nproc_per_node={processes}", WORKER, *map(str, kill)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, f"--out={out}", *options],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )


def losses(directory):
    """Training and held-out losses by stage and step."""
    return {
        (record["stage"], record["step"], key): record[key]
        for record in read_log(directory)
        for key in ("loss", "validation_loss", "end_accuracy")
        if key in record
    }


def assert_same_run(one, other):
    assert losses(one) == pytest.approx(losses(other), abs=2e-5)
    weights = load_model(other / "model", "cpu", torch.float32).state_dict()
    for name, weight in load_model(one / "model", "cpu", torch.float32).named_parameters():
        torch.testing.assert_close(weight, weights[name], atol=2e-3, rtol=1e-2)  # bfloat16


def resume_alone(out, *options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codellama.training.run.HELD_OUT_TOKENS", 1_024)
        return run("train", f"--out={out}", "--resume", "--dtype=float32", "--device=cpu", *options)


def test_any_number_of_processes_goes_on_with_what_another_has_left(
    options, alone, tmp_path, monkeypatch
):
    out, copied, train_step = tmp_path / "run", tmp_path / "copy", Trainer.train_step

    def interrupted(trainer):
        if trainer.step == 4:
            raise KeyboardInterrupt
        return train_step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr("codellama.training.run.HELD_OUT_TOKENS", 1_024)
        patch.setattr(Trainer, "train_step", interrupted)
        assert run("train", f"--out={out}", *options).returncode == 130
    assert states(out)[-1][0] == 3
    assert launch(2, out, *options, "--resume", kill=(1, 7)).returncode != 0  # ends both
    assert states(out)[-1][0] == 6
    shutil.copytree(out, copied)
    done = resume_alone(copied)
    assert done.returncode == 0, done.stderr
    assert_same_run(copied, alone)
    done = launch(2, out, *options, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the checkpoint is") == 1
    assert_same_run(out, alone)
