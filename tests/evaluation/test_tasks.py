"""HumanEval and MBPP from published files, from the model's text to pass@k."""

import gzip
import json
import random
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from types import SimpleNamespace

import pytest

from codellama.errors import DataError, RequestError
from codellama.evaluation import problems
from codellama.evaluation.execution import Execution, run_programs
from codellama.evaluation.results import Results
from codellama.evaluation.tasks import Sampling, complete, pass_at_k, pass_rates, score

HERE = Path(__file__).parent
HUMAN_EVAL = problems.humaneval(HERE / "problems.jsonl")
MBPP = problems.mbpp(HERE / "mbpp.jsonl")


@pytest.fixture(scope="module", autouse=True)
def confined():
    try:
        Execution(execute=True).check()
    except RequestError as error:
        pytest.skip(str(error))


class Writer:
    """Stands for a model that writes each task's solution, or nothing of use."""

    def __init__(self, tasks, solves):
        self.solutions = {str(task.prompt or task.prefix): task.solution for task in tasks}
        self.solves = solves
        self.options = []

    def complete(self, prompts, num_samples=1, **options):
        self.options.append({"num_samples": num_samples, **options})
        texts = [self.solutions[str(p)] if self.solves else "    pass" for p in prompts]
        return [SimpleNamespace(text=text) for text in texts for _ in range(num_samples)]

    def chat(self, dialogs, **options):
        answers = self.complete(dialogs, **options)
        return [SimpleNamespace(text=f"Sure: [PYTHON]\n{one.text}\n") for one in answers]


@pytest.mark.parametrize("tasks", [HUMAN_EVAL, MBPP, problems.mbpp(HERE / "mbpp.jsonl", True)])
@pytest.mark.parametrize("solves", [True, False])
def test_a_model_that_solves_all_or_nothing_gets_100_or_0_percent(tasks, solves):
    written = complete(Writer(tasks, solves), tasks, Sampling())
    scored = score(tasks, written)
    assert pass_rates(scored) == {"pass@1": float(solves)}
    assert [record["task_id"] for record in scored] == [task.task_id for task in tasks]


def test_samples_and_stop_strings_are_asked_for():
    llm = Writer(HUMAN_EVAL, True)
    sampling = Sampling(num_samples=2, temperature=0.8, batch_size=1, stop=("x",))
    written = complete(llm, HUMAN_EVAL, sampling)
    assert [record["sample"] for record in written] == [0, 1] * len(HUMAN_EVAL)
    assert len(llm.options) == len(HUMAN_EVAL) / 2  # four batches of one row, two samples a task
    for options in llm.options:
        assert (options["temperature"], options["seed"]) == (0.8, 0)
        assert options["stop"] == ("x", *problems.STOP)


def test_each_task_has_its_own_stop_strings():
    llm = Writer(HUMAN_EVAL, True)
    tasks = [replace(task, stop=(str(n % 2),)) for n, task in enumerate(HUMAN_EVAL)]
    written = complete(llm, tasks, Sampling())
    assert [options["stop"] for options in llm.options] == [("0",), ("1",)]
    assert [record["task_id"] for record in written] == [task.task_id for task in tasks]


def test_what_is_there_is_not_written_again(tmp_path):
    path = tmp_path / "completions.jsonl"
    complete(Writer(HUMAN_EVAL, True), HUMAN_EVAL[:2], Sampling(), Results(path, "a"))
    llm = Writer(HUMAN_EVAL[2:], True)
    seen = []
    results = Results(path, "a", lambda *state: seen.append(state))
    written = complete(llm, HUMAN_EVAL, Sampling(), results)
    assert [record["task_id"] for record in written] == [task.task_id for task in HUMAN_EVAL]
    assert seen == [(4, 4)]
    lines = path.read_text().splitlines()
    assert [json.loads(line)["completion"] for line in lines] == [t.solution for t in HUMAN_EVAL]


@pytest.mark.parametrize(("samples", "correct"), [(3, 0), (3, 1), (5, 2), (6, 5), (7, 7), (4, 0)])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_at_k_is_the_share_of_draws_of_k_with_a_correct_one(samples, correct, k):
    marks = [number < correct for number in range(samples)]
    share = sum(any(draw) for draw in combinations(marks, k)) / comb(samples, k)
    assert pass_at_k(samples, correct, k) == pytest.approx(share)


