"""Iterative SNIP: SNIP in small steps, scored anew on what is left; what is pruned stays pruned.

Source: de Jorge et al. 2021 (arXiv 2006.09081); papers/force.md; naver/force pruning/pruning_algos.py
(prune_method 1). The rounds, and where we differ, are those of `force`, in force.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compressor.methods.force import progressive
from compressor.methods.rounds import OnRound
from compressor.methods.scratch import Loss, cross_entropy
from compressor.weights import Mask


def iterative_snip(
    model: nn.Module,
    density: float,
    data: Any = None,
    *,
    generator: torch.Generator | None = None,  # noqa: ARG001 - the socket of the menu; nothing is drawn
    scope: str = "global",
    exclude: Sequence[str] = (),
    rounds: int = 10,
    mode: str = "train",
    loss: Loss = cross_entropy,
    on_round: OnRound | None = None,
) -> Mask:
    """Keep the largest |w * dL/dw| of the weights that are left, in rounds of exponentially falling density.

    rounds, mode, data, loss and what is raised: as for `force`.
    """
    return progressive(
        model,
        density,
        data,
        method="iterative-snip",
        nested=True,
        scope=scope,
        exclude=exclude,
        rounds=rounds,
        mode=mode,
        loss=loss,
        on_round=on_round,
    )
