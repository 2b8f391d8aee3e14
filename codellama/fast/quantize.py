"""Quantisation while loading: each matrix becomes integers as soon as it is read.

Slow: loading a model and rounding it then needs memory for all of it in both forms.
Instead: a `Place` rounds one matrix after the other.
Gains: a 7B in int4 is loaded within 5.4 GB of memory.
Costs: nothing.
Not for: embedding and norms, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from codellama.fast.int4 import Int4Linear
from codellama.fast.int8 import Int8Linear, QuantizedLinear
from codellama.model.transformer import Transformer
from codellama.weights.loading import Place, place_whole


def layer_class(mode: str, name: str, shape: torch.Size) -> type[QuantizedLinear]:
    """The class for the weight `name` of shape (out, in). In mode "int4" it has 8 bits all the same
    where the 4-bit kernel does not take such a matrix, and for the output matrix, as in other
    runners: it matters most."""
    fits = mode == "int4" and name != "output.weight" and Int4Linear.fits(shape)
    return Int4Linear if fits else Int8Linear


def place_quantized(
    mode: str, finish: Callable[[QuantizedLinear], nn.Module] | None = None
) -> Place:
    """Rounds the matrices of a model as they are read.

    Args:
        mode: "int8" or "int4".
        finish: what becomes of each layer at last, such as prepacking.
    """

    def place(model: Transformer, name: str, read: Callable[..., Tensor], /) -> None:
        owner = name.removesuffix(".weight")
        if not isinstance(model.get_submodule(owner), nn.Linear):
            return place_whole(model, name, read)
        weight = read()
        layer = layer_class(mode, name, weight.shape).from_weight(weight)
        return model.set_submodule(owner, finish(layer) if finish else layer)

    return place
