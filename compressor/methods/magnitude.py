"""Magnitude: keep the largest |w| of the weights that are there.

Source: papers/baselines.md §2; ganguli-lab/Synaptic-Flow Pruners/pruners.py (Mag). Differs: the count is exact
and ties are kept by position, where the reference drops every weight equal to the threshold.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compressor.selection import select
from compressor.weights import Mask, prunable, refuse_nan


def magnitude(
    model: nn.Module,
    density: float,
    data: Any = None,  # noqa: ARG001 - the socket of the menu; magnitude needs none
    *,
    generator: torch.Generator | None = None,  # noqa: ARG001
    scope: str = "global",
    exclude: Sequence[str] = (),
) -> Mask:
    """Return the mask of the largest |w|. Raises InputError for NaN weights or a density outside (0, 1]."""
    weights = prunable(model, exclude)
    refuse_nan(weights, "weight")
    return select({name: weight.detach().abs() for name, weight in weights.items()}, density, scope)
