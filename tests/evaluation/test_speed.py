"""What is timed, and how the times are put together."""

import pytest

from codellama.evaluation.speed import Speed, Workload, our_run, speeds
from codellama.inference.decoding import Timing


def test_prompts_are_the_same_at_every_call_and_fit_the_vocabulary():
    work = Workload(prompt_tokens=9, new_tokens=2, batch=3)
    prompts = work.prompts(50)
    assert prompts == work.prompts(50)
    assert list(map(len, prompts)) == [9, 9, 9]
    assert all(0 <= id < 50 for ids in prompts for id in ids)


@pytest.mark.parametrize(("longest", "lengths"), [(8, [2, 4, 6, 8]), (3, [1, 2, 3, 3])])
def test_ragged_prompts_rise_evenly_to_the_longest(longest, lengths):
    work = Workload(longest, new_tokens=2, batch=4, ragged=True)
    assert list(map(len, work.prompts(50))) == lengths


def test_a_run_reads_every_prompt_and_writes_every_token(llm):
    timing = our_run(llm, Workload(8, new_tokens=5, batch=4, ragged=True))()
    assert (timing.prompt_tokens, timing.decoded_tokens) == (20, 16)
    assert timing.prefill_seconds > 0 < timing.decode_seconds


def test_runs_take_turns_and_a_first_round_does_not_count():
    order = []

    def run(name, *seconds):
        left = iter(seconds)

        def once():
            order.append(name)
            taken = next(left)
            return Timing(10, taken, 20, 2 * taken)

        return once

    found = speeds([run("a", 99, 1, 5, 2), run("b", 99, 10, 40, 20)], repeats=3)
    assert order == ["a", "b"] * 4
    assert found == [Speed(5.0, 5.0, 6.0), Speed(0.5, 0.5, 60.0)]
