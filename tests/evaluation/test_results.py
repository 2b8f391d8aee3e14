"""Results that are appended, gone on with, and told from those of other runs."""

import json

import pytest
import torch

from codellama import CodeLlama
from codellama.errors import DataError
from codellama.evaluation.results import Results, fingerprint


def square(group):
    return [{"task_id": number, "square": number * number} for number in group]


def units(*numbers):
    return {(number, None, None): number for number in numbers}


def test_results_are_in_the_file_at_once_and_not_measured_again(tmp_path):
    path = tmp_path / "results.jsonl"
    Results(path, "run").collect(units(1, 2, 3), square, group=2)
    asked = []
    again = Results(path, "run").collect(
        units(2, 3, 4), lambda group: asked.extend(group) or square(group)
    )
    assert asked == [4]
    assert [record["square"] for record in again] == [4, 9, 16]
    assert [json.loads(line)["task_id"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_line_that_was_not_finished_is_measured_again(tmp_path):
    path = tmp_path / "results.jsonl"
    Results(path, "run").collect(units(1, 2), square)
    for torn in (path.read_bytes()[:-5], path.read_bytes()[:3]):
        path.write_bytes(torn)
        Results(path, "run").collect(units(1, 2), square)
        assert sorted(json.loads(line)["task_id"] for line in path.read_text().splitlines()) == [
            1,
            2,
        ]


def test_results_of_another_run_are_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    Results(path, "one model").collect(units(1), square)
    before = path.read_bytes()
    with pytest.raises(DataError, match="'one model', but this run is 'another'"):
        Results(path, "another")
    assert path.read_bytes() == before


def test_without_a_file_results_are_kept_in_memory():
    seen = []
    found = Results().collect(units(3, 4), square, lambda *state: seen.append(state))
    assert [record["square"] for record in found] == [9, 16]
    assert seen == [(1, 2), (2, 2)]


def test_a_model_is_told_by_its_norms_and_shape(checkpoint, llm):
    same = CodeLlama.load(checkpoint, device="cpu", fast=False)
    assert fingerprint(same) == fingerprint(llm)
    with torch.no_grad():
        same.model.norm.weight[3] += 0.01
    assert fingerprint(same) != fingerprint(llm)
