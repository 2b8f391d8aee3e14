"""Pictures of measurements, for those who have the extra `plots` installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from codellama.training.plotting import save


def curve(path: Path, edges: Sequence[int], losses: Sequence[float]) -> None:
    """Perplexity by position, which is logarithmic (figure 4a)."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    axes.plot(edges[1:], [math.exp(loss) for loss in losses], "o-")
    axes.set(xscale="log", xlabel="position, tokens", ylabel="perplexity")
    save(figure, path)


def heat_map(path: Path, shares: Mapping[tuple[int, float], float]) -> None:
    """Key retrieval: a field for each length (across) and position of the key (down), in %."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    lengths, places = (sorted(set(parts)) for parts in zip(*shares, strict=True))
    rows = [[100 * shares[length, place] for length in lengths] for place in places]
    axes.imshow(rows, vmin=0, vmax=100, cmap="RdYlGn", aspect="auto")
    axes.set(xlabel="length, tokens", ylabel="position of the key")
    axes.set_xticks(range(len(lengths)), lengths)
    axes.set_yticks(range(len(places)), places)
    for row, shown in enumerate(rows):
        for column, value in enumerate(shown):
            axes.text(column, row, f"{value:.1f}", ha="center", va="center")
    save(figure, path)
