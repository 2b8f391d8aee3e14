"""Training in one process and in several, over Gloo."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from codellama.training.machine import Machine
from commands import ROOT, run
from random_models import random_model
from torch.distributed.device_mesh import init_device_mesh

from codellama import load_model
from codellama.errors import DataError, RequestError
from codellama.training import run_directory
from codellama.training.packing import Position
from codellama.training.recipe import Stage
from codellama.training.trainer import Trainer

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
        for record in run_directory.read_log(directory)
        for key in ("loss", "validation_loss")
        if key in record
    }


def assert_same_run(one, other):
    assert losses(one) == pytest.approx(losses(other), abs=2e-5)
    weights = load_model(other / "model", "cpu", torch.float32).state_dict()
    for name, weight in load_model(one / "model", "cpu", torch.float32).named_parameters():
        torch.testing.assert_close(weight, weights[name], atol=2e-3, rtol=1e-2)  # bfloat16


def test_a_killed_process_ends_all_and_any_number_goes_on(options, alone, tmp_path):
    out, copy = tmp_path / "run", tmp_path / "copy"
    assert launch(4, out, *options, kill=(2, 4)).returncode != 0
    assert run_directory.newest_state(out)[0] == 3
    shutil.copytree(out, copy)
    done = launch(2, out, *options, "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the checkpoint is") == 1
    assert_same_run(out, alone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codellama.training.run.HELD_OUT_TOKENS", 1_024)
        done = run("train", f"--out={copy}", "--resume", "--dtype=float32")
    assert done.returncode == 0, done.stderr
    assert_same_run(copy, alone)


@pytest.fixture
def cluster():
    """One process that is all of its group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield Machine(torch.device("cpu"), mesh=init_device_mesh("cpu", (1,)))
    dist.destroy_process_group()


def new_trainer(machine, **changes):
    rows = torch.randint(3, 512, (8, 33), generator=torch.Generator().manual_seed(0))
    stream = SimpleNamespace(take=lambda count: rows[:count], position=Position())
    stage = Stage("a", 1_000, 32, 128, 1e-3, rope_theta=1e6)
    model = machine.place(random_model(dim=32, n_heads=2, n_kv_heads=1, multiple_of=32))
    return Trainer(model, stream, replace(stage, **changes), machine)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_group_of_one_learns_as_a_process_without_a_group(cluster, optimizer):
    shared, plain = (
        new_trainer(machine, optimizer=optimizer) for machine in (cluster, Machine(cluster.device))
    )
    for _ in range(3):
        assert shared.train_step() == pytest.approx(plain.train_step(), abs=1e-5)


def test_weights_are_shared_in_float32_and_multiplied_in_bfloat16(cluster):
    trainer = new_trainer(replace(cluster, dtype=torch.bfloat16))
    seen = {}

    def note(_, inputs):
        x, cos, sin, *_ = inputs
        seen.update(x=x.dtype, cos=cos.dtype, sin=sin.dtype)

    trainer.model.layers[0].attention.register_forward_pre_hook(note)
    loss = trainer.train_step()
    assert seen == {"x": torch.bfloat16, "cos": torch.float32, "sin": torch.float32}
    assert {weight.dtype for weight in trainer.model.parameters()} == {torch.float32}
    assert loss == pytest.approx(new_trainer(Machine(cluster.device)).train_step(), rel=0.02)


def test_a_state_in_slices_that_cannot_be_written_is_told(cluster, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="state-000001 cannot be written"):
        run_directory.save_state(tmp_path / "file", 1, new_trainer(cluster))


def test_what_one_process_saved_several_do_not_resume(cluster, tmp_path):
    trainer = new_trainer(Machine(cluster.device))
    trainer.train_step()
    run_directory.save_state(tmp_path, 1, trainer)
    with pytest.raises(DataError, match="is the state of one process; resume it with one"):
        restore(tmp_path, cluster)


def test_slices_that_are_damaged_are_told(cluster, tmp_path):
    run_directory.save_state(tmp_path, 1, new_trainer(cluster))
    for path in tmp_path.glob("state-*/*.distcp"):
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="is damaged; start a new run"):
        restore(tmp_path, cluster)
    for path in tmp_path.glob("state-*/.metadata"):
        path.write_bytes(b"damaged")
    with pytest.raises(DataError, match="is damaged; start a new run"):
        restore(tmp_path, cluster)


def test_all_raise_what_the_first_process_raises(cluster):
    done = []
    cluster.once(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(DataError, match="no text"):
        cluster.once(lambda: new_error())


def test_other_processes_raise_it_without_writing(monkeypatch):
    monkeypatch.setattr("codellama.training.machine.broadcast", lambda *_: DataError("text"))
    with pytest.raises(DataError, match="text"):
        Machine(torch.device("cpu")).once(lambda: pytest.fail("is not the first"))


def restore(directory, machine):
    run_directory.restore_state(run_directory.newest_state(directory)[1], new_trainer(machine))


def new_error():
    raise DataError("no text")


def test_a_model_with_other_modules_is_for_one_process(cluster):
    model = random_model(dim=32, n_heads=2)
    for norm in (torch.nn.LayerNorm(32), torch.nn.RMSNorm(32)):
        model.norm = norm
        with pytest.raises(RequestError, match="whose modules were changed"):
            cluster.place(model)


def test_frozen_weights_stay_frozen(cluster):
    model = random_model(dim=32, n_heads=2)
    model.output.requires_grad_(False)
    placed = cluster.place(model)
    frozen = [name for name, weight in placed.named_parameters() if not weight.requires_grad]
    assert frozen == ["output.weight"]
