"""The stages of the walk: what each depends on, what it does, what it leaves behind (DESIGN §2, §6)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from compressor.recipe import Recipe
from compressor.records import Result, Step
from compressor.runs import Run
from compressor.stages.prune import prune, prune_step
from compressor.stages.reference import dense, dense_step, given, given_step
from compressor.stages.ship import export, export_step, pack, pack_step, verify, verify_step
from compressor.stages.tune import tune, tune_step


@dataclass(frozen=True, slots=True)
class Stage:
    """wanted: whether the recipe has it; step: what it depends on and writes; act: do it."""

    wanted: Callable[[Recipe], bool]
    step: Callable[[Run], Step]
    act: Callable[[Run], Result]


STAGES: Final[Mapping[str, Stage]] = {
    "given": Stage(lambda recipe: bool(recipe.model.weights), given_step, given),
    "dense": Stage(lambda recipe: recipe.dense.enabled, dense_step, dense),
    "prune": Stage(lambda _: True, prune_step, prune),
    "tune": Stage(lambda recipe: recipe.tune.enabled, tune_step, tune),
    "pack": Stage(lambda _: True, pack_step, pack),
    "export": Stage(lambda recipe: recipe.export.enabled, export_step, export),
    "verify": Stage(lambda recipe: recipe.verify.enabled, verify_step, verify),
}