def test_pass_rates_by_hand():
    def scored(task, marks):
        return [{"task_id": task, "passed": mark} for mark in marks]

    ten = scored("a", [True] * 2 + [False] * 8) + scored("b", [False] * 10)
    random.Random(0).shuffle(ten)
    assert pass_rates(ten) == pytest.approx({"pass@1": 0.1, "pass@10": 0.5})
    assert pass_rates(scored("a", [True] * 10) + scored("b", [False])) == {"pass@1": 0.5}


def test_completions_of_other_programs_can_be_scored():
    lines = [{"task_id": "11", "completion": "def sum(a, b): return a + b"}] * 2
    assert [r["sample"] for r in score(MBPP, lines)] == [0, 1]
    for line in ({"task_id": "99", "completion": ""}, {"task_id": "11"}, {"completion": "x"}):
        with pytest.raises(DataError, match="no completion of one of these tasks"):
            score(MBPP, [line])


def test_a_verdict_is_of_one_program_and_timeout(tmp_path):
    path = tmp_path / "verdicts.jsonl"

    def passes(body, timeout=10.0):
        line = {"task_id": "11", "completion": f"def sum(a, b): return {body}"}
        [verdict] = score(MBPP, [line], Execution(timeout=timeout), Results(path))
        return verdict["passed"]

    assert [passes("a + b"), passes("a - b"), passes("a + b")] == [True, False, True]
    assert len(path.read_text().splitlines()) == 2
    passes("a + b", timeout=9)
    assert len(path.read_text().splitlines()) == 3


def test_problems_are_read_plain_or_compressed(tmp_path):
    path = tmp_path / "problems.jsonl.gz"
    path.write_bytes(gzip.compress((HERE / "problems.jsonl").read_bytes()))
    assert problems.humaneval(path) == HUMAN_EVAL
    lines = (HERE / "mbpp.jsonl").read_text().split("\n")
    listed = tmp_path / "sanitized-mbpp.json"
    listed.write_text(f"[{','.join(filter(None, lines))}]")
    assert problems.mbpp(listed) == MBPP


@pytest.mark.parametrize("read", [problems.humaneval, problems.mbpp])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b'{"task_id": 1'),
        ("a.jsonl", b'{"task_id": 1, "prompt": "x"}'),
        ("a.jsonl", b"[1]"),
        ("a.jsonl", b""),
        ("a.jsonl", b"\xff"),
        ("a.gz", b"{}"),
        ("a.gz", gzip.compress(b"{}{}", mtime=0)[:-4]),
    ],
)
def test_files_of_another_format_are_refused(tmp_path, read, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*expected"):
        read(tmp_path / name)


def test_mbpp_has_three_solved_problems_before_the_one_asked_for():
    assert [task.task_id for task in MBPP] == ["11", "12"]
    prompt = MBPP[0].prompt
    assert prompt.count("[DONE]") == 3
    assert prompt.count("[BEGIN]") == 4
    assert prompt.endswith("assert math.isclose(sum(0.1, 0.2), 0.3)\n[BEGIN]\n")
    [message] = problems.mbpp(HERE / "mbpp.jsonl", zero_shot=True)[0].prompt
    assert message["content"].startswith(
        "You are an expert Python programmer, and here is your task: Write a sum.\n"
        "Your code should pass these tests:\n\nassert sum(1, 2) == 3\n"
    )
    assert message["content"].endswith("end with a [/PYTHON] tag.")


def test_mbpp_without_problems_to_show_is_refused(tmp_path):
    lines = (HERE / "mbpp.jsonl").read_text().splitlines(keepends=True)
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(lines[1:]))
    with pytest.raises(DataError, match="2 below"):
        problems.mbpp(path)
    assert len(problems.mbpp(path, zero_shot=True)) == 2


@pytest.mark.parametrize(
    "text", ["x = 1\n", "So:\n[PYTHON]\nx = 1\n", "A\n```python\nx = 1\n```\nB"]
)
def test_the_program_is_taken_out_of_an_answer(text):
    assert problems.extract(text).strip() == "x = 1"


@pytest.fixture(scope="module")
def published():
    try:
        return problems.humaneval()
    except DataError as error:
        pytest.skip(str(error))


def test_every_eighth_published_solution_passes_and_its_empty_body_does_not(published):
    assert len(published) == 164
    some = published[::8]
    assert not any(run_programs([task.job(task.solution) for task in some]))
    assert all(run_programs([task.job("    pass\n") for task in some]))
