"""SNIP: keep the weights whose removal changes the loss most, whichever the sign of the change.

Source: Lee, Ajanthan, Torr 2019 (arXiv 1810.02340); papers/snip-grasp.md §2; ganguli-lab/Synaptic-Flow
Pruners/pruners.py (SNIP). Differs: the count is exact and ties fall by position; scores are not divided by their
sum, which changes no order and makes ties in float32; the weights that are scored are those that will be trained,
where the first code draws others; gradients are taken of the prunable weights alone, and none is left behind.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressor.batches import labelled
from compressor.methods.rounds import refuse_useless
from compressor.methods.scratch import Loss, cross_entropy, scratch, summed_gradients
from compressor.selection import select
from compressor.weights import Mask


def snip(
    model: nn.Module,
    density: float,
    data: Any = None,
    *,
    generator: torch.Generator | None = None,  # noqa: ARG001 - the socket of the menu; nothing is drawn
    scope: str = "global",
    exclude: Sequence[str] = (),
    mode: str = "eval",
    loss: Loss = cross_entropy,
) -> Mask:
    """Keep the largest |w * dL/dw|: one forward and one backward pass of the data.

    data: (x, y) or batches of it; gradients are summed over batches before the absolute value. mode: "eval" or
    "train" for batch norm. loss: of (output, y). Raises InputError for missing data, data or a loss that do not
    fit, weights or scores that are not finite, scores that are all 0, and a density outside (0, 1].
    """
    return select(snip_scores(model, data, exclude=exclude, mode=mode, loss=loss), density, scope)


def snip_scores(
    model: nn.Module,
    data: Any,
    *,
    exclude: Sequence[str] = (),
    mode: str = "eval",
    loss: Loss = cross_entropy,
) -> dict[str, Tensor]:
    """Return |w * dL/dw|, the connection sensitivity of every prunable weight, not normalised."""
    batches = labelled(data, "snip")
    with scratch(model, exclude, mode=mode) as (probe, weights):
        found = summed_gradients(probe, weights, batches, loss)
        scores = {name: sensitivity(weights[name], gradient) for name, gradient in found.items()}
    refuse_useless(scores, "snip")
    return scores


@torch.no_grad()
def sensitivity(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return |w * dL/dw| in the memory of the gradient."""
    return gradient.mul_(weight).abs_()
