"""Loss curves."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codellama.errors import DataError
from codellama.evaluation import plotting

LOG = [
    {"stage": stage, "step": step, "tokens": 384 * number + 64 * step, "loss": 6 / step}
    | ({"validation_loss": 7 / step} if step % 2 == 0 else {})
    for number, stage in enumerate(("stage1", "stage2"))
    for step in range(1, 7)
]


@pytest.mark.parametrize("count", [1, 2, 50, 1_000])
@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
def test_a_constant_stays_what_it_is(value, count):
    assert plotting.smoothed([value] * count) == pytest.approx([value] * count)


def test_a_single_value_stays_what_it_is():
    assert plotting.smoothed([7.25]) == pytest.approx([7.25])


def test_nothing_has_no_mean():
    assert plotting.smoothed([]) == []


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1))
def test_a_mean_lies_among_the_values_so_far(values):
    for count, mean in enumerate(plotting.smoothed(values), 1):
        assert min(values[:count]) - 1e-6 <= mean <= max(values[:count]) + 1e-6


def test_a_step_is_followed_and_forgotten():
    means = plotting.smoothed([4.0] * 500 + [2.0] * 500)
    assert means[499] == pytest.approx(4.0)
    assert all(after < before for before, after in pairwise(means[499:]))
    assert means[-1] == pytest.approx(2 + 2 * plotting.SMOOTHING**500, rel=1e-3)
    halved = 500 + math.ceil(math.log(0.5, plotting.SMOOTHING))
    assert 2.9 < means[halved] < 3.1


@pytest.mark.parametrize("stages", [("stage1",), ("stage1", "stage2")])
def test_the_curves_are_drawn_to_a_picture_and_nothing_left_beside_it(tmp_path, stages):
    pytest.importorskip("matplotlib")
    path = tmp_path / "loss.png"
    plotting.loss_curves([record for record in LOG if record["stage"] in stages], path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n")
    assert list(tmp_path.iterdir()) == [path]


def test_the_files_ending_decides_on_the_format(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "loss.svg"
    plotting.loss_curves(LOG, path)
    assert "<svg" in path.read_text()


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for refused in (plotting.check,):
        with pytest.raises(DataError, match=r"pip install 'codellama\[plots\]'") as error:
            refused(tmp_path / "loss.png")
        assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("loss.xyz", r"loss\.xyz: expected a name that ends in one of .*\.png"),
        ("loss", r"loss: expected a name that ends in one of .*\.png"),
        ("absent/loss.png", r"absent is no directory"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused(tmp_path, name, says):
    pytest.importorskip("matplotlib")
    with pytest.raises(DataError, match=says):
        plotting.check(tmp_path / name)
