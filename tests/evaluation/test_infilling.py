"""Lines that are taken out of files, and whether they are written again."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from codellama.errors import DataError
from codellama.evaluation import problems
from codellama.evaluation.execution import run_programs
from codellama.evaluation.infilling import derived, exact_matches, from_files
from codellama.evaluation.results import Results
from codellama.evaluation.tasks import Sampling, Task, complete

TEXTS = [
    "".join(f"    x_{number} = f({number})\n" + "\n" * (number % 2) for number in range(12)),
    "import os\n\n\ndef f():\n\treturn 1",
    "a = 1\r\n\r\nb = 'é生'\r\n",
    "\n  \n",
    "",
]


PROBLEMS = problems.humaneval(Path(__file__).parent / "problems.jsonl")


class Filler:
    """Stands for a model: fills each span as a table says, and notes how it was asked."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table
        self.calls = []

    def infill(self, pairs, suffix_first=False, **options):
        self.calls.append((list(pairs), suffix_first, options))
        return [SimpleNamespace(text=self.table[prefix]) for prefix, _ in pairs]


def line_spans(texts, tokenizer, count, context=512, seed=0):
    named = {str(number): text for number, text in enumerate(texts)}
    return from_files(named, tokenizer, count=count, context=context, seed=seed)


def matches(llm, tasks, order="psm", **options):
    """Whether each span is filled exactly."""
    filled = complete(llm, tasks, Sampling(**options), order=order)
    return [exact_matches(tasks, [record]) == 1 for record in filled]


def all_lines(texts):
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("context", [0, 1, 16, 64, 10_000])
def test_a_span_is_a_line_among_those_that_surround_it(tokenizer, context):
    for span in line_spans(TEXTS, tokenizer, 100, context):
        assert any(span.prefix + span.solution + span.suffix in text for text in TEXTS)
        assert span.solution.strip()
        assert "\n" not in span.solution
        assert not span.prefix or span.prefix.endswith("\n")
        assert not span.suffix or span.suffix.startswith("\n")


def test_every_line_that_is_not_blank_is_taken_out_once(tokenizer):
    taken = Counter(span.solution.strip() for span in line_spans(TEXTS, tokenizer, 100))
    assert taken == Counter(all_lines(TEXTS))


def test_with_room_for_it_the_whole_text_surrounds_the_span(tokenizer):
    for span in line_spans(TEXTS, tokenizer, 100, context=10_000):
        assert span.prefix + span.solution + span.suffix in TEXTS


@pytest.mark.parametrize("context", [0, 1, 16, 40, 64])
def test_no_more_tokens_than_half_the_context_are_on_a_side(tokenizer, context):
    def size(text):
        return sum(len(tokenizer.encode(line)) for line in text.splitlines(keepends=True))

    shortened = 0
    for span in line_spans(TEXTS, tokenizer, 100, context):
        assert size(span.prefix) <= context // 2
        assert size(span.suffix.removeprefix("\n")) <= context // 2
        shortened += span.prefix + span.solution + span.suffix not in TEXTS
    assert shortened


def test_the_lines_next_to_the_span_are_those_that_are_kept(tokenizer):
    lines = [f"x_{number} = {number}\n" for number in range(30)]
    for span in line_spans(["".join(lines)], tokenizer, 100, context=48):
        place = lines.index(span.solution + "\n")
        before = span.prefix.splitlines(keepends=True)
        after = span.suffix.splitlines(keepends=True)[1:]
        assert before == lines[place - len(before) : place]
        assert after == lines[place + 1 : place + 1 + len(after)]
        assert len(before) >= min(place, 2)
        assert len(after) >= min(len(lines) - 1 - place, 2)


def test_the_spans_follow_from_the_seed(tokenizer):
    def spans(seed):
        return line_spans(iter(TEXTS), tokenizer, 8, seed=seed)

    assert len(spans(0)) == 8
    assert spans(0) == spans(0)
    assert spans(0) != spans(1)


def test_files_take_turns_and_their_lines_are_drawn_evenly(tokenizer):
    texts = ["short\n", "".join(f"long {number}\n" for number in range(9))]
    drawn = Counter(
        span.solution for seed in range(900) for span in line_spans(texts, tokenizer, 2, seed=seed)
    )
    assert drawn.pop("short") == 900
    assert set(drawn) == set(all_lines(texts[1:]))
    assert all(count == pytest.approx(100, abs=4 * 9) for count in drawn.values())


def test_no_file_is_always_the_first(tokenizer):
    texts = ["one\n", "two\n", "three\n"]
    drawn = {line_spans(texts, tokenizer, 1, seed=seed)[0].solution for seed in range(40)}
    assert drawn == {"one", "two", "three"}


