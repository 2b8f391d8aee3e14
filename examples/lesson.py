"""What the lessons share: tables of tensors, comparisons, text to learn from, and pictures."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codellama import Tokenizer
from codellama.evaluation import plotting
from codellama.training.documents import find_documents, read_document


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

    def axes(self, columns: int, width: float, height: float) -> AbstractContextManager[list[Any]]:
        """A row of axes to draw in; the picture is written at the end."""
        return plotting.picture(Path(str(self.plot)), columns, (width, height))


def title(text: str) -> None:
    """Begins a part of a lesson."""
    print(f"\n{text}\n{'-' * len(text)}")


def show(name: str, tensor: torch.Tensor, meaning: str) -> None:
    """A line with a tensor's name, shape, last numbers and meaning."""
    last = tensor.flatten()[-3:].tolist()
    numbers = " ".join(str(one) if isinstance(one, int) else f"{one:.2f}" for one in last)
    print(f"{name:<10} {tuple(tensor.shape)!s:<12} … {numbers:<18} {meaning}")


def same(claim: str, one: torch.Tensor, other: torch.Tensor, expect: bool = True) -> None:
    """Prints by how much two results differ, and asserts that they are the same, or are not."""
    difference = (one - other).abs().max().item()
    assert (difference < 1e-3) == expect, f"{claim}: they differ by {difference:.1e}"
    print(f"{claim}: {'same' if expect else 'different'} ✓ (by {difference:.1e})")


def python_source(tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of some of Python's standard library: files to learn from, and held-out files."""
    files = find_documents()
    learned, held_out = (
        torch.tensor(tokenizer.encode("".join(read_document(path) for path in paths)))
        for paths in (files.train[:60], files.held_out[:20])
    )
    return learned, held_out


def heat_map(axes: Any, attention: torch.Tensor, words: list[str]) -> None:
    """Draws one head's attention, (seq, seq): a row for each query, a column for each key."""
    plotting.matrix(axes, attention, words, words, limits=(0, 1))
    axes.tick_params("x", rotation=90)
    axes.set(xlabel="key", ylabel="query")
