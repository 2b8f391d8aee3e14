"""The command that measures a model."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import assert_one_sentence, run

from codellama.cli import CheckpointArguments
from codellama.errors import RequestError
from codellama.evaluation import paper, problems
from codellama.evaluation.execution import Execution
from codellama.evaluation.perplexity import perplexity
from codellama.evaluation.texts import Texts
from codellama.weights.variants import VARIANTS

PROBLEMS = Path(__file__).parent / "evaluation" / "problems.jsonl"
MBPP = Path(__file__).parent / "evaluation" / "mbpp.jsonl"
GIVEN = ("--device", "cpu", "--quiet")
COMMANDS = ["perplexity", "positions", "infilling", "key_retrieval", "compare"]
NAMES = [*COMMANDS, "humaneval", "mbpp"]


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
    """Runs a command on the random checkpoint, and on the documents where it takes any."""

    def evaluate(name, *options):
        files = ("--data", data) if name in COMMANDS else ()
        return run("evaluate", name, "--ckpt", checkpoint, *files, *GIVEN, *options)

    return evaluate


@pytest.fixture
def confined():
    try:
        Execution(execute=True).check()
    except RequestError as error:
        pytest.skip(str(error))


def figures(done):
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_perplexity_is_that_of_the_files(evaluate, llm, data):
    found = figures(evaluate("perplexity", "--json"))
    texts = Texts((str(data),)).read()
    expected = perplexity(llm, texts)
    assert found == pytest.approx(expected)
    assert list(found) == ["files", "bytes", "tokens", "loss", "perplexity", "bits_per_byte"]
    assert found["bytes"] == sum(len(text.encode()) for text in texts.values())


def test_perplexity_takes_a_context_a_pattern_and_a_number_of_files(evaluate, llm, data):
    found = figures(evaluate("perplexity", "--json", "--context", 16, "--limit", 1))
    expected = perplexity(llm, Texts((str(data),)).read(1), 16)
    assert (found["files"], found["loss"]) == (1, pytest.approx(expected["loss"]))
    held_out = figures(evaluate("perplexity", "--json", "--held_out"))
    assert 0 < held_out["files"] < 10


def test_a_second_start_goes_on_and_another_models_file_is_refused(evaluate, tmp_path, data):
    path = tmp_path / "results.jsonl"
    given = ("perplexity", "--json", "--results", path)
    first = figures(evaluate(*given, "--limit", 2))
    assert len(path.read_text().splitlines()) == 2
    path.write_text(path.read_text().replace('"sums": [', '"sums": [1'))  # is believed
    assert figures(evaluate(*given, "--limit", 2))["bytes"] > first["bytes"]
    assert figures(evaluate(*given, "--limit", 3))["files"] == 3
    assert_one_sentence(evaluate(*given, "--dtype", "bfloat16"), "is a result of", "bfloat16")
    assert_one_sentence(evaluate(*given, "--context", 64), "is a result of", "context=64")


def test_positions_gives_the_loss_of_each_range(evaluate, tmp_path):
    given = ("positions", "--pattern", "*.txt", "--length", 600, "--limit", 2)
    picture = tmp_path / "loss.png"
    found = figures(evaluate(*given, "--json", "--plot", picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(found) == ["sequences", "loss"]
    assert found["sequences"] == 2
    assert list(found["loss"]) == ["0-128", "128-256", "256-512", "512-600"]
    assert all(loss > 0 for loss in found["loss"].values())


def test_infilling_gives_the_share_of_lines_in_both_orders(evaluate):
    given = ("--json", "--limit", 4, "--context", 32, "--max_new_tokens", 8)
    found = figures(evaluate("infilling", *given))
    assert list(found) == ["tasks", "psm_exact_match", "spm_exact_match"]
    assert found["tasks"] == 4
    assert 0 <= found["psm_exact_match"] <= 1


def test_a_context_that_the_model_has_no_place_for_is_cut(data, checkpoint, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    params = json.loads((model / "params.json").read_text())
    (model / "params.json").write_text(json.dumps({**params, "max_seq_len": 128}))
    given = ("--ckpt", model, "--data", data, "--pattern", "*.txt", *GIVEN, "--json", "--limit", 2)
    asked = [run("evaluate", "perplexity", *given, "--context", n) for n in (128, 999)]
    assert figures(asked[0]) == figures(asked[1])
    listed = run("evaluate", "infilling", *given, "--list", "--context", 999)
    assert len(listed.stdout.splitlines()) == 2


@pytest.mark.parametrize("kind", ["single_line", "multi_line", "random_span"])
def test_tasks_are_listed_in_the_published_format_and_read_again(evaluate, tmp_path, kind):
    given = ("infilling", "--tasks", kind, "--list")
    lines = evaluate(*given, "--problems", PROBLEMS).stdout.splitlines()
    programs = [task.prefix + task.solution for task in problems.humaneval(PROBLEMS)]
    for task in map(json.loads, lines):
        assert task["prompt"] + task["canonical_solution"] + task["suffix"] in programs
    published = tmp_path / "published.jsonl"
    published.write_text("\n".join(lines))
    assert evaluate(*given, "--problems", published).stdout.splitlines() == lines


def test_key_retrieval_gives_a_share_for_each_cell(evaluate, tmp_path):
    picture = tmp_path / "cells.png"
    given = ("--length", [200, 300], "--position", 0.5, "--examples", 2)
    done = evaluate("key_retrieval", *given, "--json", "--plot", picture, "--rope_theta", 1e5)
    assert list(figures(done)) == ["200/0.5", "300/0.5"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert_one_sentence(evaluate("key_retrieval", "--length", 16_000), "16,000", "more files")
    assert_one_sentence(evaluate("key_retrieval", "--length", 10**6), "length is 1,000,000")


def test_compare_has_a_row_for_each_form(evaluate, checkpoint):
    given = ("--limit", 2, "--form", ["kv_int8", str(checkpoint)])
    found = figures(evaluate("compare", *given, "--json"))
    assert list(found) == ["itself", "kv_int8", str(checkpoint)]
    assert found["itself"]["kl_divergence"] == found[str(checkpoint)]["kl_divergence"] == 0
    assert 0 < found["kv_int8"]["kl_divergence"] < 0.1
    assert len(evaluate("compare", *given).stdout.splitlines()) == 3 * 3


class Stub:
    """A model that writes the solutions of tasks, or nothing of use."""

    def __init__(self, llm, tasks, solves):
        self.model, self.tokenizer = llm.model, llm.tokenizer
        self.solutions = {str(task.prefix): task.solution if solves else "" for task in tasks}

    def complete(self, prompts, **_):
        return [SimpleNamespace(text=self.solutions[str(prompt)]) for prompt in prompts]

    def infill(self, pairs, suffix_first, **_):
        return self.complete([prefix for prefix, _ in pairs])


@pytest.mark.parametrize("solves", [True, False])
def test_a_model_that_solves_all_or_nothing_gets_100_or_0_percent(
    evaluate, llm, monkeypatch, tmp_path, solves, confined
):
    stub = Stub(llm, problems.humaneval(PROBLEMS), solves)
    monkeypatch.setattr(CheckpointArguments, "load", lambda *_: stub)
    given = ("humaneval", "--problems", PROBLEMS, "--json")
    expected = {"problems": 4, "samples": 4, "pass@1": float(solves)}
    assert figures(evaluate(*given, "--execute")) == expected
    written = tmp_path / "completions.jsonl"
    assert figures(evaluate(*given, "--results", written)) == {"completions": 4}
    assert figures(evaluate(*given, "--results", written, "--execute")) == expected
    monkeypatch.setattr(CheckpointArguments, "load", None)  # scoring needs no model
    verdicts = tmp_path / "verdicts.jsonl"
    for _ in range(2):
        scored = evaluate(*given, "--score", written, "--execute", "--results", verdicts)
        assert figures(scored) == expected
    assert [bool(json.loads(line)["reason"]) for line in verdicts.open()] == [not solves] * 4
    written.write_text(2 * written.read_text())
    limited = evaluate(*given, "--score", written, "--execute", "--limit", 3)
    assert figures(limited) == expected | {"problems": 3, "samples": 6}


@pytest.mark.parametrize("solves", [True, False])
def test_infilling_runs_the_tests_where_there_are_any(evaluate, llm, monkeypatch, solves, confined):
    given = ("infilling", "--tasks", "multi_line", "--problems", PROBLEMS, "--limit", 6, "--json")
    lines = map(json.loads, evaluate(*given, "--list").stdout.splitlines())
    tasks = [SimpleNamespace(prefix=t["prompt"], solution=t["canonical_solution"]) for t in lines]
    stub = Stub(llm, tasks[::-1], solves)  # of blocks with one beginning the first listed
    monkeypatch.setattr(CheckpointArguments, "load", lambda *_: stub)
    found = figures(evaluate(*given, "--execute"))
    assert list(found) == [
        "tasks",
        *(f"{order}_{what}" for order in ("psm", "spm") for what in ("exact_match", "pass@1")),
    ]
    assert (found["psm_pass@1"] > 0) == solves


class SuffixFirst(Stub):
    """Solves nothing but what it is shown the suffix of first."""

    def infill(self, pairs, suffix_first, **_):
        written = super().infill(pairs, suffix_first)
        return written if suffix_first else [SimpleNamespace(text="")] * len(written)


def test_the_orders_of_infilling_are_told_apart(evaluate, llm, monkeypatch, confined):
    given = ("infilling", "--problems", PROBLEMS, "--json")
    lines = map(json.loads, evaluate(*given, "--list").stdout.splitlines())
    tasks = [SimpleNamespace(prefix=t["prompt"], solution=t["canonical_solution"]) for t in lines]
    monkeypatch.setattr(CheckpointArguments, "load", lambda *_: SuffixFirst(llm, tasks, True))
    found = figures(evaluate(*given, "--execute"))
    orders = {key: value for key, value in found.items() if key != "tasks"}
    assert orders == {
        "psm_exact_match": 0, "psm_pass@1": 0, "spm_exact_match": 1, "spm_pass@1": 1
    }  # fmt: skip


def test_mbpp_is_written_and_scored(evaluate, llm, monkeypatch, confined):
    given = ("mbpp", "--problems", MBPP, "--max_new_tokens", 4, "--execute", "--json")
    for more in ((), ("--num_samples", 2, "--temperature", 0.8), ("--chat",)):
        assert figures(evaluate(*given, *more))["pass@1"] == 0
    few, none = problems.mbpp(MBPP), problems.mbpp(MBPP, chat=True)
    for tasks, more in ((few, ()), (none, ("--chat",))):
        asked = [SimpleNamespace(prefix=t.prompt, solution=t.solution) for t in tasks]
        stub = Stub(llm, asked, True)
        stub.chat = stub.complete
        monkeypatch.setattr(CheckpointArguments, "load", lambda *_, stub=stub: stub)
        assert figures(evaluate(*given, *more))["pass@1"] == 1


def test_an_instruct_model_is_asked_for_a_function_in_a_chat(evaluate, llm, monkeypatch, confined):
    asked = problems.humaneval(PROBLEMS, chat=True)
    answers = [
        SimpleNamespace(
            prefix=task.prompt,
            solution=f"Sure.\n\n```python\n{task.prefix}{task.solution}```\nIt does as asked.",
        )
        for task in asked
    ]
    stub = Stub(llm, answers, True)
    stub.chat, stub.complete = stub.complete, None
    monkeypatch.setattr(CheckpointArguments, "load", lambda *_: stub)
    given = ("humaneval", "--chat", "--problems", PROBLEMS, "--json", "--execute")
    assert figures(evaluate(*given))["pass@1"] == 1


def test_the_papers_figures_stand_beside(evaluate, llm, monkeypatch, confined):
    monkeypatch.setattr(paper, "matching", lambda _: [VARIANTS["CodeLlama-7b"]])
    stub = Stub(llm, problems.humaneval(PROBLEMS), True)
    monkeypatch.setattr(CheckpointArguments, "load", lambda *_: stub)
    shown = evaluate("humaneval", "--problems", PROBLEMS, "--execute").stdout
    assert re.search(r"pass@1 +100\.0 %  33\.5 \(Table 2\)", shown)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "--execute allows it"),
        (("--score", PROBLEMS, "--results", "x"), "--execute allows it"),
        (("--execute", "--problems", "/absent"), "/absent: No such file"),
        (("--execute", "--timeout", -1), "timeout"),
        (("--execute", "--score", MBPP), "task_id is '1'; expected that of a problem"),
    ],
)
def test_programs_run_where_that_was_asked_for_alone(evaluate, options, says, confined):
    given = () if "--problems" in options else ("--problems", PROBLEMS)
    assert_one_sentence(evaluate("humaneval", *given, *options), says)


@pytest.mark.parametrize(
    ("name", "options"),
    [("perplexity", ()), ("infilling", ("--limit", 2, "--context", 16, "--max_new_tokens", 4))],
)
def test_without_json_each_figure_has_a_line_of_its_own(evaluate, name, options):
    found = figures(evaluate(name, *options, "--json"))
    lines = evaluate(name, *options).stdout.splitlines()
    assert len(lines) == len(found)
    for line, (key, value) in zip(lines, found.items(), strict=True):
        assert line.startswith(key.replace("_", " "))
        share = 0.01 if line.endswith("%") else 1
        assert float(line.removesuffix(" %").split()[-1].replace(",", "")) * share == pytest.approx(
            value, abs=1e-3
        )


@pytest.mark.parametrize("arguments", [(), ("accuracy",), ("--ckpt", "perplexity"), ("evaluate",)])
def test_an_unknown_command_is_refused_with_those_there_are(arguments):
    done = run("evaluate", *arguments)
    found = arguments[0] if arguments else "nothing"
    assert_one_sentence(done, "perplexity, positions, infilling", found)


@pytest.mark.parametrize("name", NAMES)
def test_every_command_lists_its_options(name):
    done = run("evaluate", name, "--help")
    assert done.returncode == 0
    for option in ("--ckpt", "--limit", "--json", "--results"):
        assert option in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--data", "/absent"), "/absent"),
        (("--ckpt", "/absent"), "/absent is no directory"),
        (("--pattern", "*.md"), "no text in 0 files *.md"),
        (("--limit", -1), "limit is -1; expected a whole number from 0"),
        (("--plot", "x.txt"), "x.txt: expected a name"),
        (("--device", "abacus"), "abacus"),
        (("--lenght", 3), "unknown option --lenght"),
    ],
)
def test_bad_options_get_one_sentence_and_exit_code_2(checkpoint, data, name, options, says):
    given = {"--ckpt": checkpoint, "--data": data, **dict([options])}
    assert_one_sentence(
        run("evaluate", name, *(part for pair in given.items() for part in pair)), says
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("positions", "--length", 256), "length is 256; expected a whole number from 512"),
        (("positions",), "fewer than 16384 tokens"),
        (
            ("infilling", "--tasks", "words"),
            "tasks is 'words'; expected one of single_line, multi_line, random_span",
        ),
        (("compare", "--form", "int3"), "int3 is no directory"),
        (("infilling", "--tasks", "multi_line"), "--tasks multi_line needs --problems"),
        (("infilling", "--execute"), "--execute needs --problems"),
        (("mbpp", "--execute"), "mbpp.jsonl: No such file"),
    ],
)
def test_what_cannot_be_measured_is_refused(evaluate, arguments, says):
    assert_one_sentence(evaluate(*arguments), says)
