"""Rounds of prune and tune: how many weights each keeps, what its files are called, which one ships.

Source: Renda, Frankle, Carbin 2020 (arXiv 2003.02389); papers/lr-rewinding.md §2 and §7. Differs: the last round
lands exactly on the asked density, and no round keeps less than it.
"""

from fractions import Fraction

from compressor.recipe import Prune, rounds_of
from compressor.runs import Run
from compressor.selection import kept_count

_SLACK = 1e-9  # 0.98 - 0.97 is 0.010000000000000009 in floating point


def named(stage: str, number: int) -> str:
    """Return the name that a stage goes by in a round: tune, tune-2, tune-3."""
    return stage if number == 1 else f"{stage}-{number}"


def weights_file(stage: str, number: int) -> str:
    """Return the file in a run folder that a stage of a round leaves its weights in."""
    return f"stages/{named(stage, number)}.safetensors"


def counts(prune: Prune, total: int) -> tuple[int, ...]:
    """Return how many of the prunable weights each round keeps.

    With per_round p, (1 - p) of what the round before it kept, half to even; else those of density^(i/rounds).
    """
    count, last = rounds_of(prune), kept_count(prune.density, total)
    if prune.per_round is None:
        return (*(kept_count(prune.density ** (i / count), total) for i in range(1, count)), last)
    share, found = 1 - Fraction(str(prune.per_round)), [total]
    for _ in range(count - 1):
        found.append(max(round(found[-1] * share), last))
    return (*found[1:], last)


def accepted(run: Run) -> int:
    """Return the round that ships: the last, or with max_drop the last before one that loses more; 0 for none.

    A round that this walk has not done, or through whose mask nothing flows, counts as lost.
    """
    last, budget = rounds_of(run.recipe.prune), run.recipe.prune.max_drop
    if budget is None:
        return last
    reference = _validation(run, _reference(run))
    for number in range(1, last + 1):
        found = _validation(run, named("tune", number))
        if found is None or reference is None or reference - found > budget + _SLACK:
            return number - 1
    return last


def over_budget(run: Run) -> str:
    """Return why no round ships."""
    before, after = (_validation(run, name) for name in (_reference(run), "tune"))
    return (
        f"[prune] max_drop = {run.recipe.prune.max_drop}: round 1 takes the validation accuracy from {before:.2%} to "
        f"{after:.2%}, and no network is inside the budget; raise max_drop, or remove less in the first round"
    )


def _reference(run: Run) -> str:
    return "dense" if run.recipe.dense.enabled else "given"


def _validation(run: Run, stage: str) -> float | None:
    return run.results.get(stage, {}).get("validation")
