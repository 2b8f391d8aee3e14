# ruff: noqa: E501 programs are shown as they run
"""Generated programs pass by right answers alone, and harm nothing. `f(1)` is to return 42."""

import sys
from pathlib import Path
from unittest import mock

import pytest

from codellama.errors import RequestError
from codellama.evaluation import execution
from codellama.evaluation.execution import Execution, Job, run_program, run_programs

TEST = "assert f(1) == 42"
ENDLESS = {
    "an endless loop": "def f(x):\n  while True: pass",
    "an endless loop at the start": "while True: pass",
    "sleep": "import time\ndef f(x): time.sleep(1000)",
    "a fork bomb": "import os\ndef f(x):\n  while True:\n    try: os.fork()\n    except OSError: pass",
    "flooding stdout": "def f(x):\n  while True: print('passed' * 10**5)",
    "stopping itself": "import os\ndef f(x): os.kill(os.getpid(), 19)",
}
HOSTILE = {
    "_exit": "import os\ndef f(x): os._exit(0)",
    "_exit at the start": "import os\nos._exit(0)",
    "exit": "import sys\ndef f(x): sys.exit(0)",
    "exit at the start": "import sys\nsys.exit(0)",
    "_exit at exit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 41",
    "a memory hog": "def f(x):\n  a = []\n  while True: a.append(bytearray(10**7))",
    "a long answer": "def f(x): return 'x' * 10**8",
    "printing a verdict": 'def f(x): print(\'{"reason": ""}\', flush=True)',
    "flooding all channels": (
        "import os\nfor fd in range(64):\n  try:\n    while True: os.write(fd, b'x' * 10**6)\n"
        "  except OSError: pass"
    ),
    "closing all channels": "import os\nos.closerange(0, 64)\ndef f(x): return 42",
    "always equal": "class A:\n  def __eq__(s, o): return True\ndef f(x): return A()",
    "an int that is always equal": "class A(int):\n  def __eq__(s, o): return True\ndef f(x): return A()",
    "a list of what is always equal": "class A:\n  def __eq__(s, o): return True\ndef f(x): return [A()]",
    "patching built-ins": "import builtins\nbuiltins.AssertionError = None\ndef f(x): return 41",
    "patching the process": (
        "import sys\nsys.modules['__main__'].encode = lambda *_: True\ndef f(x): return 41"
    ),
    "deep recursion": "import sys\nsys.setrecursionlimit(10**6)\ndef f(x): return f(x)",
    "a deep answer": "def f(x):\n  a = []\n  for _ in range(10**5): a = [a]\n  return a",
    "ignoring signals": (
        "import signal\nfor s in range(1, 65):\n  try: signal.signal(s, signal.SIG_IGN)\n"
        "  except (OSError, ValueError): pass\ndef f(x): return 41"
    ),
    "a timer": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\nwhile True: pass",
    "raising": "def f(x): raise BaseException",
    "no such function": "def g(x): return 42",
    "no program": "def f(x: return 42",
    # These return what passes if they have done harm.
    "killing the judge": (
        "import os\ndef f(x):\n  for pid in (1, os.getppid(), -1):\n    for s in range(1, 65):\n"
        "      try: os.kill(pid, s) if s != 19 or pid != -1 else 0\n      except OSError: pass\n"
        "  return 41"
    ),
    "writing elsewhere": (
        "import os\ndef f(x):\n  for place in ('/', '/var/tmp', '/dev/shm', os.path.expanduser('~')):\n"
        "    try: open(place + '/written', 'w'); return 42\n    except OSError: pass"
    ),
    "filling the disk": "def f(x):\n  for n in range(9): open(str(n), 'wb').write(b'x' * 10**7)\n  return 42",
    "the network": (
        "import socket\ndef f(x):\n  socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"
        ".connect(('192.0.2.1', 9)); return 42"
    ),
    "devices": "def f(x): open('/dev/zero', 'rb'); return 42",
    "reading the judge": "def f(x): open('/proc/1/mem', 'rb'); return 42",
    "tracing the judge": (
        "import ctypes\ndef f(x): return 42 if ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0 else 41"
    ),
    "other namespaces": (
        "import ctypes\ndef f(x): return 42 if ctypes.CDLL(None).unshare(0x10000000) == 0 else 41"
    ),
    "the environment": "import os\ndef f(x): return 42 if set(os.environ) - {'LC_CTYPE'} else 41",
    "other files": "import os\ndef f(x): return 42 if os.listdir('.') else 41",
}


