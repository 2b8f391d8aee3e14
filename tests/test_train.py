"""The command that trains, on a model and documents small enough to train in a second."""

import json
import math
import random
import shutil
import sys
import types

import pytest
import torch
from commands import assert_one_sentence, run

from codellama import CodeLlama, Tokenizer, load_model
from codellama.distributed import DistributedContext
from codellama.training.documents import find_documents
from codellama.training.packing import PackedSequences, Packing
from codellama.training.recipe import read_recipe
from codellama.training.run import read_log, states
from codellama.training.trainer import Trainer
from codellama.weights import meta

SHAPE = {
    "dim": 32,
    "n_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 1,
    "multiple_of": 32,
    "vocab_size": 400,
}
SHORT = {
    "name": "short",
    "tokens": 8 * 128,
    "sequence": 64,
    "batch_tokens": 128,
    "learning_rate": 1.5e-3,
    "rope_theta": 1e4,
    "shortest_run": 8,
    "save_steps": 3,
}
LONG = SHORT | {
    "name": "long",
    "tokens": 4 * 256,
    "sequence": 128,
    "batch_tokens": 256,
    "learning_rate": 3e-4,
    "rope_theta": 1e6,
}
OPTIONS = {"device": "cpu", "dtype": "float32"}
STEPS = [("short", step) for step in range(1, 9)] + [("long", step) for step in range(1, 5)]
NAMES = ["value", "index", "result", "items", "total", "name", "node", "left", "right", "key"]


def code(number: int) -> str:
    """A file of functions; another one for each number."""
    random_numbers = random.Random(number)
    functions = []
    for function in range(6):
        one, two, three = random_numbers.sample(NAMES, 3)
        functions.append(
            f"def {one}_{two}_{function}({two}, {three}={random_numbers.randrange(100)}):\n"
            f'    """The {one} of {two} and {three}."""\n'
            f"    for {one} in range({two}):\n"
            f"        if {one} > {three}:\n"
            f"            return {one} * {random_numbers.randrange(100)}\n"
            f"    return {two}\n"
        )
    return "\n\n".join(functions)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    for number in range(40):
        (directory / f"module{number}.py").write_text(code(number))
    return directory


@pytest.fixture(autouse=True)
def few_held_out_tokens(monkeypatch):
    monkeypatch.setattr("codellama.training.run.HELD_OUT_TOKENS", 1_024)


def recipe_file(directory, *stages, **fields):
    """A recipe of two short stages, but for what is given."""
    path = directory / f"{len(list(directory.iterdir()))}.json"
    path.write_text(json.dumps({"model": SHAPE, "stages": stages or [SHORT, LONG], **fields}))
    return path


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return recipe_file(tmp_path_factory.mktemp("recipes"))


@pytest.fixture
def train(data, recipe):
    """Runs the command into a directory with the options above, but for those given."""

    def train(out, *flags, **changes):
        options = {"out": out, "recipe": recipe, "data": data, **OPTIONS, **changes}
        given = (f"--{name}={value}" for name, value in options.items() if value is not None)
        return run("train", *flags, *given)

    return train


