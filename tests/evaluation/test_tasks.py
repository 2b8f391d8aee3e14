"""HumanEval and MBPP from published files, from the model's text to pass@k."""

import gzip
import json
import random
import re
import warnings
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from types import SimpleNamespace

import pytest

from codellama import CodeLlama
from codellama.errors import DataError, RequestError
from codellama.evaluation import problems
from codellama.evaluation.execution import Execution, run_programs
from codellama.evaluation.results import Results
from codellama.evaluation.tasks import (
    Sampling,
    check_tests,
    complete,
    extract,
    pass_at_k,
    pass_rates,
    read_completions,
    score,
)

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


def test_completions_of_other_programs_can_be_scored(tmp_path):
    path = tmp_path / "completions.jsonl"
    lines = [
        {"task_id": one, "completion": "import math\ndef sum(a, b): return a + b"}
        for one in ("11", 11)
    ]
    lines.append({"task_id": 12, "passed": False, "reason": "a verdict"})
    path.write_text("\n".join(map(json.dumps, lines)))
    verdicts = score(MBPP, read_completions(path, MBPP))
    assert [(r["task_id"], r["sample"], r["passed"]) for r in verdicts] == [
        ("11", 0, True),
        ("11", 1, True),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty; expected JSON objects"),
        ("\n\n", "is empty"),
        ('{"task_id": 11, "completion": ""}\n\n{"task_id": 11}', "line 3: completion is missing"),
        ('{"task_id": "11", "completion": null}', "line 1: completion is None; expected a text"),
        ('{"completion": "x"}', "line 1: task_id is missing"),
        ('{"task_id": 1.5, "completion": "x"}', "line 1: task_id is 1.5"),
        ('{"task_id": 99, "completion": "x"}', "line 1: task_id is '99'; expected that of"),
        ('{"task_id": 11, "completion": "x"}\n{"task', "line 2: Unterminated string"),
        ('[{"task_id": 11, "completion": "x"}, 7]', "entry 2: "),
        ('{"task_id": 11, "passed": true, "reason": ""}', "holds no completion"),
    ],
)
def test_a_file_that_holds_no_completions_is_told_by_line_and_key(tmp_path, content, says):
    path = tmp_path / "completions.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=re.escape(f"{path.name}")) as error:
        read_completions(path, MBPP)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_changed_problem_is_asked_anew_and_its_old_completion_not_scored(tmp_path):
    path = tmp_path / "completions.jsonl"
    complete(Writer(HUMAN_EVAL, False), HUMAN_EVAL, Sampling(), Results(path, "a"))
    changed = [replace(HUMAN_EVAL[0], prefix=f"# {HUMAN_EVAL[0].prefix}"), *HUMAN_EVAL[1:]]
    llm = Writer(changed[:1], True)
    written = complete(llm, changed, Sampling(), Results(path, "a"))
    assert [record["completion"] for record in written] == [
        changed[0].solution,
        *["    pass"] * (len(changed) - 1),
    ]
    read = read_completions(path, changed)
    assert len(read) == len(changed)
    assert {record["completion"] for record in read if record["task_id"] == "Own/0"} == {
        changed[0].solution
    }


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ("import absent_package\nassert True", "'import absent_package' raises ModuleNotFoundErr"),
        ("def check(f):\n  from math import absent", "'from math import absent' raises ImportErr"),
        ("def check(f:\n  pass", "is not Python: '(' was never closed"),
    ],
)
def test_a_test_that_cannot_run_is_an_error_and_no_verdict(test, says, tmp_path):
    tasks = [replace(HUMAN_EVAL[0], test=test)]
    with pytest.raises(DataError, match="Own/0") as error:
        score(tasks, [{"task_id": "Own/0", "completion": ""}], results=Results(tmp_path / "x"))
    assert says in str(error.value)
    assert not (tmp_path / "x").read_text()


def test_what_a_test_tries_to_import_may_be_absent():
    test = "try:\n  import absent_package\nexcept ImportError:\n  pass\nassert add(1, 2) == 3"
    task = replace(HUMAN_EVAL[0], test=test)
    assert score([task], [{"task_id": "Own/0", "completion": task.solution}])[0]["passed"]


def test_tests_that_import_numpy_run():
    task = replace(
        HUMAN_EVAL[0],
        test="import numpy as np\n\ndef check(f):\n  assert np.allclose(f(np.ones(2), 1), [2, 2])\n"
        "\ncheck(add)",
    )
    written = [{"task_id": "Own/0", "completion": text} for text in (task.solution, "  return a")]
    assert [verdict["passed"] for verdict in score([task], written)] == [True, False]


