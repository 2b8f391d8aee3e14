"""Runs generated programs against tests, each in processes of its own, as hostile code.

A program can neither harm the host by mistake nor make a test pass by anything but right answers;
`sandbox` says how. It can read every file that its user may read. This is no security boundary:
the kernel's own faults are open to it.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.errors import RequestError

SANDBOX = Path(__file__).with_name("sandbox.py")


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        timeout: seconds from its start to the verdict, and of processor time.
        memory: bytes of address space of a process.
        processes: processes and threads.
        workers: programs that run at the same time; 0: one for each processor.

    Raises:
        RequestError: a value is not positive.
    """

    timeout: float = 10.0
    memory: int = 2**30
    processes: int = 32
    workers: int = 0

    def __post_init__(self) -> None:
        if min(self.timeout, self.memory, self.processes) <= 0 or self.workers < 0:
            raise RequestError("timeout, memory and processes have to be above 0, workers from 0")


@dataclass(frozen=True)
class Job:
    """A program and the test that it is put to.

    Attributes:
        program: what was generated; it is only ever executed in the sandbox.
        names: the program's functions and classes that the test uses.
        reference: trusted code that defines everything else that the test uses.
        test: trusted code that raises an exception if the program is wrong. It sees results as
            values of built-in types, and changes to arguments not at all.
    """

    program: str
    names: Sequence[str]
    reference: str
    test: str


@dataclass(frozen=True)
class Verdict:
    """Whether a program has passed its test, and why not."""

    passed: bool
    reason: str


def run_program(job: Job, limits: Limits | None = None) -> Verdict:
    """Puts a program to its test; returns when all its processes have ended.

    Raises:
        RequestError: this system cannot confine the program.
    """
    limits = limits or Limits()
    if sys.platform != "linux":
        raise RequestError(f"programs can be confined on Linux alone; this is {sys.platform}")
    nonce = secrets.token_hex(16)
    order: dict[str, Any] = {
        **vars(job),
        "sandbox": SANDBOX.read_text(),
        "nonce": nonce,
        "processes": limits.processes,
        "limits": {
            "AS": limits.memory,
            "CPU": math.ceil(limits.timeout),
            "FSIZE": 2**24,
            "NOFILE": 64,
            "CORE": 0,
        },
    }
    python = os.path.realpath(sys.executable)  # a virtual environment's packages stay outside
    process = subprocess.Popen(
        [python, "-I", "-S", "-c", order["sandbox"], "judge"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={},
        start_new_session=True,
    )
    try:
        out, err = process.communicate(json.dumps(order).encode(), limits.timeout)
    except subprocess.TimeoutExpired:
        return Verdict(False, f"not done after {limits.timeout:g} seconds")
    finally:
        process.kill()  # the judge dies with it, and with the judge every process of the program
        process.communicate()
    if err:
        reason = err.decode(errors="replace").splitlines()[-1]
        raise RequestError(
            f"this system cannot confine programs ({reason}); it takes Linux 5.12 with user "
            "namespaces for unprivileged users: generate here and score on such a machine"
        )
    verdict = json.loads(out or '{"nonce": ""}')
    if verdict["nonce"] != nonce:
        return Verdict(False, "the sandbox ended without a verdict")
    return Verdict(verdict["passed"], verdict["reason"])


def run_programs(
    jobs: Sequence[Job],
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Verdict]:
    """Runs several at a time; yields a verdict for each job, in their order.

    Raises:
        RequestError: this system cannot confine programs.
    """
    limits = limits or Limits()
    with ThreadPoolExecutor(limits.workers or os.cpu_count()) as pool:
        verdicts = pool.map(lambda job: run_program(job, limits), jobs)
        for done, verdict in enumerate(verdicts, 1):
            yield verdict
            if progress:
                progress(done, len(jobs))