@pytest.fixture(scope="module")
def unbroken(data, recipe, tmp_path_factory):
    """The directory of a run that was never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codellama.training.run.HELD_OUT_TOKENS", 1_024)
        options = {"out": out, "recipe": recipe, "data": data, **OPTIONS}
        done = run("train", *(f"--{name}={value}" for name, value in options.items()))
    assert done.returncode == 0, done.stderr
    return out


def log(directory):
    """What a run has logged, but for the time that it took."""
    return [
        {key: value for key, value in record.items() if key != "seconds"}
        for record in read_log(directory)
    ]


def contents(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def assert_same_weights(one, other):
    one, other = load_model(one, device="cpu"), load_model(other, device="cpu")
    assert one.config == other.config
    weights = other.state_dict()
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, weights[name]), name


def interrupt(monkeypatch, number):
    """Presses Ctrl-C in the step of a number, counted from 1 over both stages."""
    train_step, steps = Trainer.train_step, iter(range(1, number + 1))

    def interrupted(trainer):
        if next(steps) == number:
            raise KeyboardInterrupt
        return train_step(trainer)

    monkeypatch.setattr(Trainer, "train_step", interrupted)


def test_a_run_leaves_its_recipe_log_state_and_checkpoint(unbroken):
    assert sorted(path.name for path in unbroken.iterdir()) == [
        "documents.json",
        "log.jsonl",
        "model",
        "recipe.json",
        "state-000012",
        "tokenizer.model",
    ]
    names = sorted(path.name for path in (unbroken / "model").iterdir())
    assert names == ["consolidated.00.pth", "params.json", "tokenizer.model"]


def test_the_checkpoint_has_the_last_stages_base_and_context(unbroken):
    config = load_model(unbroken / "model").config
    assert (config.rope_theta, config.max_seq_len) == (1e6, 128)
    assert {name: getattr(config, name) for name in SHAPE} == SHAPE


def test_the_checkpoint_completes_and_infills(unbroken):
    llm = CodeLlama.load(unbroken / "model", device="cpu")
    assert llm.model.tok_embeddings.weight.dtype == torch.bfloat16
    assert llm.tokenizer.can_infill
    assert len(llm.complete(["def f("], max_new_tokens=4)[0].tokens) <= 4
    assert len(llm.infill([("def f(", "):\n")], max_new_tokens=4)[0].tokens) <= 4


def test_every_step_is_logged(unbroken):
    records = log(unbroken)
    assert [(record["stage"], record["step"]) for record in records] == STEPS
    tokens = [128 * step for step in range(1, 9)] + [1_024 + 256 * step for step in range(1, 5)]
    assert [record["tokens"] for record in records] == tokens
    measured = [
        at for at, record in zip(STEPS, records, strict=True) if "validation_loss" in record
    ]
    assert measured == [at for at, one in zip(STEPS, records, strict=True) if "end_accuracy" in one]
    assert measured == [("short", 3), ("short", 6), ("short", 8), ("long", 3), ("long", 4)]
    assert records[0]["loss"] == pytest.approx(5.99, abs=0.1)  # ln 400
    assert records[-1]["validation_loss"] < records[2]["validation_loss"] < 5.99
    peaks = [max(r["learning_rate"] for r in records if r["stage"] == s) for s in ("short", "long")]
    assert peaks == pytest.approx([1.5e-3, 3e-4])


def test_the_held_out_loss_is_that_of_the_held_out_documents(unbroken, data):
    model = load_model(unbroken / "model", "cpu", torch.float32)
    tokenizer, documents = Tokenizer(unbroken / "tokenizer.model"), find_documents(data)
    [_, stage] = read_recipe(str(unbroken / "recipe.json")).stages
    losses = []
    for files in (documents.held_out, documents.train):
        stream = PackedSequences(files, tokenizer, Packing(129, 0.0, 8, "0 long"))
        trainer = Trainer(model, stream, stage, DistributedContext(torch.device("cpu")))
        losses.append(trainer.loss(stream.take(1_024 // 128)))
    found = log(unbroken)[-1]["validation_loss"]
    assert abs(found - losses[0]) < abs(found - losses[1]) / 4


def test_the_vocabulary_of_the_run_is_that_of_its_checkpoint(unbroken):
    vocabulary = (unbroken / "tokenizer.model").read_bytes()
    assert (unbroken / "model" / "tokenizer.model").read_bytes() == vocabulary


def test_the_same_seed_gives_the_same_run_and_another_another(train, unbroken, tmp_path):
    same = train(tmp_path / "same")
    assert (same.returncode, same.stdout) == (0, "")
    assert str(tmp_path / "same" / "model") in same.stderr
    assert log(tmp_path / "same") == log(unbroken)
    assert_same_weights(tmp_path / "same" / "model", unbroken / "model")
    train(tmp_path / "other", seed=1)
    losses = [[record["loss"] for record in log(out)] for out in (tmp_path / "other", unbroken)]
    assert not set(losses[0]).intersection(losses[1])


def test_a_runs_recipe_can_be_run_again(train, unbroken, tmp_path):
    assert train(tmp_path / "run", recipe=unbroken / "recipe.json").returncode == 0
    assert log(tmp_path / "run") == log(unbroken)


def test_tokens_scale_all_stages_and_sequences_are_capped(train, tmp_path):
    assert train(tmp_path / "run", tokens=512, sequence=32, learning_rate=3e-3).returncode == 0
    records = log(tmp_path / "run")
    assert [record["stage"] for record in records] == ["short", "short", "long"]
    assert records[-1]["tokens"] == 512
    assert load_model(tmp_path / "run" / "model").config.max_seq_len == 32
    assert max(record["learning_rate"] for record in records) == pytest.approx(3e-3)


def test_a_recipe_that_comes_along_runs_on_few_documents(train, tmp_path):
    options = {"recipe": "paper", "tokens": 2_048, "sequence": 64}
    assert train(tmp_path / "run", **options).returncode == 0
    assert {record["stage"] for record in log(tmp_path / "run")} == {"code", "long context"}
    config = load_model(tmp_path / "run" / "model").config
    assert config.vocab_size == Tokenizer(tmp_path / "run" / "tokenizer.model").vocab_size < 4_096
    assert (config.dim, config.rope_theta, config.max_seq_len) == (192, 1e6, 64)


def test_a_checkpoint_in_shards_holds_the_same_weights(train, unbroken, tmp_path):
    assert train(tmp_path / "run", shards=2).returncode == 0
    shards = sorted(path.name for path in (tmp_path / "run" / "model").glob("*.pth"))
    assert shards == ["consolidated.00.pth", "consolidated.01.pth"]
    assert_same_weights(tmp_path / "run" / "model", unbroken / "model")


@pytest.mark.parametrize("left_out", [0, 1])
def test_a_stage_of_no_tokens_is_left_out(train, tmp_path, left_out):
    stages = [SHORT, LONG]
    stages[left_out] = stages[left_out] | {"tokens": 0}
    path = recipe_file(tmp_path, *stages)
    assert train(tmp_path / "run", recipe=path).returncode == 0
    assert {record["stage"] for record in log(tmp_path / "run")} == {stages[1 - left_out]["name"]}


@pytest.mark.parametrize("step", [1, 3, 5, 8, 9, 11, 12])
def test_an_interrupted_run_is_resumed_as_if_unbroken(train, unbroken, tmp_path, monkeypatch, step):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, step)
        assert train(out).returncode == 130
    assert not (out / "model").exists()
    assert train(out, "--resume").returncode == 0
    assert log(out) == log(unbroken)
    assert_same_weights(out / "model", unbroken / "model")


def test_a_resumed_run_has_the_base_and_the_context_of_stages_before(train, tmp_path, monkeypatch):
    path = recipe_file(tmp_path, LONG, SHORT | {"rope_theta": None})
    with monkeypatch.context() as patch:
        interrupt(patch, 8)
        assert train(tmp_path / "run", recipe=path).returncode == 130
    assert train(tmp_path / "run", "--resume", recipe=path).returncode == 0
    config = load_model(tmp_path / "run" / "model").config
    assert (config.rope_theta, config.max_seq_len) == (1e6, 128)


def test_a_run_can_be_interrupted_again_and_again(train, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        assert train(out).returncode == 130
    for step in (4, 2, 4, 1):
        with monkeypatch.context() as patch:
            interrupt(patch, step)
            assert train(out, "--resume").returncode == 130
    assert train(out, "--resume", recipe=None, data=None).returncode == 0  # both are in the run
    assert log(out) == log(unbroken)
    assert_same_weights(out / "model", unbroken / "model")


def test_a_run_can_be_interrupted_while_it_writes_its_checkpoint(
    train, unbroken, tmp_path, monkeypatch
):
    out, save = tmp_path / "run", meta.write_meta

    def interrupted(directory, *options):
        save(directory, *options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(meta, "write_meta", interrupted)
        assert train(out).returncode == 130
    assert not (out / "model").exists()
    assert train(out, "--resume").returncode == 0
    assert sorted(contents(out)) == sorted(contents(unbroken))
    assert log(out) == log(unbroken)
    assert_same_weights(out / "model", unbroken / "model")


def test_resuming_a_run_that_is_done_changes_nothing(train, unbroken, tmp_path):
    before = contents(unbroken)
    reworded = recipe_file(tmp_path, about="the same in other words")
    assert train(unbroken, "--resume", recipe=reworded, shards=2).returncode == 0
    assert contents(unbroken) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, '- "seed": 0 + "seed": 1'),
        ({"tokens": 999}, '- "tokens": 1024, + "tokens": 499,'),
        ({"sequence": 100}, '- "sequence": 128, + "sequence": 100,'),
        ({"data": "stdlib"}, '+ "stdlib"'),
        ({"recipe": "tiny"}, '+ "dim": 256,'),
        ({"ckpt": "checkpoint"}, '+ "ckpt": "checkpoint"'),
    ],
)
def test_a_run_is_not_resumed_with_another_recipe(train, unbroken, changes, says):
    before = contents(unbroken)
    assert_one_sentence(train(unbroken, "--resume", **changes), str(unbroken), says)
    assert contents(unbroken) == before


@pytest.fixture(scope="module")
def unfinished(unbroken, tmp_path_factory):
    """What an interruption before the checkpoint leaves."""
    out = tmp_path_factory.mktemp("unfinished") / "run"
    return shutil.copytree(unbroken, out, ignore=shutil.ignore_patterns("model"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.json", b""),
        ("recipe.json", b"3"),
        ("recipe.json", b"\xff"),
        ("recipe.json", b"[" * 100_000),
        ("recipe.json", b'{"stages": [' * 100_000),
        ("log.jsonl", b"3\n"),
        ("documents.json", b"[3]"),
        ("state-000012/.metadata", b""),
        ("state-000012/.metadata", b"damaged"),
        ("state-000012/__0_0.distcp", b"damaged"),
    ],
)
def test_a_run_is_not_resumed_from_a_damaged_file(train, unfinished, tmp_path, name, content):
    out = shutil.copytree(unfinished, tmp_path / "run")
    assert (out / name).exists()
    (out / name).write_bytes(content)
    path = out / name.split("/")[0]
    assert_one_sentence(train(out, "--resume", "--quiet"), f"{path} is damaged")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda data: (data / "new.py").write_text("x = 1\n"),
            "new.py, which had 0 bytes and has 6;",
        ),
        (lambda data: (data / "module7.py").unlink(), "bytes and has 0;"),
        (lambda data: (data / "module7.py").write_text("x = 1\n"), "bytes and has 6;"),
    ],
)
def test_a_run_is_not_resumed_with_other_documents_unless_forced(
    train, data, tmp_path, monkeypatch, change, says
):
    copy = shutil.copytree(data, tmp_path / "data")
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        assert train(tmp_path / "run", data=copy).returncode == 130
    change(copy)
    assert_one_sentence(train(tmp_path / "run", "--resume", data=copy), says, "--force")
    assert train(tmp_path / "run", "--resume", "--force", data=copy).returncode == 0
    assert train(tmp_path / "run", "--resume", data=copy).returncode == 0  # is the run's own now


def conversations(path):
    """A file of forty conversations in both forms."""
    records = []
    for number in range(40):
        prompt, answer = f"Add {number} to x.", f"```python\nx += {number}\n```"
        roles = {"user": prompt, "assistant": answer}
        messages = [{"role": role, "content": text} for role, text in roles.items()]
        record = {"messages": messages} if number % 2 else {"prompt": prompt, "completion": answer}
        records.append(json.dumps(record) + "\n")
    path.write_text("".join(records))
    return path


def test_a_checkpoint_learns_to_answer(train, unbroken, tmp_path):
    path = conversations(tmp_path / "chats.jsonl")
    options = {"ckpt": unbroken / "model", "data": path, "learning_rate": 1e-2}
    recipe = recipe_file(tmp_path, LONG | {"tokens": 40 * 256, "save_steps": 40})
    assert train(tmp_path / "run", recipe=recipe, **options).returncode == 0
    losses = [record["loss"] for record in log(tmp_path / "run")]
    assert losses[-1] < losses[0] / 2
    assert "end_accuracy" not in log(tmp_path / "run")[-1]  # there are no gaps


def test_the_recipe_for_instructions_takes_them_from_a_file(train, unbroken, tmp_path):
    path = conversations(tmp_path / "chats.jsonl")
    options = {"recipe": "instruct", "ckpt": unbroken / "model", "tokens": 512, "sequence": 128}
    assert train(tmp_path / "run", data=path, **options).returncode == 0
    assert {record["stage"] for record in log(tmp_path / "run")} == {"instruct"}


def test_a_stage_may_have_data_of_its_own(train, data, tmp_path):
    path = conversations(tmp_path / "chats.jsonl")
    chat = LONG | {"data": [str(data), str(path)]}
    recipe = recipe_file(tmp_path, SHORT, chat, data=[str(data)])
    assert train(tmp_path / "run", recipe=recipe, data=None).returncode == 0
    sizes = json.loads((tmp_path / "run" / "documents.json").read_text())
    assert sizes[str(path)] == path.stat().st_size
    assert len(sizes) == 41


@pytest.fixture
def exercises(monkeypatch):
    """A generator of few exercises."""

    def write(directory, seed, characters):
        for side, count in (("train", 12), ("held_out", 3)):
            (directory / side).mkdir()
            for number in range(count):
                (directory / side / f"{number}.py").write_text(code(number + 100 * seed))
            conversations(directory / side / "instructions.jsonl")

    module = types.ModuleType("exercises")
    module.write_exercises = write
    monkeypatch.setitem(sys.modules, "codellama.training.exercises", module)


@pytest.mark.usefixtures("exercises")
def test_exercises_are_written_into_the_run_once(train, tmp_path, monkeypatch):
    out, recipe = tmp_path / "run", recipe_file(tmp_path, data=["exercises", "exercises:chat"])
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        assert train(out, data=None, recipe=recipe).returncode == 130
    written = contents(out / "exercises")
    assert len(written) == 17
    del sys.modules["codellama.training.exercises"]  # is not asked again
    done = train(out, "--resume", data=None, recipe=None)
    assert done.returncode == 0, done.stderr
    assert contents(out / "exercises") == written
    assert json.loads((out / "documents.json").read_text()) == {}


def test_exercises_that_cannot_be_written_are_told(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "codellama.training.exercises", None)
    assert_one_sentence(train(tmp_path / "run", data="exercises"), "cannot write exercises")


def test_documents_may_be_called_otherwise(train, tmp_path):
    path = recipe_file(tmp_path, pattern="*.md")
    assert_one_sentence(train(tmp_path / "run", recipe=path), "0 files *.md")


def test_a_run_is_never_started_over_another(train, unbroken, tmp_path):
    before = contents(unbroken)
    assert_one_sentence(train(unbroken), str(unbroken), "exists")
    assert contents(unbroken) == before
    (tmp_path / "notes.txt").write_text("mine")
    assert_one_sentence(train(tmp_path), "exists")
    assert contents(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("made", [True, False])
def test_nothing_cannot_be_resumed(train, tmp_path, made):
    out = tmp_path / "run"
    if made:
        out.mkdir()
    assert_one_sentence(train(out, "--resume"), str(out), "no run to resume")


def test_a_checkpoint_can_be_trained_on(train, unbroken, tmp_path):
    out, start = tmp_path / "run", unbroken / "model"
    assert train(out, ckpt=start, recipe="finetune", tokens=512, sequence=128).returncode == 0
    recipe = json.loads((out / "recipe.json").read_text())
    assert (recipe["model"], recipe["ckpt"]) == (None, str(start))
    vocabulary = (start / "tokenizer.model").read_bytes()
    assert (out / "model" / "tokenizer.model").read_bytes() == vocabulary
    [first, *_] = log(out)
    assert first["loss"] < 5.96


def test_training_on_begins_with_the_checkpoints_weights(train, unbroken, tmp_path):
    out, start = tmp_path / "run", load_model(unbroken / "model", device="cpu")
    assert train(out, ckpt=unbroken / "model", learning_rate=1e-29).returncode == 0
    model = load_model(out / "model", device="cpu")
    for name, weight in start.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_what_a_stage_does_not_say_is_the_checkpoints_own(train, unbroken, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(unbroken / "model", start)
    params = json.loads((start / "params.json").read_text())
    own = {"rope_theta": 5e6, "max_seq_len": 200}
    (start / "params.json").write_text(json.dumps({**params, **own}))
    path = recipe_file(tmp_path, SHORT | {"rope_theta": None})
    assert train(tmp_path / "run", recipe=path, ckpt=start).returncode == 0
    config = load_model(tmp_path / "run" / "model").config
    assert (config.rope_theta, config.max_seq_len) == (5e6, 200)


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_rounded_checkpoint_is_refused_before_anything_is_made(train, unbroken, tmp_path, mode):
    rounded = tmp_path / "rounded"
    done = run("convert", "--src", unbroken / "model", "--dst", rounded, "--to", mode)
    assert done.returncode == 0, done.stderr
    assert_one_sentence(train(tmp_path / "run", ckpt=rounded), str(rounded), "rounded")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": "/absent"}, "/absent is no directory"),
        ({"data": "package:absent"}, "the package absent is not installed"),
        ({"recipe": "papr"}, "there is no recipe papr; expected finetune, instruct, paper"),
        ({"recipe": "finetune"}, "neither model nor ckpt"),
        ({"ckpt": "/absent"}, "/absent"),
        ({"dtype": "int3"}, "dtype is 'int3'"),
        ({"device": "abacus"}, "device is 'abacus'"),
        ({"dtype": "float16"}, "--dtype is float16"),
        ({"data": "absent.jsonl"}, "absent.jsonl: No such file"),
        ({"tokens": 0}, "0 tokens"),
        ({"tokens": -5}, "tokens is -"),
        ({"sequence": 0}, "stage 'short': sequence is 0"),
        ({"learning_rate": 0}, "stage 'short': learning_rate is 0.0"),
        ({"learning_rate": 1e30}, "stage 'short': learning_rate is 1."),
        ({"seed": 10**22}, "seed is"),
        ({"shards": 0}, "0 equal slices"),
    ],
)
def test_bad_options_get_one_sentence_and_exit_code_2(train, tmp_path, changes, says):
    assert_one_sentence(train(tmp_path / "run", **changes), says)


def test_a_run_that_cannot_be_cut_into_shards_can_be_resumed_with_another_number(
    train, unbroken, tmp_path
):
    out = tmp_path / "run"
    done = train(out, shards=5)
    assert_one_sentence(done, "5 equal slices", "divides 16")
    assert not (out / "state.pt").exists()
    assert train(out, "--resume", shards=2).returncode == 0
    assert log(out) == log(unbroken)
    assert_same_weights(out / "model", unbroken / "model")


def test_a_start_that_fails_does_not_block_the_one_that_is_put_right(train, unbroken, tmp_path):
    out = tmp_path / "run"
    assert_one_sentence(train(out, shards=5, seed=1), "5 equal slices")
    assert (out / "recipe.json").exists()
    assert train(out).returncode == 0
    assert log(out) == log(unbroken)


@pytest.mark.parametrize("in_training", [True, False])
def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(
    train, tmp_path, monkeypatch, in_training
):
    out, compute = tmp_path / "run", Trainer.loss

    def diverged(trainer, rows, backward=False):
        found = compute(trainer, rows, backward)
        return math.nan if trainer.step > 3 and backward == in_training else found

    monkeypatch.setattr(Trainer, "loss", diverged)
    assert_one_sentence(train(out, "--quiet"), "the loss of short is nan", "smaller learning rate")
    assert states(out)[-1][0] == 3
    assert not (out / "model").exists()


def test_the_directory_is_required(data):
    assert_one_sentence(run("train", "--data", data), "--out is missing")


def test_a_plot_without_matplotlib_is_refused_before_anything_is_done(train, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = train(tmp_path / "run", plot=tmp_path / "loss.png")
    assert_one_sentence(done, "pip install 'codellama[plots]'")
    assert not (tmp_path / "run").exists()


def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_done(train, tmp_path):
    pytest.importorskip("matplotlib")
    done = train(tmp_path / "run", plot=tmp_path / "loss.xyz")
    assert_one_sentence(done, "loss.xyz: expected a name that ends in one of")
    assert not (tmp_path / "run").exists()


def test_a_plot_is_drawn_of_the_whole_run(train, tmp_path):
    pytest.importorskip("matplotlib")
    assert train(tmp_path / "run", plot=tmp_path / "loss.png").returncode == 0
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_one_process_joins_no_others(train, tmp_path):
    assert train(tmp_path / "run").returncode == 0
    assert not torch.distributed.is_initialized()
