"""The command that trains, on a model and documents small enough to train in a second."""

import json
import math
import random
import shutil

import pytest
import torch
from commands import run

from codellama import CodeLlama, Tokenizer, load_model
from codellama.training import run_directory
from codellama.training.contexts import ContextStream
from codellama.training.documents import find_documents
from codellama.training.trainer import Stage, Trainer
from codellama.weights import meta

SHAPE = {
    "dim": 32,
    "n_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 1,
    "multiple_of": 32,
    "vocab_size": 400,
}
OPTIONS = {
    "tokens": 8 * 128,
    "sequence": 64,
    "batch_tokens": 128,
    "long_tokens": 4 * 256,
    "long_sequence": 128,
    "long_batch_tokens": 256,
    "save_every": 3,
    "device": "cpu",
    "dtype": "float32",
    "compile": False,
}
STEPS = [("stage1", step) for step in range(1, 9)] + [("stage2", step) for step in range(1, 5)]
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


@pytest.fixture
def train(data):
    """Runs the command into a directory with the options above, but for those given; a checkpoint
    to start from has a shape of its own."""

    def train(out, *flags, **changes):
        shape = {} if "ckpt" in changes else SHAPE
        options = {"out": out, "data": data, **shape, **OPTIONS, **changes}
        return run("train", *flags, *(f"--{name}={value}" for name, value in options.items()))

    return train


