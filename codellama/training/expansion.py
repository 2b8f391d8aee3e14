"""More blocks for a trained model, which change nothing until they have learned something.

After LLaMA Pro (Wu et al. 2024, arXiv 2401.02415, section 3.2).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from codellama.model.transformer import Transformer, TransformerBlock
from codellama.training.trainer import draw


def insert_blocks(model: Transformer, count: int, generator: torch.Generator) -> None:
    """Spreads `count` blocks evenly over a model, the last one on top of it.

    They write zeros to the residual stream, as in the paper. What they read with is not copied from
    their neighbours, though, but drawn anew, so that each looks at all tokens alike: from there a
    model learned to look where its trained blocks never had.
    """
    old = list(model.layers)
    config = replace(model.config, n_layers=len(old) + count)
    blocks: list[nn.Module] = []
    for number, block in enumerate(old):
        blocks.append(block)
        behind = (number + 1) * count // len(old) - number * count // len(old)
        for _ in range(behind):
            new = TransformerBlock(config)
            draw(new, config.dim, generator, stream_scale=0.0)
            blocks.append(new)
    model.config, model.layers = config, nn.ModuleList(blocks)
