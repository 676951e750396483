"""Random: keep a uniform subset of exactly the asked size.

Source: papers/baselines.md §2; Liu et al. 2022 (arXiv 2202.02643) for random with "erk". Differs from
ganguli-lab/Synaptic-Flow (Rand): the caller's generator instead of the global one, and one draw per weight in
float64 on the CPU, so that the mask depends on the seed alone and not on device or dtype.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compressor.selection import select
from compressor.weights import Mask, prunable


def random(
    model: nn.Module,
    density: float,
    data: Any = None,  # noqa: ARG001 - the socket of the menu; random needs none
    *,
    generator: torch.Generator | None = None,
    scope: str = "global",
    exclude: Sequence[str] = (),
) -> Mask:
    """Keep weights drawn uniformly, by seed 0 without a generator. Raises InputError as `select` does."""
    source = generator if generator is not None else torch.Generator().manual_seed(0)
    if source.device.type != "cpu":
        source = torch.Generator().manual_seed(source.initial_seed())
    draws = {
        name: torch.rand(weight.shape, generator=source, dtype=torch.float64, device="cpu")
        for name, weight in prunable(model, exclude).items()
    }
    return select(draws, density, scope)
