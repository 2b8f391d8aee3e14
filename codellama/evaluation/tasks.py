"""Programs to be completed, and the share of them that passes its tests (arXiv 2107.03374)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codellama.errors import DataError, RequestError
from codellama.evaluation.execution import Job, Limits, run_programs
from codellama.evaluation.results import Key, Progress, Record, Results, collect, key_of
from codellama.inference.generation import CodeLlama


@dataclass(frozen=True)
class Task:
    """A program with a gap, at its end or inside.

    Attributes:
        task_id: names it.
        prefix, suffix: what surrounds the gap.
        solution: what was in it.
        test: trusted code that raises an exception if the program is wrong; "": there is none.
        names: the program's functions and classes that the test uses.
        prompt: what the model reads, if not the prefix; a dialog for `CodeLlama.chat`.
    """

    task_id: str
    prefix: str
    suffix: str
    solution: str
    test: str = ""
    names: tuple[str, ...] = ()
    prompt: str | tuple[Mapping[str, str], ...] = ""

    def job(self, completion: str) -> Job:
        """The program with a completion in its gap, and its test."""
        reference = self.prefix + self.solution + self.suffix
        return Job(self.prefix + completion + self.suffix, self.names, reference, self.test)


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Args:
        samples: completions of each task.
        temperature: 0 takes the likeliest token (pass@1); the paper draws 200 samples at 0.8.
        top_p: sample from the likeliest tokens that together have this probability.
        seed: decides what is drawn.
        max_new_tokens: tokens of a completion at most.
        batch_size: completions that run through the model together.
        limit: take only so many tasks; 0: all.

    Raises:
        RequestError: a value is out of range, or several samples are asked for at temperature 0.
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 0.95
    seed: int = 0
    max_new_tokens: int = 512
    batch_size: int = 16
    limit: int = 0

    def __post_init__(self) -> None:
        if min(self.samples, self.max_new_tokens, self.batch_size) < 1 or self.limit < 0:
            raise RequestError(
                "samples, max_new_tokens and batch_size have to be 1 or more, limit 0 or more"
            )
        if self.samples > 1 and not self.temperature:
            raise RequestError("samples at temperature 0 are all equal; the paper takes 0.8")

    def options(self, stop: Sequence[str], heal: bool = False) -> dict[str, Any]:
        """Keyword arguments for the methods of `CodeLlama`."""
        return {
            "num_samples": self.samples,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size,
            "stop": tuple(stop),
            "heal": heal,
        }

    @property
    def group(self) -> int:
        """Tasks whose completions fill the batch several times."""
        return max(1, 4 * self.batch_size // self.samples)


def limited(items: Sequence[Any], limit: int) -> Sequence[Any]:
    """The first `limit` items; all for 0."""
    return items[: limit or None]


def complete_tasks(
    llm: CodeLlama,
    tasks: Sequence[Task],
    sampling: Sampling,
    results: Results,
    *,
    stop: Sequence[str] = (),
    extract: Callable[[str], str] = str,
    progress: Progress | None = None,
) -> list[Record]:
    """Completions of each task, as records with `task_id`, `sample` and `completion`.

    Args:
        stop: strings that end a completion.
        extract: takes the program out of what the model has written.
    """

    def complete(group: Sequence[Task]) -> Iterator[Record]:
        prompts: Any = [task.prompt or task.prefix for task in group]
        ask = llm.complete if isinstance(prompts[0], str) else llm.chat
        completions = iter(ask(prompts, **sampling.options(stop)))
        for task in group:
            for sample in range(sampling.samples):
                text = extract(next(completions).text)
                yield {"task_id": task.task_id, "sample": sample, "completion": text}

    units = {(task.task_id, None, 0): task for task in limited(tasks, sampling.limit)}
    return collect(results, units, complete, progress, group=sampling.group)


def score(
    tasks: Iterable[Task],
    completions: Iterable[Record],
    results: Results,
    limits: Limits | None = None,
    *,
    progress: Progress | None = None,
) -> list[Record]:
    """Executes each completion's program: records with `task_id`, `sample`, `passed`, `reason`.

    Raises:
        DataError: a completion is of no task here, or is none.
        RequestError: this system cannot confine programs.
    """
    known = {task.task_id: task for task in tasks}
    units: dict[Key, tuple[Record, Job]] = {}
    counts: Counter[Key] = Counter()
    for record in completions:
        task, text = known.get(record.get("task_id", "")), record.get("completion")
        if task is None or not isinstance(text, str):
            raise DataError(f"{str(record):.80} is no completion of one of these tasks")
        order = record.get("order")
        sample = counts[task.task_id, order]
        counts[task.task_id, order] += 1
        named = {"task_id": task.task_id, "order": order, "sample": sample}
        units[key_of(named)] = named, task.job(text)

    def run(group: Sequence[tuple[Record, Job]]) -> Iterator[Record]:
        verdicts = run_programs([job for _, job in group], limits)
        for (named, _), verdict in zip(group, verdicts, strict=True):
            yield {**named, "passed": verdict.passed, "reason": verdict.reason}

    return collect(results, units, run, progress, group=32)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate of the probability that one of k samples is correct, from `samples` of
    which `correct` are (arXiv 2107.03374, equation 1)."""
    wrong = samples - correct
    return 1.0 - math.prod(1.0 - k / number for number in range(wrong + 1, samples + 1))


def pass_rates(scored: Iterable[Record]) -> dict[str, float]:
    """pass@1, and pass@10 and pass@100 where every task has as many samples, from 0 to 1."""
    verdicts = defaultdict(list)
    for record in scored:
        verdicts[record["task_id"]].append(record["passed"])
    fewest = min(map(len, verdicts.values()), default=0)
    return {
        f"pass@{k}": sum(pass_at_k(len(each), sum(each), k) for each in verdicts.values())
        / len(verdicts)
        for k in (1, 10, 100)
        if k <= fewest
    }
