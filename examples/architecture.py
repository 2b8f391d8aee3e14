"""Draw the architecture of Code Llama, each part with the file that computes it.

    python examples/architecture.py picture.svg

Left: the whole model, from token ids to logits. Right: one of its blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codellama.cli import run
from codellama.evaluation import plotting

LINES = "#555555"
COLOURS = {
    "memory": "#f3e3c3",
    "attention": "#cfe3f5",
    "feed_forward": "#d5ecd0",
    "other": "#eeeeee",
}
"""A colour for each kind of part."""
SUM = ("+", "", "other")
MODEL = (
    ("token ids", "text/tokenizer.py", "other"),
    ("token embeddings", "model/transformer.py", "memory"),
    ("block 0", "", "attention"),
    ("…", "", "attention"),
    ("block n − 1", "", "attention"),
    ("RMSNorm", "model/norm.py", "other"),
    ("output matrix: logits", "model/transformer.py", "memory"),
    ("next token", "inference/generation.py", "other"),
)
BLOCK = (
    ("RMSNorm", "model/norm.py", "other"),
    ("queries, keys, values: wq, wk, wv", "model/attention.py", "attention"),
    ("RoPE rotates queries and keys", "model/rotary.py", "attention"),
    ("KV cache: earlier tokens' keys and values", "model/kv_cache.py", "memory"),
    ("grouped-query attention, wo", "model/attention.py", "attention"),
    SUM,
    ("RMSNorm", "model/norm.py", "other"),
    ("SwiGLU: w2(silu(w1 x) · w3 x)", "model/feed_forward.py", "feed_forward"),
    SUM,
)


@dataclass(frozen=True)
class Drawing:
    """Where the picture goes.

    Args:
        picture: file to write, such as picture.svg.
    """

    picture: str

    def __post_init__(self) -> None:
        plotting.check(Path(self.picture))


def draw(drawing: Drawing) -> None:
    """Draw the architecture, each part with its file."""
    with plotting.picture(Path(drawing.picture), size=(7.2, 6.2)) as (axes,):
        axes.set(xlim=(0, 100), ylim=(0, 100))
        axes.axis("off")
        model = column(axes, MODEL, middle=17)
        block = column(axes, BLOCK, middle=70)
        line(axes, (70, 100), (70, block[0] + 3.5))
        for first, last in ((0, 5), (6, 8)):  # the residual connection around each half
            start, end = block[first] + 4.8, block[last]
            line(axes, (70, start), (98, start), (98, end), (71.6, end))
        for of_block, side in ((block[0] + 6, 1.8), (block[-1] - 2, -1.8)):
            axes.plot([23, 47], [model[2] + side, of_block], ":", color=LINES, lw=1)


def column(axes: Any, parts: tuple[tuple[str, str, str], ...], middle: float) -> list[float]:
    """Draws parts below each other, with arrows between them; returns their heights."""
    step = 98 / len(parts)
    heights = [98 - step * (number + 0.5) for number in range(len(parts))]
    for number, ((name, file, kind), height) in enumerate(zip(parts, heights, strict=True)):
        style = "round,pad=0.4" if (name, file, kind) != SUM else "circle,pad=0.2"
        box = {"boxstyle": style, "fc": COLOURS[kind], "ec": LINES, "lw": 0.8}
        text = f"{name}\n{file}" if file else name
        axes.text(middle, height, text, ha="center", va="center", size=9, bbox=box)
        if number:
            line(axes, (middle, heights[number - 1]), (middle, height + (3.5 if file else 1.9)))
    return heights


def line(axes: Any, *corners: tuple[float, float]) -> None:
    """An arrow around corners, behind the parts."""
    axes.plot(*zip(*corners[:-1], strict=True), color=LINES, lw=0.8, zorder=0)
    arrow = {"arrowstyle": "->", "color": LINES, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", corners[-1], corners[-2], arrowprops=arrow, zorder=0)


if __name__ == "__main__":
    run(draw, first="picture")
