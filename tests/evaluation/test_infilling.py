"""Lines that are taken out of files, and whether they are written again."""

from collections import Counter
from types import SimpleNamespace

import pytest

from codellama.evaluation.infilling import Gap, exact_matches
from codellama.evaluation.infilling import gaps as line_gaps

TEXTS = [
    "".join(f"    x_{number} = f({number})\n" + "\n" * (number % 2) for number in range(12)),
    "import os\n\n\ndef f():\n\treturn 1",
    "a = 1\r\n\r\nb = 'é生'\r\n",
    "\n  \n",
    "",
]


class Filler:
    """Stands for a model: fills each gap as a table says, and notes how it was asked."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table
        self.calls = []

    def infill(self, pairs, suffix_first=False, **options):
        self.calls.append((list(pairs), suffix_first, options))
        return [SimpleNamespace(text=self.table[prefix]) for prefix, _ in pairs]


def all_lines(texts):
    return [line.strip() for text in texts for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("context", [0, 1, 16, 64, 10_000])
def test_a_gap_is_a_line_among_those_that_surround_it(tokenizer, context):
    for gap in line_gaps(TEXTS, tokenizer, 100, context):
        assert any(gap.prefix + gap.middle + gap.suffix in text for text in TEXTS)
        assert gap.middle.strip()
        assert "\n" not in gap.middle
        assert not gap.prefix or gap.prefix.endswith("\n")
        assert not gap.suffix or gap.suffix.startswith("\n")


def test_every_line_that_is_not_blank_is_taken_out_once(tokenizer):
    taken = Counter(gap.middle.strip() for gap in line_gaps(TEXTS, tokenizer, 100))
    assert taken == Counter(all_lines(TEXTS))


def test_with_room_for_it_the_whole_text_surrounds_the_gap(tokenizer):
    for gap in line_gaps(TEXTS, tokenizer, 100, context=10_000):
        assert gap.prefix + gap.middle + gap.suffix in TEXTS


@pytest.mark.parametrize("context", [0, 1, 16, 40, 64])
def test_no_more_tokens_than_half_the_context_are_on_a_side(tokenizer, context):
    def size(text):
        return sum(len(tokenizer.encode(line)) for line in text.splitlines(keepends=True))

    shortened = 0
    for gap in line_gaps(TEXTS, tokenizer, 100, context):
        assert size(gap.prefix) <= context // 2
        assert size(gap.suffix.removeprefix("\n")) <= context // 2
        shortened += gap.prefix + gap.middle + gap.suffix not in TEXTS
    assert shortened


def test_the_lines_next_to_the_gap_are_those_that_are_kept(tokenizer):
    lines = [f"x_{number} = {number}\n" for number in range(30)]
    for gap in line_gaps(["".join(lines)], tokenizer, 100, context=48):
        place = lines.index(gap.middle + "\n")
        before = gap.prefix.splitlines(keepends=True)
        after = gap.suffix.splitlines(keepends=True)[1:]
        assert before == lines[place - len(before) : place]
        assert after == lines[place + 1 : place + 1 + len(after)]
        assert len(before) >= min(place, 2)
        assert len(after) >= min(len(lines) - 1 - place, 2)


def test_the_gaps_follow_from_the_seed(tokenizer):
    def gaps(seed):
        return line_gaps(iter(TEXTS), tokenizer, 8, seed=seed)

    assert len(gaps(0)) == 8
    assert gaps(0) == gaps(0)
    assert gaps(0) != gaps(1)


def test_files_take_turns_and_their_lines_are_drawn_evenly(tokenizer):
    texts = ["short\n", "".join(f"long {number}\n" for number in range(9))]
    drawn = Counter(
        gap.middle for seed in range(900) for gap in line_gaps(texts, tokenizer, 2, seed=seed)
    )
    assert drawn.pop("short") == 900
    assert set(drawn) == set(all_lines(texts[1:]))
    assert all(count == pytest.approx(100, abs=4 * 9) for count in drawn.values())


def test_no_file_is_always_the_first(tokenizer):
    texts = ["one\n", "two\n", "three\n"]
    drawn = {line_gaps(texts, tokenizer, 1, seed=seed)[0].middle for seed in range(40)}
    assert drawn == {"one", "two", "three"}


def test_files_that_have_no_line_left_leave_the_turns_to_the_others(tokenizer):
    texts = ["short\n", "a\nb\nc\n", "".join(f"long {number}\n" for number in range(9))]
    rounds = [[gap.middle[:4] for gap in line_gaps(texts, tokenizer, n)] for n in (3, 5, 7, 8)]
    assert [found.count("long") for found in rounds] == [1, 2, 3, 4]
    assert [found.count("shor") for found in rounds] == [1, 1, 1, 1]


def test_a_fill_that_equals_the_line_but_for_spaces_around_it_is_a_match():
    fills = {"a": "x = 1", "b": "  x = 1 \n", "c": "x  = 1", "d": "", "e": "x = 12"}
    llm = Filler(fills)
    gaps = [Gap(prefix, "    x = 1", "\n") for prefix in fills]
    assert exact_matches(llm, gaps, suffix_first=False) == [True, True, False, False, False]


@pytest.mark.parametrize("suffix_first", [False, True])
def test_the_model_is_asked_in_groups_for_one_line_each(suffix_first):
    llm = Filler({str(number): "x" for number in range(7)})
    gaps = [Gap(str(number), "x" if number % 2 else "y", f"\n{number}") for number in range(7)]
    seen = []
    matches = exact_matches(
        llm, gaps, suffix_first, lambda *state: seen.append(state), group=3, seed=5
    )
    assert matches == [bool(number % 2) for number in range(7)]
    asked = [pair for pairs, _, _ in llm.calls for pair in pairs]
    assert asked == [(gap.prefix, gap.suffix) for gap in gaps]
    assert [len(pairs) for pairs, _, _ in llm.calls] == [3, 3, 1]
    assert {first for _, first, _ in llm.calls} == {suffix_first}
    assert seen == [(3, 7), (6, 7), (7, 7)]
    for _, _, options in llm.calls:
        assert (options["stop"], options["seed"]) == (("\n",), 5)
        assert options["batch_size"] >= 3


def test_options_can_be_given_instead():
    llm = Filler({"a": "x"})
    exact_matches(llm, [Gap("a", "x", "")], False, max_new_tokens=3)
    [(_, _, options)] = llm.calls
    assert options["max_new_tokens"] == 3


@pytest.mark.parametrize("suffix_first", [False, True])
def test_a_model_fills_the_gaps_as_infilling_does(llm, tokenizer, suffix_first):
    gaps = line_gaps(TEXTS, tokenizer, 5, context=16)
    pairs = [(gap.prefix, gap.suffix) for gap in gaps]
    filled = llm.infill(pairs, suffix_first, max_new_tokens=4, stop=("\n",))
    copied = [
        Gap(gap.prefix, completion.text, gap.suffix)
        for gap, completion in zip(gaps, filled, strict=True)
    ]
    assert all(exact_matches(llm, copied, suffix_first, max_new_tokens=4))
    other = [Gap(gap.prefix, gap.middle + "?", gap.suffix) for gap in copied]
    assert not any(exact_matches(llm, other, suffix_first, max_new_tokens=4))


def test_no_gap_holds_spaces_alone(tokenizer):
    text = "".join(f"{' ' * 40}x{number}\n" for number in range(200))
    found = line_gaps([text], tokenizer, 200, inside=True)
    assert 0 < len(found) < 200
    assert all(gap.middle.strip() for gap in found)
