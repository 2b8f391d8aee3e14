"""The command that measures a model."""

import json
import math
import shutil

import pytest
from commands import run

from codellama.evaluation.perplexity import perplexity
from codellama.training.documents import find_documents, read_document

GIVEN = ("--device", "cpu", "--quiet")


def code(number: int) -> str:
    return "".join(f"def f{number}_{line}(x):\n    return x * {line}\n\n" for line in range(3))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Forty short documents, and as many long ones of another name."""
    directory = tmp_path_factory.mktemp("data")
    for number in range(40):
        (directory / f"module{number}.py").write_text(code(number))
        (directory / f"notes{number}.txt").write_text(code(number) * 40)
    return directory


@pytest.fixture
def evaluate(checkpoint, data):
    """Runs one of the commands on the random checkpoint and the documents above."""

    def evaluate(name, *options):
        return run("evaluate", name, "--ckpt", checkpoint, "--data", data, *GIVEN, *options)

    return evaluate


def figures(done):
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def assert_one_sentence(done, *says):
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for words in says:
        assert words in done.stderr


@pytest.fixture(scope="module")
def held_out(data):
    return [read_document(path) for path in find_documents(data).held_out]


def test_perplexity_is_that_of_the_held_out_documents(evaluate, llm, held_out):
    found = figures(evaluate("perplexity", "--json"))
    expected = perplexity(llm.model, llm.tokenizer, held_out)
    assert found == {
        "files": len(held_out),
        "bytes": sum(len(text.encode()) for text in held_out),
        "tokens": expected.tokens,
        "loss": pytest.approx(expected.loss),
        "perplexity": pytest.approx(expected.perplexity),
        "bits_per_byte": pytest.approx(expected.bits_per_byte),
    }
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))


def test_perplexity_takes_a_context_a_pattern_and_a_number_of_files(evaluate, llm, held_out):
    found = figures(evaluate("perplexity", "--json", "--context", 16, "--files", 1))
    expected = perplexity(llm.model, llm.tokenizer, held_out[:1], context=16)
    assert (found["files"], found["loss"]) == (1, pytest.approx(expected.loss))
    longer = figures(evaluate("perplexity", "--json", "--pattern", "*.txt", "--files", 1))
    assert longer["bytes"] > 15 * found["bytes"]


def test_positions_gives_the_loss_of_each_range(evaluate):
    given = ("--json", "--pattern", "*.txt", "--length", 600)
    found = figures(evaluate("positions", *given, "--sequences", 2))
    assert list(found) == ["sequences", "loss"]
    assert found["sequences"] == 2
    assert list(found["loss"]) == ["0-128", "128-256", "256-512", "512-600"]
    assert all(loss > 0 for loss in found["loss"].values())


def test_infilling_gives_the_share_of_lines_in_both_orders(evaluate):
    found = figures(evaluate("infilling", "--json", "--lines", 4, "--context", 32))
    assert list(found) == ["lines", "psm_exact_match", "spm_exact_match"]
    assert found["lines"] == 4
    assert 0 <= found["psm_exact_match"] <= 1
    assert 0 <= found["spm_exact_match"] <= 1


@pytest.mark.parametrize(
    ("name", "options", "most"),
    [("perplexity", ("--context", 129), 128), ("infilling", ("--lines", 40), 64)],
)
def test_a_context_that_the_model_has_no_room_for_is_cut_and_that_is_said(
    data, checkpoint, tmp_path, name, options, most
):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    params = json.loads((model / "params.json").read_text())
    (model / "params.json").write_text(json.dumps({**params, "max_seq_len": 128}))
    given = ("--ckpt", model, "--data", data, "--pattern", "*.txt", *GIVEN, "--json", *options)
    cut = run("evaluate", name, *given)
    assert f"more than the model has room for; taken as {most}\n" in cut.stderr
    asked = run("evaluate", name, *given, "--context", most)
    assert json.loads(cut.stdout) == figures(asked)


def test_documents_without_a_line_to_ask_for_are_refused(evaluate, monkeypatch):
    monkeypatch.setattr("codellama.evaluate.gaps", lambda *_: [])
    assert_one_sentence(evaluate("infilling"), "no line of the held-out documents", "--data")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("perplexity", ()),
        ("positions", ("--pattern", "*.txt", "--length", 512)),
        ("infilling", ("--lines", 2, "--context", 16)),
    ],
)
def test_without_json_each_figure_has_a_line_of_its_own(evaluate, name, options):
    found = figures(evaluate(name, *options, "--json"))
    found = found["loss"] if name == "positions" else found
    lines = evaluate(name, *options).stdout.splitlines()
    assert len(lines) == len(found)
    for line, (key, value) in zip(lines, found.items(), strict=True):
        assert line.startswith(key.replace("_", " "))
        assert float(line.split()[-1].replace(",", "")) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("arguments", [(), ("accuracy",), ("--ckpt", "perplexity"), ("evaluate",)])
def test_an_unknown_command_is_refused_with_those_there_are(arguments):
    done = run("evaluate", *arguments)
    found = arguments[0] if arguments else "nothing"
    assert_one_sentence(done, "perplexity, positions, infilling", found)


@pytest.mark.parametrize("name", ["perplexity", "positions", "infilling"])
def test_every_command_lists_its_options(name, capsys):
    done = run("evaluate", name, "--help")
    assert done.returncode == 0
    shown = done.stdout + done.stderr + "".join(capsys.readouterr())
    for option in ("--ckpt", "--data", "--json"):
        assert option in shown


@pytest.mark.parametrize("name", ["perplexity", "positions", "infilling"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--data", "/absent"), "/absent is no directory"),
        (("--ckpt", "/absent"), "/absent: no such directory"),
        (("--pattern", "*.md"), "has 0 files *.md"),
        (("--pattern", "../*.py"), "expected one of files below the directory"),
        (("--device", "abacus"), "--device abacus"),
        (("--lenght", 3), "unknown option --lenght"),
    ],
)
def test_bad_options_get_one_sentence_and_exit_code_2(evaluate, name, options, says):
    assert_one_sentence(evaluate(name, *options), says)


def test_a_length_without_several_ranges_is_refused(evaluate):
    assert_one_sentence(evaluate("positions", "--length", 256), "--length is 256", "512")


def test_documents_too_short_for_the_length_are_refused(evaluate):
    assert_one_sentence(evaluate("positions"), "16384 tokens", "--length")
