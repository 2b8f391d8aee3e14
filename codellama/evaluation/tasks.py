"""Programs to complete, and the share that passes tests (Chen et al. 2021, arXiv 2107.03374)."""

from __future__ import annotations

import ast
import math
import re
import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from codellama.errors import DataError
from codellama.evaluation.execution import Execution, Job, run_programs
from codellama.evaluation.results import (
    Record,
    Results,
    digest,
    read_json_lines,
    task_id_of,
    value_of,
)
from codellama.inference.codellama import CodeLlama
from codellama.inference.requests import Completion, Options

FENCE = r"(?:`{3,}|~{3,})(?:[^`\n]*(?:\n|$))?"
FENCES = re.compile(rf"^[ \t]*{FENCE}", re.MULTILINE), re.compile(FENCE)
"""Those that begin a line, and all."""


@dataclass(frozen=True)
class Task:
    """A program with a span missing, at its end or inside.

    Attributes:
        task_id: names it.
        prefix, suffix: what surrounds the missing span.
        solution: what stood there.
        test: trusted code that follows the program and raises an exception if it is wrong; "":
            there is none.
        entry_point: the function that the test checks, if it names one.
        prompt: what the model reads, if not the prefix; or a chat for `CodeLlama.chat`.
        stop: strings that end what the model writes.
    """

    task_id: str
    prefix: str
    suffix: str
    solution: str
    test: str = ""
    entry_point: str = ""
    prompt: str | tuple[Mapping[str, str], ...] = ""
    stop: tuple[str, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Tells what the model is asked from what other tasks, or another text of it, ask."""
        return digest(repr((self.task_id, self.prefix, self.suffix, self.prompt, self.stop)))

    def job(self, written: str) -> Job:
        """The program with what the model wrote in its place, and its test."""
        code = extract(written, self.prefix, self.suffix)
        return Job(self.prefix + code + self.suffix, self.test)


def extract(text: str, prefix: str = "", suffix: str = "") -> str:
    """The code in an answer. That is all of it if it is Python between prefix and suffix; or else
    what follows `[PYTHON]`, or the first block between Markdown fences that is Python there."""
    code = text.partition("[PYTHON]")[2].partition("[/PYTHON]")[0] or text
    if not FENCES[1].search(code) or _is_python(prefix + code + suffix):
        return code
    for fence in FENCES:
        marks = [match.span() for match in fence.finditer(code)]
        ends = [start for start, _ in marks] + [len(code)]
        for first in range(0, len(marks), 2):
            for end in ends[first + 1 :]:  # a docstring in a block may have fences too
                block = code[marks[first][1] : end]
                for found in (block, textwrap.dedent(block)):
                    if _is_python(prefix + found + suffix):
                        return found
    return code[marks[0][1] : ends[1]]


def _is_python(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as "\\d"
            ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return True


@dataclass(frozen=True)
class Sampling(Options):  # noqa: D101
    __doc__ = Options.__doc__

    max_new_tokens: int = 512
    batch_size: int = 16
    seed: int | None = 0
    sampling: ClassVar[tuple[str, ...]] = ("num_samples", "top_p", "top_k")  # tasks use the seed


def complete(
    llm: CodeLlama,
    tasks: Sequence[Task],
    sampling: Sampling,
    results: Results | None = None,
    *,
    order: str = "",
) -> list[Record]:
    """What the model writes for each task: records with `task_id`, `sample` and `completion`.

    Args:
        results: keeps them, by the tasks' content.
        order: psm or spm: infill, prefix or suffix first; "": continue or answer prompts.
    """
    results, samples = results or Results(), range(sampling.num_samples)
    together = max(1, 4 * sampling.batch_size // sampling.num_samples)  # fill several batches
    known = {task.digest: task for task in tasks}
    for stop in dict.fromkeys(task.stop for task in tasks):  # which hold for all prompts of a call
        asked = [(name, order, samples[-1]) for name, task in known.items() if task.stop == stop]
        for keys in results.missing(asked, together):
            group = [known[name] for name, _, _ in keys]
            written = iter(_ask(llm, group, sampling, order))
            for task, sample in product(group, samples):
                text, key = next(written).text, (task.digest, order, sample)
                results.add(key, task_id=task.task_id, sample=sample, completion=text)
    return [results.records[name, order, sample] for name, sample in product(known, samples)]


def _ask(llm: CodeLlama, tasks: Sequence[Task], sampling: Sampling, order: str) -> list[Completion]:
    seed = sampling.seed if sampling.temperature else None
    stop = (*sampling.stop, *tasks[0].stop)
    options = {**vars(sampling), "stop": stop, "echo": False, "seed": seed}
    if order:
        pairs = [(task.prefix, task.suffix) for task in tasks]
        return llm.infill(pairs, suffix_first=order == "spm", **options)
    prompts: Any = [task.prompt or task.prefix for task in tasks]
    return (llm.complete if isinstance(prompts[0], str) else llm.chat)(prompts, **options)


def read_completions(path: Path, tasks: Iterable[Task]) -> list[Record]:
    """The completions of a file: JSON lines with `task_id` and `completion`, or results of
    `complete`, of which those of another text of a task are left out.

    Raises:
        DataError: a record is of no task here, or is no completion; or there is none.
    """
    known, written = {task.task_id: task for task in tasks}, list[Record]()
    for where, record in read_json_lines(path).items():
        name, key = task_id_of(record, where), record.get("key")
        if name not in known:
            raise DataError(f"{where}: task_id is {name!r}; expected that of a problem")
        is_verdict = "passed" in record and "completion" not in record
        if is_verdict or (isinstance(key, list) and key[:1] != [known[name].digest]):
            continue
        written.append({"task_id": name, "completion": value_of(record, where, "completion")})
    if not written:
        raise DataError(f"{path} holds no completion of these problems; expected one a line")
    return written


def check_tests(tasks: Iterable[Task], execution: Execution) -> None:
    """Runs what the tests import.

    Raises:
        DataError: a test is not Python, or what it imports is not installed.
        RequestError: this system cannot confine programs.
    """
    execution.check()
    imports = dict[str, str]()
    for task in tasks:
        try:
            imports = {**dict.fromkeys(_imports(task.test), task.task_id), **imports}
        except (SyntaxError, ValueError) as error:
            raise DataError(f"the test of {task.task_id} is not Python: {error}") from None
    reasons = run_programs([Job(statement, "") for statement in imports], execution)
    for (statement, name), reason in zip(imports.items(), reasons, strict=True):
        if reason:
            raise DataError(f"the test of {name} cannot run: {statement!r} raises {reason}")


def _imports(test: str) -> Iterator[str]:
    """The import statements of a test and of its functions, but for those inside of `try`."""
    parts: list[Any] = [ast.parse(test)]
    for part in parts:
        if isinstance(part, ast.Module | ast.FunctionDef):
            parts += part.body
        elif isinstance(part, ast.Import | ast.ImportFrom):
            yield ast.unparse(part)


def score(
    tasks: Iterable[Task],
    completions: Iterable[Record],
    execution: Execution | None = None,
    results: Results | None = None,
) -> list[Record]:
    """Executes each completion's program: records with `task_id`, `sample`, `passed`, `reason`.

    Args:
        completions: of these tasks, as `complete` and `read_completions` return them.

    Raises:
        DataError: a test cannot run on this system, whatever the program.
        RequestError: this system cannot confine programs.
    """
    results, execution = results or Results(), execution or Execution()
    known = {task.task_id: task for task in tasks}
    samples, jobs = Counter[str](), dict[tuple[str, int, str], Job]()
    for record in completions:
        name = str(record["task_id"])
        job = known[name].job(record["completion"])
        # A verdict holds for one program and one timeout.
        jobs[name, samples[name], digest(f"{job} {execution.timeout}")] = job
        samples[name] += 1
    check_tests((known[name] for name in samples), execution)
    for keys in results.missing(jobs, 32):
        reasons = run_programs([jobs[key] for key in keys], execution)
        for key, reason in zip(keys, reasons, strict=True):
            passed = {"passed": not reason, "reason": reason}
            results.add(key, task_id=key[0], sample=key[1], **passed)
    return [results.records[key] for key in jobs]


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate of the probability that one of k samples is correct, if `correct` of
    `samples` are (arXiv 2107.03374, equation 1)."""
    wrong = samples - correct
    return 1.0 - math.prod(1.0 - k / number for number in range(wrong + 1, samples + 1))


def pass_rates(scored: Iterable[Record]) -> dict[str, float]:
    """pass@1, and pass@10 and pass@100 where every task has as many samples; from 0 to 1."""
    verdicts = defaultdict(list)
    for record in scored:
        verdicts[record["task_id"]].append(record["passed"])
    tasks = verdicts.values()
    return {
        f"pass@{k}": sum(pass_at_k(len(each), sum(each), k) for each in tasks) / len(tasks)
        for k in (1, 10, 100)
        if k <= min(map(len, tasks), default=0)
    }
