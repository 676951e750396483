"""Exact selection: how many weights are kept, and which (DESIGN §3, papers/baselines.md §2).

The count is an equality, whatever the ties; equal scores are kept in order of position (layer order, then
row-major), so the same scores give the same mask on every machine.
"""

import logging
from collections.abc import Mapping, Sequence
from math import floor, prod, sqrt
from numbers import Real
from typing import Final

import numpy as np
import torch
from torch import Tensor

from compressor.errors import InputError, unknown
from compressor.weights import Mask

log = logging.getLogger(__name__)

SCOPES: Final = ("global", "layer", "erk")
# 0.145 * 100 is 14.499999999999998 in floating point, and 15 is what was asked for (baselines.md §2).
_SLACK: Final = 1e-9
# Elements of the sorted sample, and what a stride is a multiple of plus one.
_SAMPLE, _WHEEL = 2**15, 30

Quota = tuple[tuple[str, ...], int]
"""The names of layers that are ranked together, and how many of their weights are kept."""


def kept_count(density: float, total: int) -> int:
    """Return floor(density * total + 0.5), at least 1. Raises InputError unless 0 < density <= 1."""
    if not isinstance(density, Real) or not 0 < density <= 1:
        raise InputError(f"density {density!r} is outside (0, 1]; 0.05 keeps 5 % of the weights")
    return max(1, floor(density * total + 0.5 + _SLACK))


def select(scores: Mapping[str, Tensor], density: float, scope: str = "global") -> Mask:
    """Keep exactly the kept_count(density, total) largest scores.

    scores: {name: tensor of the weight's shape}, larger = keep, compared in their own dtype; -0.0 equals 0.0.
    scope: "global" one ranking over all layers, "layer" the same density in each, "erk" by `erk_densities`.
    Raises InputError for NaN (names the layer), a density outside (0, 1] or an unknown scope.
    """
    for name, score in scores.items():
        if bool(torch.isnan(score).any()):
            raise InputError(f'the scores of "{name}" hold NaN; they cannot be ranked')
    shapes = {name: tuple(score.shape) for name, score in scores.items()}
    wanted = quotas(shapes, density, scope)
    first = next((score.flatten()[0] for score in scores.values() if score.numel()), None)
    if density < 1 and first is not None and all(bool((score == first).all()) for score in scores.values()):
        log.warning("all scores are equal: the first weights by position are kept")
    return Mask(keep(scores, wanted))


def quotas(
    shapes: Mapping[str, Sequence[int]], density: float, scope: str, count: int | None = None
) -> tuple[Quota, ...]:
    """Return which layers are ranked together, and how many weights they keep: all of them, or each alone.

    count: kept in all, kept_count(density, total) unless a schedule rounds otherwise. Raises InputError for an
    unknown scope or a density outside (0, 1].
    """
    if scope not in SCOPES:
        raise unknown("scope", scope, SCOPES)
    if count is None:
        count = kept_count(density, sum(prod(shape) for shape in shapes.values()))
    if scope == "global":
        return ((tuple(shapes), count),)
    return tuple(((name,), kept) for name, kept in layer_counts(shapes, density, scope, count).items())


def keep_largest(scores: Mapping[str, Tensor], count: int) -> Mask:
    """Keep exactly `count` of all scores together, the largest, ties by position. No NaN allowed."""
    return Mask(keep(scores, ((tuple(scores), count),)))


def keep(scores: Mapping[str, Tensor], wanted: Sequence[Quota]) -> dict[str, Tensor]:
    """Return bool tensors on the scores' device: of every quota exactly so many, the largest, ties by position."""
    return above(scores, wanted, thresholds(scores, wanted))


def thresholds(scores: Mapping[str, Tensor], wanted: Sequence[Quota]) -> list[Tensor]:
    """Return the smallest score (0-dim) that each quota keeps; no NaN allowed."""
    return [_threshold([scores[name].flatten() for name in names], count) for names, count in wanted]


