"""The stages of the walk: what each depends on, what it does, what it leaves behind (DESIGN §2, §6)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from compressor.recipe import Recipe, rounds_of
from compressor.records import Result, Step
from compressor.runs import Run
from compressor.stages.prune import prune, prune_step
from compressor.stages.reference import control, control_step, dense, dense_step, given, given_step
from compressor.stages.rounds import accepted, named
from compressor.stages.ship import export, export_step, pack, pack_step, verify, verify_step
from compressor.stages.tune import tune, tune_step

SHIPS: Final = ("pack", "export", "verify")


@dataclass(frozen=True, slots=True)
class Stage:
    """wanted: whether it is to be done, those before it being done; step: what it depends on and writes; act: do it."""

    wanted: Callable[[Run], bool]
    step: Callable[[Run], Step]
    act: Callable[[Run], Result]


def stages(recipe: Recipe) -> dict[str, Stage]:
    """Return every stage that a walk of the recipe may come to, in order, by the name of its record.

    The control comes after the rounds: it trains as long as the network that ships, and no longer.
    """
    rounds = range(1, rounds_of(recipe.prune) + 1)
    found = {
        "given": Stage(lambda _: bool(recipe.model.weights), given_step, given),
        "dense": Stage(lambda _: recipe.dense.enabled, dense_step, dense),
    }
    for number in rounds:
        found[named("prune", number)] = Stage(
            partial(_open, number=number), partial(prune_step, number=number), partial(prune, number=number)
        )
        found[named("tune", number)] = Stage(
            partial(_tuned, number=number), partial(tune_step, number=number), partial(tune, number=number)
        )
    for number in rounds:
        found[named("control", number)] = Stage(
            partial(_controlled, number=number),
            partial(control_step, number=number),
            partial(control, number=number),
        )
    return found | {
        "pack": Stage(lambda run: accepted(run) > 0, pack_step, pack),
        "export": Stage(lambda run: recipe.export.enabled and accepted(run) > 0, export_step, export),
        "verify": Stage(lambda run: recipe.verify.enabled and accepted(run) > 0, verify_step, verify),
    }


def _open(run: Run, number: int) -> bool:
    """Say whether every round before this one stayed within the budget."""
    return accepted(run) >= number - 1


def _tuned(run: Run, number: int) -> bool:
    pruned = run.results.get(named("prune", number))
    return run.recipe.tune.enabled and pruned is not None and "collapse" not in pruned


def _controlled(run: Run, number: int) -> bool:
    return run.recipe.dense.control and accepted(run) >= number