@pytest.fixture(scope="module")
def unbroken(data, tmp_path_factory):
    """The directory of a run that was never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("codellama.training.run.HELD_OUT_TOKENS", 1_024)
        options = {"out": out, "data": data, **SHAPE, **OPTIONS}
        done = run("train", *(f"--{name}={value}" for name, value in options.items()))
    assert done.returncode == 0, done.stderr
    return out


def log(directory):
    """What a run has logged, but for the time that it took."""
    return [
        {key: value for key, value in record.items() if key != "seconds"}
        for record in run_directory.read_log(directory)
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


def assert_one_sentence(done, *says):
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for words in says:
        assert words in done.stderr


def interrupt(monkeypatch, number):
    """Presses Ctrl-C in the step of a number, counted from 1 over both stages."""
    train_step, steps = Trainer.train_step, iter(range(1, number + 1))

    def interrupted(trainer):
        if next(steps) == number:
            raise KeyboardInterrupt
        return train_step(trainer)

    monkeypatch.setattr(Trainer, "train_step", interrupted)


def test_a_run_leaves_its_recipe_log_and_state_and_two_checkpoints(unbroken):
    assert sorted(path.name for path in unbroken.iterdir()) == [
        "log.jsonl",
        "recipe.json",
        "stage1",
        "stage2",
        "state.pt",
        "tokenizer.model",
    ]
    for stage in ("stage1", "stage2"):
        names = sorted(path.name for path in (unbroken / stage).iterdir())
        assert names == ["consolidated.00.pth", "params.json", "tokenizer.model"]


def test_every_stage_has_its_own_base_and_context(unbroken):
    first, second = (load_model(unbroken / name).config for name in ("stage1", "stage2"))
    assert (first.rope_theta, first.max_seq_len) == (1e4, 64)
    assert (second.rope_theta, second.max_seq_len) == (1e6, 128)
    assert (first.dim, first.n_layers, first.n_heads, first.n_kv_heads) == (32, 1, 2, 1)
    assert (first.vocab_size, first.multiple_of) == (400, 32)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_every_checkpoint_completes_and_infills(unbroken, stage):
    llm = CodeLlama.load(unbroken / stage, device="cpu")
    assert llm.model.tok_embeddings.weight.dtype == torch.bfloat16
    assert llm.tokenizer.can_infill
    assert len(llm.complete(["def f("], max_new_tokens=4)[0].tokens) <= 4
    assert len(llm.infill([("def f(", "):\n")], max_new_tokens=4)[0].tokens) <= 4


def test_every_step_is_logged(unbroken):
    records = log(unbroken)
    assert [(record["stage"], record["step"]) for record in records] == STEPS
    tokens = [128 * step for step in range(1, 9)] + [256 * step for step in range(1, 5)]
    assert [record["tokens"] for record in records] == tokens
    measured = [at for at, record in zip(STEPS, records, strict=True) if "held_out_loss" in record]
    saved = [("stage1", 3), ("stage1", 6), ("stage1", 8), ("stage2", 3), ("stage2", 4)]
    assert measured == saved
    assert records[0]["loss"] == pytest.approx(5.99, abs=0.1)  # ln 400
    assert records[-1]["held_out_loss"] < records[2]["held_out_loss"] < 5.99
    peaks = [max(r["learning_rate"] for r in records if r["stage"] == s) for s, _ in saved[2:4]]
    assert peaks == pytest.approx([1.5e-3, 3e-4])


def test_the_warm_up_takes_a_tenth_of_a_stage_at_most(train, tmp_path):
    assert train(tmp_path / "run", tokens=20 * 128, long_tokens=0).returncode == 0
    rates = [record["learning_rate"] for record in log(tmp_path / "run")]
    assert rates[:2] == pytest.approx([0.75e-3, 1.5e-3])
    assert max(rates[3:]) < rates[1]


def test_the_held_out_loss_is_that_of_the_held_out_documents(unbroken, data):
    model = load_model(unbroken / "stage2", "cpu", torch.float32)
    tokenizer, documents = Tokenizer(unbroken / "tokenizer.model"), find_documents(data)
    held_out, trained = (
        Trainer(model, ContextStream(files, tokenizer, 129, 0.0), Stage(1, 128, 128, 1e-3, 0, 1e6))
        for files in (documents.held_out, documents.train)
    )
    losses = [trainer.loss(trainer.stream.take(1_024 // 129)) for trainer in (held_out, trained)]
    found = log(unbroken)[-1]["held_out_loss"]
    assert found == pytest.approx(losses[0], rel=1e-3)
    assert found != pytest.approx(losses[1], rel=1e-3)


def test_the_vocabulary_of_the_run_is_that_of_its_checkpoints(unbroken):
    vocabulary = (unbroken / "tokenizer.model").read_bytes()
    for stage in ("stage1", "stage2"):
        assert (unbroken / stage / "tokenizer.model").read_bytes() == vocabulary


def test_the_same_seed_gives_the_same_run_and_another_another(train, unbroken, tmp_path):
    same = train(tmp_path / "same")
    assert (same.returncode, same.stdout) == (0, "")
    assert str(tmp_path / "same") in same.stderr
    assert log(tmp_path / "same") == log(unbroken)
    assert_same_weights(tmp_path / "same" / "stage2", unbroken / "stage2")
    train(tmp_path / "other", seed=1)
    losses = [[record["loss"] for record in log(out)] for out in (tmp_path / "other", unbroken)]
    assert not set(losses[0]).intersection(losses[1])


def test_a_checkpoint_in_shards_holds_the_same_weights(train, unbroken, tmp_path):
    assert train(tmp_path / "run", shards=2).returncode == 0
    for stage in ("stage1", "stage2"):
        shards = sorted(path.name for path in (tmp_path / "run" / stage).glob("*.pth"))
        assert shards == ["consolidated.00.pth", "consolidated.01.pth"]
        assert_same_weights(tmp_path / "run" / stage, unbroken / stage)


@pytest.mark.parametrize(("left_out", "made"), [("tokens", "stage2"), ("long_tokens", "stage1")])
def test_a_stage_of_no_tokens_is_left_out(train, tmp_path, left_out, made):
    assert train(tmp_path / "run", **{left_out: 0}).returncode == 0
    assert [path.name for path in (tmp_path / "run").glob("stage*")] == [made]
    assert {record["stage"] for record in log(tmp_path / "run")} == {made}


@pytest.mark.parametrize("step", [1, 3, 5, 8, 9, 11, 12])
def test_an_interrupted_run_is_resumed_as_if_unbroken(train, unbroken, tmp_path, monkeypatch, step):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, step)
        assert train(out).returncode == 130
    assert (out / "stage1").exists() == (step > 8)
    assert not (out / "stage2").exists()
    assert train(out, "--resume").returncode == 0
    assert log(out) == log(unbroken)
    for stage in ("stage1", "stage2"):
        assert_same_weights(out / stage, unbroken / stage)


def test_a_run_can_be_interrupted_again_and_again(train, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, 4)
        assert train(out).returncode == 130
    for step in (4, 2, 4, 1):
        with monkeypatch.context() as patch:
            interrupt(patch, step)
            assert train(out, "--resume").returncode == 130
    assert train(out, "--resume").returncode == 0
    assert log(out) == log(unbroken)
    assert_same_weights(out / "stage2", unbroken / "stage2")


def test_a_run_can_be_interrupted_while_it_writes_a_checkpoint(
    train, unbroken, tmp_path, monkeypatch
):
    out, save = tmp_path / "run", meta.save_checkpoint

    def interrupted(directory, *options):
        save(directory, *options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(meta, "save_checkpoint", interrupted)
        assert train(out).returncode == 130
    assert not (out / "stage1").exists()
    assert train(out, "--resume").returncode == 0
    assert sorted(contents(out)) == sorted(contents(unbroken))
    assert log(out) == log(unbroken)
    assert_same_weights(out / "stage2", unbroken / "stage2")


def test_resuming_a_run_that_is_done_changes_nothing(train, tmp_path):
    out = tmp_path / "run"
    train(out)
    before = contents(out)
    assert train(out, "--resume").returncode == 0
    assert contents(out) == before


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"dim": 64}, "dim was 32, is 64"),
        ({"tokens": 999}, "tokens was 1024, is 999"),
        ({"infilling_rate": 0.5}, "infilling_rate was 0.9, is 0.5"),
        ({"line_rate": 0.5}, "line_rate was 0.0, is 0.5"),
        ({"suffix_first_rate": 0.2}, "suffix_first_rate was 0.5, is 0.2"),
        ({"context": 512, "skip_rate": 0.5}, "skip_rate was 0.0, is 0.5"),
        ({"gap_weight": 2.0}, "gap_weight was 1.0, is 2.0"),
        ({"pattern": "module*.py"}, "pattern was *.py, is module*.py"),
    ],
)
def test_a_run_is_not_resumed_with_other_options(train, unbroken, changes, says):
    before = contents(unbroken)
    assert_one_sentence(train(unbroken, "--resume", **changes), str(unbroken), says)
    assert contents(unbroken) == before


def test_an_option_that_the_saved_recipe_alone_has_is_named(train, unbroken, tmp_path):
    saved = json.loads((unbroken / "recipe.json").read_text())
    (tmp_path / "recipe.json").write_text(json.dumps({**saved, "dropout": 0.1}))
    assert_one_sentence(train(tmp_path, "--resume"), "dropout was 0.1, is None")


def test_a_run_is_not_resumed_from_a_checkpoint_if_it_was_started_without(train, unbroken):
    start = unbroken / "stage1"
    assert_one_sentence(train(unbroken, "--resume", ckpt=start), f"ckpt was None, is {start}")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recipe.json", b""),
        ("recipe.json", b"3"),
        ("recipe.json", b"\xff"),
        ("log.jsonl", b"3\n"),
        ("state.pt", {}),
        ("state.pt", [1]),
        ("state.pt", {"stage": "stage1", "trainer": None}),
        ("state.pt", {"stage": "stage1", "trainer": {"step": 1, "position": {"page": 1}}}),
        ("state.pt", {"stage": "stage0", "trainer": {"model": {"norm.weight": torch.ones(2)}}}),
    ],
)
def test_a_run_is_not_resumed_from_a_damaged_file(train, tmp_path, monkeypatch, name, content):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        assert train(out).returncode == 130
    if isinstance(content, bytes):
        (out / name).write_bytes(content)
    else:
        torch.save(content, out / name)
    assert_one_sentence(train(out, "--resume", "--quiet"), f"{out / name} is damaged")


def test_a_run_can_be_resumed_with_another_way_to_save(train, unbroken):
    assert train(unbroken, "--resume", save_every=100, shards=2).returncode == 0


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
    out, start = tmp_path / "run", unbroken / "stage1"
    assert train(out, ckpt=start, tokens=0).returncode == 0
    assert json.loads((out / "recipe.json").read_text())["model"] == {}
    assert [path.name for path in out.glob("stage*")] == ["stage2"]
    assert (out / "stage2" / "tokenizer.model").read_bytes() == (
        start / "tokenizer.model"
    ).read_bytes()
    [first, *_] = log(out)
    assert first["loss"] < 5.9


def test_training_on_begins_with_the_checkpoints_weights(train, unbroken, tmp_path):
    out, start = tmp_path / "run", load_model(unbroken / "stage1", device="cpu")
    changes = {"tokens": 0, "long_learning_rate": 1e-30}
    assert train(out, ckpt=unbroken / "stage1", **changes).returncode == 0
    model = load_model(out / "stage2", device="cpu")
    assert model.config.rope_theta == 1e6
    for name, weight in start.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight), name


def test_a_checkpoint_can_get_more_blocks(train, unbroken, tmp_path):
    out, start = tmp_path / "run", unbroken / "stage1"
    changes = {"tokens": 0, "long_learning_rate": 1e-30, "new_blocks": 1}
    assert train(out, ckpt=start, **changes).returncode == 0
    old, new = load_model(start, device="cpu"), load_model(out / "stage2", device="cpu")
    assert len(new.layers) == len(old.layers) + 1
    old.config = new.config  # whose rotary base is another
    tokens = torch.arange(20)[None]
    assert torch.equal(old(tokens), new(tokens))


def test_what_is_not_asked_for_is_the_checkpoints_own(train, unbroken, tmp_path):
    def configs(name, **changes):
        assert train(tmp_path / name, **changes).returncode == 0
        found = [load_model(tmp_path / name / stage).config for stage in ("stage1", "stage2")]
        return [(config.rope_theta, config.max_seq_len) for config in found]

    start = tmp_path / "start"
    shutil.copytree(unbroken / "stage1", start)
    params = json.loads((start / "params.json").read_text())
    (start / "params.json").write_text(json.dumps({**params, "rope_theta": 5e6}))
    assert configs("sequences", ckpt=start) == [(5e6, 64), (5e6, 128)]
    (start / "params.json").write_text(
        json.dumps({**params, "rope_theta": 2e4, "max_seq_len": 200})
    )
    assert configs("own", ckpt=start) == [(2e4, 200), (1e6, 200)]
    asked = {"theta": 3e4, "context": 90, "long_theta": 4e4}
    assert configs("asked", ckpt=start, **asked) == [(3e4, 90), (4e4, 200)]


def test_training_may_start_between_two_checkpoints(train, unbroken, tmp_path):
    out, ends = tmp_path / "run", [unbroken / "stage1", unbroken / "stage2"]
    changes = {"tokens": 0, "long_learning_rate": 1e-30, "mix_ckpt": ends[1], "mix_share": 0.25}
    assert train(out, ckpt=ends[0], **changes).returncode == 0
    first, second, found = (
        load_model(path, device="cpu", dtype=torch.float32) for path in (*ends, out / "stage2")
    )
    for (name, one), other, mixed in zip(
        first.named_parameters(), second.parameters(), found.parameters(), strict=True
    ):
        assert torch.equal(mixed, one.lerp(other, 0.25).bfloat16().float()), name


def test_the_recipe_says_what_was_asked_for(unbroken, data):
    recipe = json.loads((unbroken / "recipe.json").read_text())
    assert (recipe["data"], recipe["seed"]) == (str(data), 0)
    assert recipe["model"] == SHAPE
    assert recipe["stages"]["stage2"]["rope_theta"] == 1e6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": "/absent"}, "/absent is no directory"),
        ({"pattern": "*.txt"}, "has 0 files *.txt"),
        ({"ckpt": "/absent"}, "/absent"),
        ({"ckpt": "any", "dim": 64}, "--dim is for a new model; any has a shape of its own"),
        ({"vocab_size": 100_000}, "vocabulary of 100000 ids"),
        ({"dim": 33}, "dim 33"),
        ({"dtype": "int3"}, "--dtype is 'int3'"),
        ({"device": "abacus"}, "--device abacus"),
        ({"dtype": "float16"}, "--dtype is float16"),
        ({"new_blocks": 1}, "new_blocks changes a checkpoint; give ckpt as well"),
        ({"mix_ckpt": "/absent"}, "mix_ckpt changes a checkpoint; give ckpt as well"),
        ({"mix_share": 0.5}, "give --mix_ckpt too"),
        ({"tokens": 0, "long_tokens": 0}, "every stage has 0 tokens"),
        ({"tokens": -1}, "stage1: tokens is -1; expected 0 or more"),
        ({"learning_rate": 0}, "stage1: learning_rate is 0.0; expected more than 0"),
        ({"long_learning_rate": 1e30}, "stage2: learning_rate is 1e+30; expected more than 0"),
        ({"warmup_steps": -1}, "warmup_steps is -1; expected 0 or more"),
        ({"theta": 0}, "stage1: rope_theta is 0.0; expected more than 0"),
        ({"long_theta": -1e6}, "stage2: rope_theta is -1000000.0; expected more than 0"),
        ({"context": -1}, "context is -1; expected 0 or more"),
        ({"seed": 10**22}, "expected a whole number of 64 bits"),
        ({"save_every": 0}, "--save_every is 0; expected 1 or more"),
        ({"pattern": "../*.py"}, "expected one of files below the directory"),
        ({"infilling_rate": -0.5}, "infilling_rate is -0.5; expected 0 to 1"),
        ({"line_rate": 1.5}, "line_rate is 1.5; expected 0 to 1"),
        ({"suffix_first_rate": 2.0}, "suffix_first_rate is 2.0; expected 0 to 1"),
        ({"skip_rate": 1.5, "context": 512}, "skip_rate is 1.5; expected 0 to 1"),
        ({"skip_rate": 0.5}, "positions skip in a context longer than a sequence"),
        ({"gap_weight": -1.0}, "gap_weight is -1.0; expected 0 or more"),
    ],
)
def test_bad_options_get_one_sentence_and_exit_code_2(train, tmp_path, changes, says):
    assert_one_sentence(train(tmp_path / "run", **changes), says)


def test_a_run_that_cannot_be_cut_into_shards_can_be_resumed_with_another_number(
    train, unbroken, tmp_path
):
    out = tmp_path / "run"
    for shards in (0, 5):
        done = train(out, shards=shards)
        assert_one_sentence(done, f"{shards} equal slices", "divides 16")
    assert not (out / "state.pt").exists()
    assert train(out, "--resume", shards=2).returncode == 0
    assert log(out) == log(unbroken)
    assert_same_weights(out / "stage2", unbroken / "stage2")


def test_a_start_that_fails_does_not_block_the_one_that_is_put_right(train, unbroken, tmp_path):
    out = tmp_path / "run"
    assert_one_sentence(train(out, shards=5, seed=1), "5 equal slices")
    assert (out / "recipe.json").exists()
    assert train(out).returncode == 0
    assert log(out) == log(unbroken)


@pytest.mark.parametrize("method", ["train_step", "loss"])
def test_a_loss_that_is_no_number_ends_the_run_and_is_not_saved(
    train, tmp_path, monkeypatch, method
):
    out, compute = tmp_path / "run", getattr(Trainer, method)

    def diverged(trainer, *rows):
        return math.nan if trainer.step > 4 else compute(trainer, *rows)

    monkeypatch.setattr(Trainer, method, diverged)
    assert_one_sentence(train(out, "--quiet"), "the loss of stage1 is nan", "smaller learning rate")
    assert run_directory.load_state(out)["trainer"]["step"] == 3
    assert not (out / "stage1").exists()


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
