"""What is timed, and how the times are put together."""

from codellama.evaluation.speed import Workload, speeds
from codellama.inference.scheduler import Timing


def test_a_run_reads_every_prompt_and_writes_every_token(llm):
    assert all(rate > 0 for rate in speeds(llm, Workload(8, 5, 4, repeats=1)).values())
    timing = llm.timing
    assert (timing.prompt_tokens, timing.decoded_tokens) == (32, 16)


def test_figures_are_medians_and_a_first_run_does_not_count(llm, monkeypatch):
    seconds = iter([99, 1, 5, 2])

    def generate(*_, **__):
        taken = next(seconds)
        llm.timing = Timing(10, taken, 20, 2 * taken)

    monkeypatch.setattr(llm, "generate", generate)
    assert speeds(llm, Workload(repeats=3)) == {
        "prefill_tokens_per_second": 5.0,
        "decode_tokens_per_second": 5.0,
        "seconds": 6.0,
    }