def job(program, test=TEST, names=("f",), reference=""):
    return Job(program, names, reference, test)


@pytest.fixture(scope="module", autouse=True)
def confined():
    try:
        Execution(execute=True).check()
    except RequestError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def reasons():
    """Why each hostile program has failed."""
    named = HOSTILE | ENDLESS
    jobs = [job(program) for program in named.values()]
    with mock.patch("os.sched_getaffinity", return_value=range(6)):  # most of them only wait
        return dict(zip(named, run_programs(jobs, Execution(timeout=1)), strict=True))


@pytest.mark.parametrize("name", HOSTILE | ENDLESS)
def test_hostile_programs_do_not_pass(reasons, name):
    assert reasons[name]


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_programs_are_ended(reasons, name):
    assert reasons[name] == "not done after 1 seconds"


def test_right_answers_pass_and_wrong_ones_say_why():
    assert run_program(job("def f(x): return 42")) == ""
    assert run_program(job("def f(x): return 1 / 0")).endswith(
        "ZeroDivisionError: division by zero"
    )
    assert run_program(job("def f(x): return 41")).startswith("AssertionError")


def test_values_keep_their_types():
    values = "[1, -(10**30), 1.5, float('inf'), 1j, b'x', 'é\\ud800', None, True, (1,), {1}, {(1,): [2]}]"
    test = f"got = f({values})\nassert got == {values}\nassert [*map(type, got)] == [*map(type, {values})]"
    assert run_program(job("def f(x): return x", test)) == ""
    assert (
        run_program(job("class A(int): pass\ndef f(x): return A(x)", "assert type(f(1)) is int"))
        == ""
    )


def test_the_reference_helps_the_test_and_is_not_the_program():
    helped = job(
        "def f(x): return 42", "assert help(f(1)) == 43", reference="def help(x): return x + 1"
    )
    assert run_program(helped) == ""
    unseen = job("def f(x): return secret", "f(1)", reference="secret = 42")
    assert "NameError" in run_program(unseen)


def test_objects_of_the_program_can_be_handed_back():
    program = "class A:\n  pass\ndef f(a): return a.x.x"
    test = "a = A()\na.x = A()\na.x.x = 42\nassert a.x.x == f(a) == 42\nassert not hasattr(a, 'y')"
    assert run_program(job(program, test, ["A", "f"])) == ""


def test_a_system_on_which_right_programs_fail_runs_none():
    with pytest.raises(RequestError, match=r"not done after 0\.001 seconds"):
        Execution(timeout=0.001).check()


def test_a_test_that_asks_for_nothing_is_not_passed():
    assert "nothing" in run_program(job("def f(x): return 42", "pass"))


def test_no_daemon_outlives_its_program():
    mark = "outlives-its-parent"
    program = (
        "import os, sys\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n"
        f"    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(99) # {mark}'])\n"
        "  os._exit(0)\nimport time\ntime.sleep(0.2)\ndef f(x): return 42"
    )
    assert run_program(job(program)) == ""
    left = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists() and b"# " + mark.encode() in path.read_bytes()
    ]
    assert not left


def test_results_come_in_order_and_programs_share_nothing():
    program = "import os\nfound = os.listdir('.')\nopen('left', 'w').write('x')\ndef f(x): return len(found) + {}"
    jobs = [job(program.format(number), "assert f(1) == 1") for number in range(3)]
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
        run_program(job("def f(x): return 42"))


def test_the_host_is_as_it_was(reasons):
    places = ("/", "/tmp", "/var/tmp", "/dev/shm", Path.home())
    assert not any(Path(place, "written").exists() for place in places)
