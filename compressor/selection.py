"""Exact selection: how many weights are kept, and which (DESIGN §3, papers/baselines.md §2).

The count is an equality, whatever the ties; equal scores are kept in order of position (layer order, then
row-major), so the same scores give the same mask on every machine.
"""

from collections.abc import Mapping, Sequence
from math import floor, prod
from typing import Final

import torch
from torch import Tensor

from compressor.errors import InputError, unknown
from compressor.weights import Mask

SCOPES: Final = ("global", "layer", "erk")
# 0.145 * 100 is 14.499999999999998 in floating point, and 15 is what was asked for (baselines.md §2).
_SLACK = 1e-9


def kept_count(density: float, total: int) -> int:
    """Return floor(density * total + 0.5), at least 1. Raises InputError unless 0 < density <= 1."""
    if not 0 < density <= 1:
        raise InputError(f"density {density} is outside (0, 1]; 0.05 keeps 5 % of the weights")
    return max(1, floor(density * total + 0.5 + _SLACK))


def select(scores: Mapping[str, Tensor], density: float, scope: str = "global") -> Mask:
    """Keep exactly the kept_count(density, total) largest scores.

    scores: {name: tensor of the weight's shape}, larger = keep, compared in their own dtype; -0.0 equals 0.0.
    scope: "global" one ranking over all layers, "layer" the same density in each, "erk" by `erk_densities`.
    Raises InputError for NaN (names the layer), a density outside (0, 1] or an unknown scope.
    """
    if scope not in SCOPES:
        raise unknown("scope", scope, SCOPES)
    for name, score in scores.items():
        if bool(torch.isnan(score).any()):
            raise InputError(f'the scores of "{name}" hold NaN; they cannot be ranked')
    if scope == "global":
        total = sum(score.numel() for score in scores.values())
        return keep_largest(scores, kept_count(density, total))
    counts = layer_counts({name: tuple(score.shape) for name, score in scores.items()}, density, scope)
    return Mask(
        {name: _largest(score.flatten(), counts[name]).view(score.shape) for name, score in scores.items()}
    )


def keep_largest(scores: Mapping[str, Tensor], count: int) -> Mask:
    """Keep exactly `count` of all scores together, the largest, ties by position. No NaN allowed."""
    flat = torch.cat([score.flatten() for score in scores.values()])
    parts = _largest(flat, count).split([score.numel() for score in scores.values()])
    return Mask(
        {name: part.view(score.shape) for (name, score), part in zip(scores.items(), parts, strict=True)}
    )


def _largest(flat: Tensor, count: int) -> Tensor:
    """Return the bool mask of the `count` largest of a flat tensor: a partition, then the ties by position."""
    if count <= 0 or count >= flat.numel():
        return torch.full_like(flat, count > 0, dtype=torch.bool)
    if flat.dtype in (torch.bfloat16, torch.float16):
        flat = flat.float()  # exact, and kthvalue is not there for every half type on every device
    threshold = flat.kthvalue(flat.numel() - count + 1).values
    keep = flat > threshold
    ties = (flat == threshold).nonzero().flatten()
    keep[ties[: count - int(keep.sum())]] = True
    return keep


def erk_densities(shapes: Mapping[str, Sequence[int]], density: float) -> dict[str, float]:
    """Return the Erdos-Renyi-Kernel density per layer: proportional to sum(dimensions) / prod(dimensions).

    Layers that would exceed 1 are dense, all offenders fixed at once, then solved again.
    Source: Evci et al. 2020 (arXiv 1911.11134); papers/baselines.md §2, numbers E1 to E3.
    """
    budget = density * sum(prod(shape) for shape in shapes.values())
    dense: set[str] = set()
    while True:
        left = budget - sum(prod(shapes[name]) for name in dense)
        free = [name for name in shapes if name not in dense]
        if not free:
            return dict.fromkeys(shapes, 1.0)
        scale = left / sum(sum(shapes[name]) for name in free)
        offenders = {name for name in free if scale * sum(shapes[name]) > prod(shapes[name])}
        if not offenders:
            rest = {name: scale * sum(shapes[name]) / prod(shapes[name]) for name in free}
            return {name: rest.get(name, 1.0) for name in shapes}
        dense |= offenders


def layer_counts(shapes: Mapping[str, Sequence[int]], density: float, scope: str) -> dict[str, int]:
    """Return how many weights each layer keeps under "layer" or "erk" scope; the sum is exactly kept_count.

    Quotas are floored, the missing ones go to the largest fractional parts (ties: layer order); each layer
    keeps at least 1, taken from the layer with the most. Raises InputError if there are fewer than layers.
    """
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    count = kept_count(density, sum(sizes.values()))
    if count < len(shapes):
        raise InputError(
            f"density {density} keeps {count} weights in {len(shapes)} layers; each needs at least one"
        )
    each = erk_densities(shapes, density) if scope == "erk" else dict.fromkeys(shapes, density)
    quotas = {name: each[name] * size for name, size in sizes.items()}
    counts = {name: min(sizes[name], floor(quota + _SLACK)) for name, quota in quotas.items()}
    by_fraction = sorted(quotas, key=lambda name: counts[name] - quotas[name])
    open_layers = [name for name in by_fraction if counts[name] < sizes[name]]
    for name in open_layers[: count - sum(counts.values())]:
        counts[name] += 1
    for name in [name for name, size in counts.items() if size == 0]:
        counts[max(counts, key=counts.__getitem__)] -= 1
        counts[name] = 1
    return counts
