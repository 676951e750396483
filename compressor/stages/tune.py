"""The tune stage: training under a mask, free or tied to two levels per layer."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import torch
from torch import nn

from compressor.held import Held, hold
from compressor.levels import load_start
from compressor.recipe import Tune
from compressor.records import Result, Step
from compressor.runs import PRUNED, REWIND, START, TUNED, Run
from compressor.train import Handle
from compressor.two_level import TwoLevel, tied
from compressor.weights import Mask

_TUNE_FROM: Final[Mapping[str, tuple[str, ...]]] = {
    "trained": (PRUNED,),
    "init": (PRUNED,),
    "rewind": (PRUNED, REWIND),
    "levels": (START,),
}


def tune_step(run: Run) -> Step:
    """Return what `tune` depends on and writes."""
    tune = run.recipe.tune
    settings = run.settings() | {"tune": asdict(tune)}
    return Step("tune", settings, run.inputs() | run.digests(*_TUNE_FROM[tune.start]), (TUNED,))


def tune(run: Run) -> Result:
    """Train under the mask, from the weights that the recipe starts with."""
    tune = run.recipe.tune
    if tune.start == "levels":
        model = run.network()
        mask = load_start(model, run.folder / START)
    else:
        model, mask = run.stored(PRUNED)
        if tune.start == "init":
            model = run.network()
        elif tune.start == "rewind":
            model, _ = run.stored(REWIND)
    mask, epochs = tune_network(run, model, mask)
    run.store(model, TUNED, mask)
    return {"epochs": epochs}


def tune_network(run: Run, model: nn.Module, mask: Mask) -> tuple[Mask, list[dict[str, Any]]]:
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

    epochs = run.train(model, "tune", settings.train, attach)
    return Mask(attached[0].mask), epochs
