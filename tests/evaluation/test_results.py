"""Results that are appended, gone on with, and told from those of other runs."""

import json

import pytest

from codellama.errors import DataError
from codellama.evaluation.results import Results


def squares(results, numbers, size=1):
    """Measures the squares of numbers; returns those it had to compute, and all."""
    asked = []
    for group in results.missing(numbers, size):
        for number in group:
            asked.append(number)
            results.add(number, square=number * number)
    return asked, [results.records[number]["square"] for number in numbers]


def test_results_are_in_the_file_at_once_and_not_measured_again(tmp_path):
    path = tmp_path / "results.jsonl"
    squares(Results(path, "run"), [1, 2, 3], size=2)
    assert squares(Results(path, "run"), [2, 3, 4]) == ([4], [4, 9, 16])
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_keys_of_several_parts_are_known_again(tmp_path):
    path, key = tmp_path / "results.jsonl", ("HumanEval/1", "psm", 0)
    Results(path, "run").add(key, completion="x")
    assert list(Results(path, "run").missing([key])) == []


def test_a_line_that_was_not_finished_is_measured_again(tmp_path):
    path = tmp_path / "results.jsonl"
    squares(Results(path, "run"), [1, 2])
    for torn in (path.read_bytes()[:-5], path.read_bytes()[:3]):
        path.write_bytes(torn)
        squares(Results(path, "run"), [1, 2])
        assert sorted(json.loads(line)["key"] for line in path.read_text().splitlines()) == [1, 2]


def test_results_of_another_run_are_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    squares(Results(path, "one model"), [1])
    before = path.read_bytes()
    with pytest.raises(DataError, match="'one model', but this run is 'another'"):
        Results(path, "another")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["notes.txt", "problems.jsonl.gz", "results.jsonl"])
@pytest.mark.parametrize(
    "content", [b"a note", b"a note\nand another", b'{"task": 1}', b"\x1f\x8b\n1"]
)
def test_a_file_of_something_else_stays_as_it_is(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError):
        Results(path, "run")
    assert path.read_bytes() == content


def test_without_a_file_results_are_kept_in_memory_and_progress_is_told():
    seen = []
    results = Results(progress=lambda *state: seen.append(state))
    assert squares(results, [3, 4, 5], size=2) == ([3, 4, 5], [9, 16, 25])
    assert seen == [(2, 3), (3, 3)]
