"""What the lessons share: tables of tensors, and pictures for those who have the extra `plots`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codellama.evaluation import plotting


@dataclass(frozen=True)
class Picture:
    """A picture beside the text.

    Args:
        plot: draw a picture into this file, such as lesson.png.
    """

    plot: str | None = None

    def __post_init__(self) -> None:
        if self.plot is not None:
            plotting.check(Path(self.plot))

    @contextmanager
    def axes(self, columns: int, width: float, height: float) -> Iterator[Any]:
        """A row of axes to draw in; the picture is written at the end."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(1, columns, squeeze=False)[0]
        figure.savefig(str(self.plot), dpi=80)


def title(text: str) -> None:
    """Begins a part of a lesson."""
    print(f"\n{text}\n{'-' * len(text)}")


def show(name: str, tensor: torch.Tensor, meaning: str) -> None:
    """A line with a tensor's name, shape and meaning."""
    print(f"{name:<12} {tuple(tensor.shape)!s:<16} {meaning}")
