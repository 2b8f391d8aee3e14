"""Runs generated programs against tests, each in processes of its own, as hostile code.

A program cannot harm the host by mistake, and passes only if its answers are right; `sandbox` says
how. It can read what the user who started it can read; if that is root, what everybody can. This is
no security boundary: it is as strong as the kernel.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from codellama.distributed import processor_count
from codellama.errors import RequestError

SANDBOX = Path(__file__).with_name("sandbox.py")
LIMITS = {"AS": 2**30, "FSIZE": 2**24, "NOFILE": 64, "CORE": 0, "NPROC": 32}
"""Bytes of a process and of a file, open files, bytes of a core dump, and processes."""


@dataclass(frozen=True)
class Execution:
    """Whether and how generated programs run.

    Args:
        execute: run them on this machine, each confined: no network, no writing outside an empty
            directory, no sight of other processes; limited time, memory and processes. That stops
            mistakes and tricks, but is no security boundary: a program can read what you can read.
            Takes Linux 5.14 with user namespaces.
        timeout: seconds that a program may take, its start included.

    Raises:
        RequestError: the timeout is not above 0.
    """

    execute: bool = False
    timeout: float = 10.0

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise RequestError(f"timeout is {self.timeout:g}; expected more than 0 seconds")

    def check(self) -> None:
        """Raises RequestError if this system cannot confine programs, or a right one fails."""
        right = Job("def f():\n    return 1\n", ["f"], "", "assert f() == 1")
        if reason := run_program(right, self):
            raise RequestError(f"a right program fails on this system ({reason}), so none is run")


@dataclass(frozen=True)
class Job:
    """A program and the test that it is put to.

    Attributes:
        program: what was generated; it is executed in the sandbox alone.
        names: the program's functions and classes that the test uses.
        reference: trusted code that defines whatever else the test uses.
        test: trusted code that raises an exception if the program is wrong. It sees results as
            values of built-in types; changes to arguments it does not see.
    """

    program: str
    names: Sequence[str]
    reference: str
    test: str


def run_program(job: Job, execution: Execution | None = None) -> str:
    """Puts a program to its test: "" if it passes, or else the reason.

    Raises:
        RequestError: this system cannot confine the program.
    """
    execution, nonce = execution or Execution(), secrets.token_hex(16)
    if sys.platform != "linux":
        raise RequestError(f"programs can be confined on Linux alone; this is {sys.platform}")
    sandbox, limits = SANDBOX.read_text(), {"CPU": math.ceil(execution.timeout), **LIMITS}
    order = {**asdict(job), "sandbox": sandbox, "nonce": nonce, "limits": limits}
    python = os.path.realpath(sys.executable)  # a virtual environment's packages stay outside
    try:
        done = subprocess.run(  # the judge dies with it, and with the judge all that it began
            [python, "-I", "-S", "-Xint_max_str_digits=0", "-c", sandbox],
            input=json.dumps(order).encode(),
            capture_output=True,
            cwd="/",
            env={},
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
    verdict = json.loads(done.stdout or "{}")
    if verdict.get("nonce") != nonce:
        return "the test ended without a verdict"
    return str(verdict["reason"])


def run_programs(jobs: Sequence[Job], execution: Execution | None = None) -> Iterator[str]:
    """Runs one for each processor at a time; yields what `run_program` returns, in their order."""
    with ThreadPoolExecutor(processor_count()) as pool:
        yield from pool.map(lambda job: run_program(job, execution), jobs)