def above(
    scores: Mapping[str, Tensor], wanted: Sequence[Quota], least: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Return the bool tensors of `keep` for thresholds that are known."""
    kept: dict[str, Tensor] = {}
    for (names, count), lowest in zip(wanted, least, strict=True):
        masks = {name: scores[name].contiguous() >= lowest for name in names}
        excess = sum(int(mask.count_nonzero()) for mask in masks.values()) - count
        for name in reversed(names):
            if excess == 0:
                break
            ties = (scores[name] == lowest).flatten().nonzero().flatten()
            last = ties[max(0, len(ties) - excess) :]
            masks[name].view(-1)[last] = False
            excess -= len(last)
        kept |= masks
    return {name: kept[name] for name in scores}


def _threshold(flats: Sequence[Tensor], count: int) -> Tensor:
    """Return the `count`-th largest of all elements.

    Above a million elements a sorted sample brackets it, and only what lies between is ranked: a third of
    the time of a partition. The bracket is proved by counting, so the answer is exact whatever the sample.
    """
    if count == 0:
        return torch.tensor(torch.inf, device=flats[0].device)
    total = sum(flat.numel() for flat in flats)
    stride = total // _SAMPLE // _WHEEL * _WHEEL + 1  # no factor in common with usual shapes
    if stride == 1:
        return _kth(torch.cat(list(flats)), count)
    sample = torch.cat([flat[::stride] for flat in flats]).sort(descending=True).values
    share = count / total
    place, margin = share * len(sample), 5 * sqrt(share * (1 - share) * len(sample)) + 16
    high = sample[max(0, floor(place - margin))]
    low = sample[min(len(sample) - 1, floor(place + margin))]
    larger, between = 0, []
    for flat in flats:
        over = flat > high
        larger += int(over.count_nonzero())
        between.append(_few(flat, over.logical_xor_(flat > low)))
    inside = torch.cat(between)
    if larger < count <= larger + len(inside):
        return _kth(inside, count - larger)
    if larger < count <= sum(int((flat >= low).count_nonzero()) for flat in flats):
        return low  # many are equal, as the zeros of what is pruned are
    return _kth(torch.cat(list(flats)), count)


def _few(flat: Tensor, mask: Tensor) -> Tensor:
    """Return flat[mask] where little is True; numpy finds the places five times as fast as torch on the CPU."""
    if flat.device.type != "cpu":
        return flat[mask]
    return flat[torch.from_numpy(np.flatnonzero(mask.numpy()))]


def _kth(flat: Tensor, count: int) -> Tensor:
    """Return the `count`-th largest of one tensor."""
    if flat.dtype in (torch.bfloat16, torch.float16):
        flat = flat.float()  # exact, and kthvalue is not there for every half type on every device
    return flat.kthvalue(flat.numel() - count + 1).values


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


def layer_counts(
    shapes: Mapping[str, Sequence[int]], density: float, scope: str, count: int | None = None
) -> dict[str, int]:
    """Return how many weights each layer keeps under "layer" or "erk" scope; the sum is exactly count (kept_count).

    Quotas are floored, the missing ones go to the largest fractional parts (ties: layer order); each layer
    keeps at least 1, taken from the layer with the most, unless it has none. Raises InputError if there are fewer than
    layers.
    """
    sizes = {name: prod(shape) for name, shape in shapes.items()}
    if count is None:
        count = kept_count(density, sum(sizes.values()))
    full = [name for name, size in sizes.items() if size]
    if count < len(full):
        raise InputError(
            f"density {density} keeps {count} weights in {len(full)} layers; each needs at least one"
        )
    each = erk_densities(shapes, density) if scope == "erk" else dict.fromkeys(shapes, density)
    quotas = {name: each[name] * size for name, size in sizes.items()}
    counts = {name: min(sizes[name], floor(quota + _SLACK)) for name, quota in quotas.items()}
    by_fraction = sorted(quotas, key=lambda name: counts[name] - quotas[name])
    open_layers = [name for name in by_fraction if counts[name] < sizes[name]]
    for name in open_layers[: count - sum(counts.values())]:
        counts[name] += 1
    for name in [name for name in full if counts[name] == 0]:
        counts[max(counts, key=counts.__getitem__)] -= 1
        counts[name] = 1
    return counts
