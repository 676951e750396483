"""Pruning in rounds: how many weights each keeps, and the loop that scores, selects and narrows."""

import logging
from collections.abc import Callable, Mapping, Sequence
from math import floor, isfinite, prod

import torch
from torch import Tensor

from compressor.errors import CollapseError, InputError, listed
from compressor.flow import remedy
from compressor.selection import Quota, above, kept_count, quotas, thresholds

log = logging.getLogger(__name__)

OnRound = Callable[[int, Mapping[str, Tensor]], None]
"""(round, from 1; the bool masks after it, on the weights' device): called after every round."""
Score = Callable[[int, Mapping[str, Tensor]], dict[str, Tensor]]
"""(round, from 1; the bool masks before it) -> scores, 0 or above, larger = keep."""


def exponential(density: float, rounds: int) -> list[float]:
    """Return the density after each round: density^(t/T), so that each round keeps the same share of what is left.

    Raises InputError for rounds below 1. Source: SynFlow, Alg. 1; FORCE, section 4; papers/force.md F5.
    """
    if not isinstance(rounds, int) or rounds < 1:
        raise InputError(f"rounds {rounds!r} must be a whole number, at least 1")
    return [density ** (t / rounds) for t in range(1, rounds)] + [density]


def floored(density: float, total: int) -> int:
    """Return floor(density * total), at least 1: what FORCE's rounds keep but the last (papers/force.md §2)."""
    return max(1, floor(density * total + 1e-6))


def complement(density: float, total: int) -> int:
    """Return total - floor((1 - density) total): what SynFlow's rounds keep but the last (papers/synflow.md §2)."""
    return total - floor((1 - density) * total)


def schedule(
    shapes: Mapping[str, Sequence[int]],
    density: float,
    rounds: int,
    scope: str,
    count: Callable[[float, int], int],
) -> list[tuple[Quota, ...]]:
    """Return what every round keeps: `count` of the exponential density, in the last kept_count(density, total).

    No round keeps less than a later one, or nested masks would have to grow; where all is kept there are none.
    Raises InputError for rounds below 1, and as `quotas` does.
    """
    steps = exponential(density, rounds)
    total = sum(prod(shape) for shape in shapes.values())
    final = kept_count(density, total)
    found = [quotas(shapes, density, scope, final)]
    for step in reversed(steps[:-1]):
        now = quotas(shapes, step, scope, max(final, count(step, total)))
        later = dict(found[-1])
        found.append(tuple((names, max(kept, later[names])) for names, kept in now))
    return found[::-1] if final < total else []


def narrow(
    score: Score,
    wanted: Sequence[tuple[Quota, ...]],
    masks: dict[str, Tensor],
    *,
    method: str,
    nested: bool,
    on_round: OnRound | None,
) -> dict[str, Tensor]:
    """Score and select, once per round; return the last masks.

    masks: bool, what is kept before the first round. nested: what is pruned stays pruned; else it only comes after
    every kept weight that scores 0 as well, so that zeros do not bring it back.
    Raises InputError for scores that are not finite or all 0, which from the second round on is a layer collapse.
    """
    for number, quota in enumerate(wanted, 1):
        scores = score(number, masks)
        refuse_useless(scores, method, number, masks)
        least = thresholds(scores, quota)
        if any(bool(lowest <= 0) for lowest in least):
            for name, value in scores.items():
                pruned = ~masks[name]
                value.masked_fill_(pruned if nested else pruned & (value == 0), -torch.inf)
            least = thresholds(scores, quota)
        masks = above(scores, quota, least)
        del scores  # or the next round would hold two sets of gradients
        if on_round is not None:
            on_round(number, masks)
    return masks


def refuse_useless(
    scores: Mapping[str, Tensor], method: str, number: int = 1, masks: Mapping[str, Tensor] | None = None
) -> None:
    """Raise InputError for scores that can not be ranked: not finite (the layer is named) or all 0.

    number, masks: the round and what is kept before it; CollapseError from the second round on. A layer that scores
    0 everywhere is logged in the first.
    """
    when = f" in round {number}" if masks is not None else ""
    largest = {
        name: max(map(abs, map(float, s.aminmax()))) if s.numel() else 0.0 for name, s in scores.items()
    }
    for name, size in largest.items():
        if not isfinite(size):
            raise InputError(f'{method}: the scores of "{name}" are not finite{when}')
    silent = [name for name, size in largest.items() if size == 0]
    if len(silent) < len(largest):
        if silent and number == 1:
            log.warning("%s: every weight of %s scores 0", method, listed(silent))
        return
    if number == 1 or masks is None:
        raise InputError(f"{method}: all scores are zero; no gradient comes back to any weight")
    empty = [name for name, mask in masks.items() if not bool(mask.any())] or list(masks)
    raise CollapseError(
        f"layer collapse by {method} in round {number - 1}: nothing can flow from input to output, "
        f"cut at {listed(empty)}; {remedy(method)}"
    )