def test_files_that_have_no_line_left_leave_the_turns_to_the_others(tokenizer):
    texts = ["short\n", "a\nb\nc\n", "".join(f"long {number}\n" for number in range(9))]
    rounds = [[span.solution[:4] for span in line_spans(texts, tokenizer, n)] for n in (3, 5, 7, 8)]
    assert [found.count("long") for found in rounds] == [1, 2, 3, 4]
    assert [found.count("shor") for found in rounds] == [1, 1, 1, 1]


def test_a_fill_that_equals_the_line_but_for_spaces_around_it_is_a_match():
    fills = {
        "a": "x = 1",
        "b": "  x = 1 \n",
        "c": "x  = 1",
        "d": "",
        "e": "x = 12",
        "f": "x = 1\ny",
    }
    tasks = [Task(prefix, prefix, "\n", "    x = 1") for prefix in fills]
    assert matches(Filler(fills), tasks) == [True, True, False, False, False, True]


def test_of_a_block_all_that_the_model_writes_counts():
    fills = {"a": "x = 1\ny = 2\n", "b": "x = 1\n", "c": "x = 1\ny = 2\nz = 3"}
    tasks = [Task(prefix, prefix, "\n", "    x = 1\ny = 2") for prefix in fills]
    assert matches(Filler(fills), tasks) == [True, False, False]


@pytest.mark.parametrize("order", ["psm", "spm"])
def test_the_model_is_asked_in_groups_and_single_lines_end_at_a_line_break(order):
    tasks = derived(PROBLEMS, "single_line")
    llm = Filler({task.prefix: task.solution for task in tasks})
    assert all(matches(llm, tasks, order, batch_size=1, heal=True))
    assert [len(pairs) for pairs, _, _ in llm.calls] == [4, 4, 2]
    assert [pair for pairs, _, _ in llm.calls for pair in pairs] == [
        (task.prefix, task.suffix) for task in tasks
    ]
    for _, first, options in llm.calls:
        assert first == (order == "spm")
        assert (options["stop"], options["heal"]) == (("\n",), True)


def test_both_orders_are_kept_apart(tmp_path):
    tasks, results = derived(PROBLEMS, "single_line"), Results(tmp_path / "filled.jsonl")
    llm = Filler({task.prefix: "" for task in tasks})
    complete(llm, tasks, Sampling(), results, order="psm")
    llm.table = {task.prefix: task.solution for task in tasks}
    filled = complete(llm, tasks, Sampling(), results, order="spm")
    assert exact_matches(tasks, filled) == 1
    assert exact_matches(tasks, complete(llm, tasks, Sampling(), results, order="psm")) == 0


@pytest.mark.parametrize("suffix_first", [False, True])
def test_a_model_fills_the_spans_as_infilling_does(llm, tokenizer, suffix_first):
    tasks = line_spans(TEXTS, tokenizer, 5, context=16)
    pairs = [(task.prefix, task.suffix) for task in tasks]
    filled = llm.infill(pairs, suffix_first, max_new_tokens=4, stop=("\n",), seed=0)
    copied = [
        Task(task.task_id, task.prefix, task.suffix, completion.text, stop=("\n",))
        for task, completion in zip(tasks, filled, strict=True)
    ]
    order = "spm" if suffix_first else "psm"
    assert all(matches(llm, copied, order, max_new_tokens=4))


@pytest.mark.parametrize("kind", ["single_line", "multi_line", "random_span"])
def test_derived_tasks_are_the_programs_with_a_piece_missing(kind):
    tasks = derived(PROBLEMS, kind, seed=3)
    programs = [problem.prefix + problem.solution for problem in PROBLEMS]
    assert {task.prefix + task.solution + task.suffix for task in tasks} == set(programs)
    assert all(task.solution.strip() for task in tasks)
    assert len({task.task_id for task in tasks}) == len(tasks)
    assert not any(run_programs([task.job(task.solution) for task in tasks[::9]]))


def test_derived_lines_and_blocks_are_those_whose_ends_are_not_blank():
    counts = [1, 4, 4, 1]  # lines that are not blank
    assert len(derived(PROBLEMS, "single_line")) == sum(counts)
    assert len(derived(PROBLEMS, "multi_line")) == sum(n * (n + 1) // 2 for n in counts)
    assert len(derived(PROBLEMS, "random_span")) == 10 * len(counts)
    assert derived(PROBLEMS, "random_span", 1) == derived(PROBLEMS, "random_span", 1)
    assert derived(PROBLEMS, "random_span", 1) != derived(PROBLEMS, "random_span", 2)
    assert derived(PROBLEMS, "single_line")[2].task_id == "SingleLineInfilling/Own/1/L2"


def test_the_published_problems_give_the_published_numbers_of_tasks():
    try:
        published = problems.humaneval()
    except DataError as error:
        pytest.skip(str(error))
    assert len(derived(published, "single_line")) == 1033
    assert len(derived(published, "multi_line")) == 5815
