"""The tune stage: training under a mask, free or tied to two levels per layer."""

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from compressor.held import Held, hold
from compressor.levels import load_start
from compressor.recipe import Tune, replays_from
from compressor.records import Result, Step
from compressor.runs import REWIND, START, Run
from compressor.stages.rounds import named, weights_file
from compressor.train import Handle
from compressor.two_level import TwoLevel, tied
from compressor.weights import Mask


def tune_step(run: Run, number: int = 1) -> Step:
    """Return what `tune` of a round depends on and writes."""
    tune = run.recipe.tune
    settings = run.settings() | {"tune": asdict(tune), "first": replays_from(run.recipe)}
    # What has had its effect already, in `first` or in the weights that are read, and what is without one.
    for name in ("enabled", "rewind_to", "replay_from", *(() if tune.tied else ("mask",))):
        settings["tune"].pop(name)
    sources = [START] if tune.start == "levels" else [weights_file("prune", number)]
    if tune.start == "rewind":
        sources.append(REWIND)
    written = weights_file("tune", number)
    return Step(named("tune", number), settings, run.inputs() | run.digests(*sources), (written,))


def tune(run: Run, number: int = 1) -> Result:
    """Train under the mask of a round, from the weights that the recipe starts with.

    Source: papers/lr-rewinding.md §2: with `replay_from`, start "trained" is learning-rate rewinding and "rewind"
    weight rewinding. Differs: the optimiser's state is always fresh, where the reference restores it.
    """
    tune = run.recipe.tune
    if tune.start == "levels":
        model = run.network()
        mask = load_start(model, run.folder / START)
    else:
        model, mask = run.stored(weights_file("prune", number))
        if tune.start == "init":
            model = run.network()
        elif tune.start == "rewind":
            model, _ = run.stored(REWIND)
    mask, epochs = tune_network(run, model, mask, named("tune", number))
    run.store(model, weights_file("tune", number), mask)
    return {"epochs": epochs, "validation": run.validation(model)}


def tune_network(
    run: Run, model: nn.Module, mask: Mask, stage: str = "tune"
) -> tuple[Mask, list[dict[str, Any]]]:
    """Train a network in place under a mask, as the recipe's tune stage does; return its mask and epochs."""
    settings: Tune = run.recipe.tune
    mask.apply_(model)
    attached: list[Held | TwoLevel] = []

    def attach(module: nn.Module, optimizer: torch.optim.Optimizer, total: int, _: int) -> Handle:
        if settings.tied:
            attached.append(tied(module, optimizer, mask, steps=total, move=settings.mask == "move"))
        else:
            attached.append(hold(module, optimizer, mask))
        return attached[0]

    epochs = run.train(model, stage, settings.train, attach, first=replays_from(run.recipe))
    return Mask(attached[0].mask), epochs
