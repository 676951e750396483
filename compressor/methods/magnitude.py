"""Magnitude: keep the largest |w| of the weights that are there.

Source: papers/baselines.md §2; ganguli-lab/Synaptic-Flow Pruners/pruners.py (Mag). Differs: the count is exact
and ties are kept by position, where the reference drops every weight equal to the threshold. Iterative pruning
ranks what a mask before it kept (papers/lr-rewinding.md §2), so that what is pruned stays pruned.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import InputError
from compressor.selection import Quota, keep, quotas, select
from compressor.weights import Mask, fit, prunable, refuse_nan


def magnitude(
    model: nn.Module,
    density: float,
    data: Any = None,  # noqa: ARG001 - the socket of the menu; magnitude needs none
    *,
    generator: torch.Generator | None = None,  # noqa: ARG001
    scope: str = "global",
    exclude: Sequence[str] = (),
    within: Mapping[str, Tensor] | None = None,
) -> Mask:
    """Return the mask of the largest |w|; within: of those that this mask keeps, and of no others.

    Raises InputError for NaN weights, a density outside (0, 1], or a `within` that does not fit or keeps less.
    """
    weights = prunable(model, exclude)
    refuse_nan(weights, "weight")
    scores = {name: weight.detach().abs() for name, weight in weights.items()}
    if within is None:
        return select(scores, density, scope)
    _check(model, scores, within)
    for name, score in scores.items():
        score.masked_fill_(~within[name].to(score.device), -1.0)
    wanted = quotas({name: tuple(score.shape) for name, score in scores.items()}, density, scope)
    return Mask(keep(scores, _narrowed(wanted, within)))


def _check(model: nn.Module, scores: Mapping[str, Tensor], within: Mapping[str, Tensor]) -> None:
    fit(model, within)
    if set(within) != set(scores):
        odd = min(set(within) ^ set(scores))
        raise InputError(
            f'within: "{odd}" is masked or prunable, not both; give the mask of the round before'
        )


def _narrowed(wanted: Sequence[Quota], within: Mapping[str, Tensor]) -> list[Quota]:
    """Return the quotas with none above what its layers have left; what is over goes to those with most to spare.

    Quotas per layer are rounded anew at every density, and a lower density may round a layer up by one.
    """
    left = [sum(int(within[name].sum()) for name in names) for names, _ in wanted]
    counts = [min(count, alive) for (_, count), alive in zip(wanted, left, strict=True)]
    over = sum(count for _, count in wanted) - sum(counts)
    if over > sum(left) - sum(counts):
        raise InputError(
            f"within keeps {sum(left)} weights, fewer than the {sum(counts) + over} of this density"
        )
    for _ in range(over):
        counts[max(range(len(counts)), key=lambda i: left[i] - counts[i])] += 1
    return [(names, count) for (names, _), count in zip(wanted, counts, strict=True)]
