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
    with _axes(path) as axes:
        axes.plot(edges[1:], [math.exp(loss) for loss in losses], "o-")
        axes.set(xscale="log", xlabel="position, tokens", ylabel="perplexity")


def heat_map(path: Path, shares: Mapping[tuple[int, float], float]) -> None:
    """Key retrieval: a field for each length (across) and position of the key (down), in %."""
    lengths, places = (sorted(set(parts)) for parts in zip(*shares, strict=True))
    rows = [[100 * shares[length, place] for length in lengths] for place in places]
    with _axes(path) as axes:
        axes.imshow(rows, vmin=0, vmax=100, cmap="RdYlGn", aspect="auto")
        axes.set(xlabel="length, tokens", ylabel="position of the key")
        axes.set_xticks(range(len(lengths)), lengths)
        axes.set_yticks(range(len(places)), places)
        for row, shown in enumerate(rows):
            for column, value in enumerate(shown):
                axes.text(column, row, f"{value:.1f}", ha="center", va="center")


def loss_curves(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Training and held-out loss over tokens, a curve for each stage of a run's log."""
    with _axes(path, figsize=(8, 5)) as axes:
        for stage in dict.fromkeys(record["stage"] for record in log):
            steps = [record for record in log if record["stage"] == stage]
            losses = smoothed([step["loss"] for step in steps])
            axes.plot([step["tokens"] for step in steps], losses, label=f"{stage}, train")
            saved = [step for step in steps if "validation_loss" in step]
            losses = [step["validation_loss"] for step in saved]
            axes.plot([step["tokens"] for step in saved], losses, "o-", label=f"{stage}, held out")
        axes.set(xlabel="tokens", ylabel="nats a token")
        axes.legend()


def smoothed(values: Sequence[float]) -> list[float]:
    """A running mean whose memory fades, without a bias to 0 (arXiv 1412.6980, section 3)."""
    result, mean = [], 0.0
    for count, value in enumerate(values, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        result.append(mean / (1 - SMOOTHING**count))
    return result


@contextlib.contextmanager
def _axes(path: Path, **options: Any) -> Iterator[Any]:
    """Axes of a figure of matplotlib, which is then written beside its place and renamed."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", **options)
    yield figure.subplots()
    temporary = path.with_name(f"{path.stem}.part{path.suffix}")
    figure.savefig(temporary)
    temporary.replace(path)