def test_samples_that_are_the_same_and_options_without_effect_are_told():
    with pytest.warns(UserWarning, match="num_samples without effect"):
        Sampling(num_samples=3)
    with pytest.warns(UserWarning, match="top_k without effect"):
        Sampling(top_k=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Sampling(num_samples=3, top_k=5, temperature=0.8)
        Sampling(seed=3)
        complete(CodeLlama.load(), HUMAN_EVAL[:1], Sampling(max_new_tokens=1))


def test_a_verdict_is_of_one_program_and_timeout(tmp_path):
    path = tmp_path / "verdicts.jsonl"

    def passes(body, timeout=10.0):
        line = {"task_id": "11", "completion": f"import math\ndef sum(a, b): return {body}"}
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


@pytest.mark.parametrize("read", [problems.humaneval, problems.mbpp])
def test_two_problems_of_one_id_are_refused(tmp_path, read):
    name = "problems.jsonl" if read is problems.humaneval else "mbpp.jsonl"
    first, *rest = (HERE / name).read_text().splitlines()
    path = tmp_path / name
    path.write_text("\n".join([first, *rest, first]))
    with pytest.raises(DataError, match=rf"line {len(rest) + 2}: task_id .*, line 1 too"):
        read(path)


def test_mbpp_has_three_solved_problems_before_the_one_asked_for():
    assert [task.task_id for task in MBPP] == ["11", "12"]
    prompt = MBPP[0].prompt
    assert prompt.count("[DONE]") == 3
    assert prompt.count("[BEGIN]") == 4
    assert prompt.endswith("assert math.isclose(sum(0.1, 0.2), 0.3)\n[BEGIN]\n")
    [message] = problems.mbpp(HERE / "mbpp.jsonl", chat=True)[0].prompt
    assert message["content"].startswith(
        "You are an expert Python programmer, and here is your task: Write a sum.\n"
        "Your code should pass these tests:\n\nassert sum(1, 2) == 3\n"
    )
    assert message["content"].endswith("end with a [/PYTHON] tag.")


def test_a_request_in_words_is_a_message_as_it_is(tmp_path, confined):
    record = {
        "task_id": "1",
        "prompt": "Write f, which doubles x.",
        "entry_point": "f",
        "canonical_solution": "```python\ndef f(x):\n    return 2 * x\n```",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }
    path = tmp_path / "requests.jsonl"
    path.write_text(json.dumps(record))
    [task] = problems.humaneval(path, chat=True)
    assert task.prompt == ({"role": "user", "content": record["prompt"]},)
    [verdict] = score([task], [{"task_id": "1", "completion": f"Sure.\n\n{task.solution}"}])
    assert verdict["passed"]


def test_mbpp_without_problems_to_show_is_refused(tmp_path):
    lines = (HERE / "mbpp.jsonl").read_text().splitlines(keepends=True)
    path = tmp_path / "mbpp.jsonl"
    path.write_text("".join(lines[1:]))
    with pytest.raises(DataError, match="2 below"):
        problems.mbpp(path)
    assert len(problems.mbpp(path, chat=True)) == 2


BODY = "    return a + b\n"
WHOLE = f'def add(a, b):\n    """ Markdown:\n\n    ```python\n    x\n    ```\n    """\n{BODY}'


@pytest.mark.parametrize(
    "code", [BODY, WHOLE, f"    x = '```'\n{BODY}", f"    # not a ``` fence\n{BODY}"]
)
@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "```python\n{}```",
        "```\n{}```\n",
        "Sure, here it is:\n\n```py\n{}```\nIt adds `a` and `b`.\n",
        "```Python 3\n{}\n```",
        "So:\n~~~\n{}~~~",
        "````python\n{}````",
        "Install it:\n```bash\npip install numpy\n```\nThen:\n```python\n{}```\nDone.",
        "```python\n{}```\nFor example:\n```python\nadd(1, 2)\n```",
        "```python\n{}",
        "It is [PYTHON]\n{}[/PYTHON] as asked.",
        "[PYTHON]\n```python\n{}```\n[/PYTHON]",
    ],
)
def test_code_is_taken_out_of_an_answer_and_plain_code_stays(answer, code):
    task = HUMAN_EVAL[0]
    found = extract(answer.format(code), task.prefix)
    assert found == answer.format(code) if answer == "{}" else found.strip("\n") == code.strip("\n")
    assert score([task], [{"task_id": task.task_id, "completion": answer.format(code)}])[0][
        "passed"
    ]


def test_code_that_is_indented_with_its_fences_is_moved_back():
    assert extract("1. So:\n\n   ```python\n   x = 1\n   ```\n").strip() == "x = 1"


@pytest.mark.parametrize("text", ["    return ``", "no code at all", "", "x = (1\n"])
def test_what_has_no_fences_stays_as_it_is(text):
    assert extract(text, HUMAN_EVAL[0].prefix) == text


@pytest.mark.parametrize("tasks", [HUMAN_EVAL, MBPP])
def test_fenced_answers_pass(tasks):
    written = [
        {"task_id": task.task_id, "completion": f"So:\n```\n{task.solution}\n```\nDone."}
        for task in tasks
    ]
    assert pass_rates(score(tasks, written)) == {"pass@1": 1.0}


@pytest.fixture(scope="module")
def published():
    try:
        return problems.humaneval()
    except DataError as error:
        pytest.skip(str(error))


def test_every_fortieth_published_solution_passes_and_its_empty_body_does_not(published):
    assert len(published) == 164
    some = published[::40]
    assert not any(run_programs([task.job(task.solution) for task in some]))
    assert all(run_programs([task.job("    pass\n") for task in some]))


@pytest.mark.slow
def test_every_published_solution_passes_and_no_empty_body_does(published):
    check_tests(published, Execution())
    assert not any(run_programs([task.job(task.solution) for task in published]))
    assert all(run_programs([task.job("    pass\n") for task in published]))
