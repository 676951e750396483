"""The prune stage: a mask by a scoring method, or mask and weights by the training of a training method."""

import copy
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from compressor.levels import centroids, save_start, to_levels
from compressor.methods import TRAINING_METHODS
from compressor.methods import prune as score
from compressor.recipe import Recipe
from compressor.records import Result, Step
from compressor.runs import DENSE, PRUNED, START, Run
from compressor.weights import Mask


def weights_of(recipe: Recipe) -> str:
    """Return which weights pruning starts from: given, dense or start."""
    if recipe.prune.weights != "auto":
        return recipe.prune.weights
    if recipe.model.weights:
        return "given"
    return "dense" if recipe.dense.enabled and recipe.prune.method == "magnitude" else "start"


def prune_step(run: Run) -> Step:
    """Return what `prune` depends on and writes."""
    recipe = run.recipe
    training = recipe.prune.method in TRAINING_METHODS
    settings = run.settings() | {"prune": asdict(recipe.prune), "weights": weights_of(recipe)}
    settings["prune"].pop("weights")
    settings["start"] = training or (recipe.tune.enabled and recipe.tune.start == "levels")
    if not training:
        settings["prune"]["train"] = {"batch": recipe.prune.train.batch}
    inputs = run.inputs() | (run.digests(DENSE) if weights_of(recipe) == "dense" else {})
    return Step("prune", settings, inputs, (PRUNED, START) if settings["start"] else (PRUNED,))


def prune(run: Run) -> Result:
    """Find the mask, by a scoring method or by the training of a training method."""
    recipe = run.recipe
    weights = weights_of(recipe)
    model = run.network(given=weights == "given") if weights != "dense" else run.stored(DENSE)[0]
    if recipe.prune.method in TRAINING_METHODS:
        mask, result = _prune_by_training(run, model)
    else:
        settings = recipe.prune
        mask = score(
            model,
            settings.method,
            density=settings.density,
            data=run.batch(settings.train.batch),
            scope=settings.scope,
            exclude=settings.exclude,
            generator=torch.Generator().manual_seed(recipe.seed),
        )
        mask.apply_(model)
        result = {"epochs": [], "accuracy": {"pruned": run.accuracy(model)}}
    run.store(model, PRUNED, mask)
    if START in prune_step(run).outputs:
        start = copy.deepcopy(model)
        to_levels(start, mask, centroids(start, mask), reset=True)
        save_start(start, mask, run.folder / START)
    return result


def _prune_by_training(run: Run, model: nn.Module) -> tuple[Mask, Result]:
    settings = run.recipe.prune
    method = TRAINING_METHODS[settings.method]
    attached = []

    def attach(module: nn.Module, optimizer: torch.optim.Optimizer, total: int, per_epoch: int) -> Any:
        handle = method(
            module,
            optimizer,
            density=settings.density,
            steps=total,
            every=per_epoch,
            end=settings.end,
            exclude=settings.exclude,
        )
        attached.append(handle)
        return handle

    epochs = run.train(model, "prune", settings.train, attach)
    return attached[0].mask, {"epochs": epochs, "accuracy": {"asni1": run.accuracy(model)}}
