"""Programs to be completed, and the share of them that passes its tests (Chen et al. 2021, arXiv
2107.03374)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codellama.errors import DataError
from codellama.evaluation.execution import Execution, Job, run_programs
from codellama.evaluation.results import Key, Record, Results
from codellama.inference.generation import CodeLlama
from codellama.inference.requests import Options
from codellama.weights.downloads import Progress


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

    def keywords(self, stop: Sequence[str]) -> dict[str, Any]:
        """What the methods of `CodeLlama` take, with more strings that end the text."""
        return {**vars(self), "stop": (*self.stop, *stop), "echo": False}

    @property
    def group(self) -> int:
        """Tasks whose completions fill the batch several times."""
        return max(1, 4 * self.batch_size // self.num_samples)


def complete(
    llm: CodeLlama,
    tasks: Sequence[Task],
    sampling: Sampling,
    results: Results,
    *,
    progress: Progress | None = None,
) -> list[Record]:
    """What the model writes for each task: records with `task_id`, `sample` and `completion`."""

    def ask(group: Sequence[Task]) -> Iterator[Record]:
        prompts: Any = [task.prompt or task.prefix for task in group]
        method = llm.complete if isinstance(prompts[0], str) else llm.chat
        written = iter(method(prompts, **sampling.keywords(group[0].stop)))
        for task in group:
            for sample in range(sampling.num_samples):
                named = {"task_id": task.task_id, "sample": sample}
                yield {**named, "completion": next(written).text}

    units: dict[Key, Task] = {(task.task_id, None, 0): task for task in tasks}
    return results.collect(units, ask, progress, sampling.group)


def score(
    tasks: Iterable[Task],
    completions: Iterable[Record],
    results: Results,
    execution: Execution | None = None,
    *,
    progress: Progress | None = None,
) -> list[Record]:
    """Executes each completion's program: records with `task_id`, `sample`, `passed`, `reason`.

    Raises:
        DataError: a completion is of no task here, or is none.
        RequestError: this system cannot confine programs.
    """
    known = {task.task_id: task for task in tasks}
    counts, units = Counter[Any](), dict[Key, tuple[Key, Job]]()
    for record in completions:
        task, text = known.get(str(record.get("task_id"))), record.get("completion")
        if task is None or not isinstance(text, str):
            raise DataError(f"{record!s:.80} is no completion of one of these tasks")
        named = task.task_id, record.get("order")
        key = *named, counts[named]
        counts[named] += 1
        units[key] = key, task.job(text)

    def run(group: Sequence[tuple[Key, Job]]) -> Iterator[Record]:
        reasons = run_programs([job for _, job in group], execution)
        for ((task, order, sample), _), reason in zip(group, reasons, strict=True):
            named = {"task_id": task, "order": order, "sample": sample}
            yield {**named, "passed": not reason, "reason": reason}

    return results.collect(units, run, progress, 32)


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
