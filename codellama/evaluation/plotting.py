"""Pictures of measurements, for those who have the extra `plots` installed."""

from __future__ import annotations

import contextlib
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from codellama.errors import DataError

SMOOTHING = 0.98
STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
}
"""What all pictures have in common, as matplotlib names it."""


def check(path: Path) -> None:
    """Raises DataError if what draws is not installed, or cannot write such a file."""
    if importlib.util.find_spec("matplotlib") is None:
        raise DataError("plots need matplotlib; pip install 'codellama[plots]'")
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise DataError(f"{path}: expected a name that ends in one of .{', .'.join(formats)}")
    if not path.parent.is_dir():
        raise DataError(f"{path.parent} is no directory; expected one to draw {path.name} in")


def curve(path: Path, edges: Sequence[int], losses: Sequence[float]) -> None:
    """Perplexity by position, which is logarithmic (figure 4a)."""
    with picture(path) as (axes,):
        axes.plot(edges[1:], [math.exp(loss) for loss in losses], "o-")
        axes.set(xscale="log", xlabel="position, tokens", ylabel="perplexity")
        axes.set_xticks(edges[1:], [f"{edge:,}" for edge in edges[1:]], minor=False)


def heat_map(path: Path, shares: Mapping[tuple[int, float], float]) -> None:
    """Key retrieval: a field for each length (across) and position of the key (down), in %."""
    lengths, places = (sorted(set(parts)) for parts in zip(*shares, strict=True))
    rows = [[100 * shares[length, place] for length in lengths] for place in places]
    with picture(path) as (axes,):
        names = [f"{length:,}" for length in lengths]
        matrix(axes, rows, names, places, limits=(0, 100), format="{:.0f}", colours="RdYlGn")
        axes.set(xlabel="length, tokens", ylabel="position of the key", title="keys found, %")


def matrix(
    axes: Any,
    rows: Any,
    columns: Sequence[Any],
    names: Sequence[Any],
    *,
    limits: tuple[float, float] | None = None,
    format: str = "",
    colours: str = "Blues",
) -> None:
    """Colours a matrix, and writes the numbers into its cells.

    Args:
        columns, names: labels of the columns, and of the rows.
        limits: numbers that get the first and the last colour; None: the least and the largest.
        format: of a number; "": none is written.
    """
    low, high = limits or (None, None)
    axes.imshow(rows, cmap=colours, vmin=low, vmax=high, aspect="auto")
    axes.grid(False)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(names)), names)
    for row, shown in enumerate(rows if format else ()):
        for column, value in enumerate(shown):
            axes.text(column, row, format.format(value), ha="center", va="center", size=8)


def loss_curves(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Training and held-out loss over tokens, a colour for each stage of a run's log."""
    with picture(path, size=(8, 5)) as (axes,):
        for number, stage in enumerate(dict.fromkeys(record["stage"] for record in log)):
            steps = [record for record in log if record["stage"] == stage]
            tokens, colour = [step["tokens"] / 1e6 for step in steps], f"C{number}"
            losses = smoothed([step["loss"] for step in steps])
            axes.plot(tokens, losses, color=colour, label=f"{stage}, train")
            saved = [step for step in steps if "validation_loss" in step]
            tokens = [step["tokens"] / 1e6 for step in saved]
            losses = [step["validation_loss"] for step in saved]
            axes.plot(tokens, losses, "o--", color=colour, label=f"{stage}, held out")
        axes.set(xlabel="million tokens", ylabel="loss, nats a token")
        axes.legend()


def smoothed(values: Sequence[float]) -> list[float]:
    """A running mean whose memory fades, without a bias to 0 (arXiv 1412.6980, section 3)."""
    result, mean = [], 0.0
    for count, value in enumerate(values, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        result.append(mean / (1 - SMOOTHING**count))
    return result


@contextlib.contextmanager
def picture(
    path: Path, columns: int = 1, size: tuple[float, float] = (6.0, 4.0)
) -> Iterator[list[Any]]:
    """A row of axes in a figure of so many inches, which is then written to a temporary name and
    renamed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        yield [*figure.subplots(1, columns, squeeze=False)[0]]
        temporary = path.with_name(f"{path.stem}.part{path.suffix}")
        figure.savefig(temporary)
    temporary.replace(path)
