"""Pictures of measurements."""

import re

import pytest

from codellama.errors import DataError
from codellama.evaluation import plotting
from codellama.evaluation.plotting import check

pytest.importorskip("matplotlib")


def test_a_curve_and_a_heat_map_are_drawn(tmp_path):
    plotting.curve(tmp_path / "a.png", [0, 128, 1024], [2.0, 1.5])
    shares = {(1000, 0.0): 0.0, (1000, 0.4): 1.0, (2000, 0.0): 0.5, (2000, 0.4): 0.25}
    plotting.heat_map(tmp_path / "b.svg", shares)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    drawn = re.findall(r">(\d+)</text>", (tmp_path / "b.svg").read_text())
    assert drawn[-4:] == ["0", "50", "100", "25"]


@pytest.mark.parametrize(
    ("name", "says"),
    [("a", "expected a name"), ("a.txt", "expected a name"), ("absent/a.png", "is no directory")],
)
def test_files_that_cannot_be_drawn_are_refused(tmp_path, name, says):
    with pytest.raises(DataError, match=says):
        check(tmp_path / name)
