"""Pictures of measurements, for those who have the extra `plots` installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codellama.errors import DataError


def check(path: Path) -> None:
    """Raises DataError if nothing can draw such a file."""
    if importlib.util.find_spec("matplotlib") is None:
        raise DataError("plots need matplotlib; pip install 'codellama[plots]'")
    from matplotlib.backend_bases import FigureCanvasBase

    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats or not path.parent.is_dir():
        raise DataError(f"{path}: expected a name that ends in one of .{', .'.join(formats)}")


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    return figure, figure.subplots()


def curves(path: Path, edges: Sequence[int], losses: Mapping[str, Sequence[float]]) -> None:
    """Perplexity by position, which is logarithmic, a line a model (figure 4a)."""
    check(path)
    figure, axes = _figure()
    for name, nats in losses.items():
        axes.plot(edges[1:], [2.718281828459045**loss for loss in nats], "o-", label=name)
    axes.set(xscale="log", xlabel="position, tokens", ylabel="perplexity")
    axes.legend()
    figure.savefig(path)


def heat_map(path: Path, shares: Mapping[tuple[int, float], float]) -> None:
    """Key retrieval: a field for each length (across) and position of the key (down), in %."""
    check(path)
    figure, axes = _figure()
    lengths, positions = (sorted(set(parts)) for parts in zip(*shares, strict=True))
    rows = [[100 * shares[length, place] for length in lengths] for place in positions]
    picture = axes.imshow(rows, vmin=0, vmax=100, cmap="RdYlGn", aspect="auto")
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(positions)), [f"{place:g}" for place in positions])
    axes.set(xlabel="length, tokens", ylabel="relative position of the key")
    for row, shown in enumerate(rows):
        for column, value in enumerate(shown):
            axes.text(column, row, f"{value:.1f}", ha="center", va="center")
    figure.colorbar(picture, label="%")
    figure.savefig(path)
