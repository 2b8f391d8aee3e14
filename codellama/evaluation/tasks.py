"""Programs to complete, and the share that passes tests (Chen et al. 2021, arXiv 2107.03374)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from codellama.errors import DataError
from codellama.evaluation.execution import Execution, Job, run_programs
from codellama.evaluation.results import Record, Results, digest
from codellama.inference.codellama import CodeLlama
from codellama.inference.requests import Completion, Options


@dataclass(frozen=True)
class Task:
    """A program with a gap, at its end or inside.

    Attributes:
        task_id: names it.
        prefix, suffix: what surrounds the gap.
        solution: what was in it.
        test: trusted code that raises an exception if the program is wrong; "": there is none.
        names: the program's functions and classes that the test uses.
        prompt: what the model reads, if not the prefix; or a dialog for `CodeLlama.chat`.
        stop: strings that end what the model writes.
        extract: takes the completion out of what the model has written.
    """

    task_id: str
    prefix: str
    suffix: str
    solution: str
    test: str = ""
    names: tuple[str, ...] = ()
    prompt: str | tuple[Mapping[str, str], ...] = ""
    stop: tuple[str, ...] = ()
    extract: Callable[[str], str] = str

    def job(self, written: str) -> Job:
        """The program with a completion in its gap, and its test."""
        program = self.prefix + self.extract(written) + self.suffix
        return Job(program, self.names, self.prefix + self.solution + self.suffix, self.test)


@dataclass(frozen=True)
class Sampling(Options):  # noqa: D101
    __doc__ = Options.__doc__

    max_new_tokens: int = 512
    batch_size: int = 16
    seed: int | None = 0


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
        results: keeps them.
        order: psm or spm: fill gaps, prefix or suffix first; "": continue or answer prompts.
    """
    results, samples = results or Results(), range(sampling.num_samples)
    together = max(1, 4 * sampling.batch_size // sampling.num_samples)  # fill several batches
    by_name = {task.task_id: task for task in tasks}
    for stop in dict.fromkeys(task.stop for task in tasks):  # which hold for all prompts of a call
        named = [(name, order, samples[-1]) for name, task in by_name.items() if task.stop == stop]
        for keys in results.missing(named, together):
            group = [by_name[name] for name, _, _ in keys]
            written = iter(_ask(llm, group, sampling, order))
            for task, sample in product(group, samples):
                text, key = next(written).text, (task.task_id, order, sample)
                results.add(key, task_id=task.task_id, sample=sample, completion=text)
    return [results.records[name, order, sample] for name, sample in product(by_name, samples)]


def _ask(llm: CodeLlama, tasks: Sequence[Task], sampling: Sampling, order: str) -> list[Completion]:
    options = {**vars(sampling), "stop": (*sampling.stop, *tasks[0].stop), "echo": False}
    if order:
        gaps = [(task.prefix, task.suffix) for task in tasks]
        return llm.infill(gaps, suffix_first=order == "spm", **options)
    prompts: Any = [task.prompt or task.prefix for task in tasks]
    return (llm.complete if isinstance(prompts[0], str) else llm.chat)(prompts, **options)


def score(
    tasks: Iterable[Task],
    completions: Iterable[Record],
    execution: Execution | None = None,
    results: Results | None = None,
) -> list[Record]:
    """Executes each completion's program: records with `task_id`, `sample`, `passed`, `reason`.

    Raises:
        DataError: a completion is of no task here, or is none.
        RequestError: this system cannot confine programs.
    """
    results, execution = results or Results(), execution or Execution()
    known = {task.task_id: task for task in tasks}
    samples, jobs = Counter[str](), dict[tuple[str, int, str], Job]()
    for record in completions:
        task, text = known.get(str(record.get("task_id"))), record.get("completion")
        if task is None or not isinstance(text, str):
            raise DataError(f"{record!s:.80} is no completion of one of these tasks")
        job = task.job(text)
        # A verdict holds for one program and one timeout.
        key = task.task_id, samples[task.task_id], digest(f"{job} {execution.timeout}")
        jobs[key] = job
        samples[task.task_id] += 1
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
