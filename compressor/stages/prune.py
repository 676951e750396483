"""The prune stage: a mask by a scoring method, or mask and weights by the training of a training method."""

import copy
import inspect
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from compressor.errors import InputError
from compressor.levels import centroids, save_start, to_levels
from compressor.methods import METHODS, TRAINING_METHODS
from compressor.methods import prune as score
from compressor.recipe import Prune, Recipe, rounds_of, weights_of
from compressor.records import Result, Step
from compressor.runs import DENSE, START, Run
from compressor.stages.rounds import counts, named, weights_file
from compressor.weights import Mask, prunable


def scope_of(recipe: Recipe) -> str:
    """Return the scope of the selection: that of the recipe, else the method's own."""
    if recipe.prune.scope != "auto":
        return recipe.prune.scope
    method = {**METHODS, **TRAINING_METHODS}[recipe.prune.method]
    own = inspect.signature(method).parameters.get("scope")
    return "global" if own is None else str(own.default)


def signed(recipe: Recipe) -> bool:
    """Say whether pruning leaves one constant per layer, with signs: edge-popup on weights of its own."""
    return recipe.prune.method == "edge-popup" and weights_of(recipe) == "start"


def attached(
    recipe: Recipe, model: nn.Module, optimizer: torch.optim.Optimizer, total: int, epoch: int
) -> Any:
    """Attach the training method of a recipe, for `total` steps, `epoch` of them an epoch, and return its handle.

    Of what a recipe can say, a method is given what its own signature names. Raises InputError as the method does, and
    for a scope where it has none.
    """
    settings = recipe.prune
    offered = {
        "steps": total,
        "every": epoch,
        "end": settings.end,
        "scope": scope_of(recipe),
        "weights": "signed-constant" if signed(recipe) else "given",
        "generator": torch.Generator().manual_seed(recipe.seed),
    }
    method = TRAINING_METHODS[settings.method]
    known = inspect.signature(method).parameters
    if "scope" not in known and offered["scope"] != "global":
        raise InputError(
            f'[prune] scope = "{settings.scope}": {settings.method} ranks the whole network; leave scope out'
        )
    taken = {name: value for name, value in offered.items() if name in known}
    return method(model, optimizer, density=settings.density, exclude=settings.exclude, **taken)


def prune_step(run: Run, number: int = 1) -> Step:
    """Return what `prune` of a round depends on and writes."""
    recipe = run.recipe
    training = recipe.prune.method in TRAINING_METHODS
    settings = run.settings() | {"prune": asdict(recipe.prune), "weights": weights_of(recipe)}
    for name in ("weights", "density", "rounds", "per_round", "max_drop"):
        settings["prune"].pop(name)
    if recipe.prune.method != "asni":
        settings["prune"].pop("end")
    settings["prune"] |= _aim(recipe.prune, number) | {"scope": scope_of(recipe)}
    tune = recipe.tune
    settings["start"] = recipe.prune.method == "asni" or (tune.enabled and tune.start == "levels")
    if not training:
        settings["prune"]["train"] = {"batch": recipe.prune.train.batch}
    inputs = run.inputs()
    if number > 1:
        inputs = inputs | run.digests(weights_file("tune", number - 1))
    elif weights_of(recipe) == "dense":
        inputs = inputs | run.digests(DENSE)
    written = weights_file("prune", number)
    return Step(
        named("prune", number), settings, inputs, (written, START) if settings["start"] else (written,)
    )


def _aim(prune: Prune, number: int) -> dict[str, Any]:
    """Return what decides the density of a round, and no more: members of a sweep share the rounds that they can."""
    if number == rounds_of(prune):
        return {"density": prune.density}
    if prune.per_round is not None:
        return {"per_round": prune.per_round}
    return {"density": prune.density ** (number / rounds_of(prune))}


def prune(run: Run, number: int = 1) -> Result:
    """Find the mask of a round, by a scoring method or by the training of a training method."""
    recipe = run.recipe
    model, within = _before(run, number)
    if recipe.prune.method in TRAINING_METHODS:
        mask, result = _prune_by_training(run, model)
    else:
        mask = _prune_by_score(run, model, number, within)
        mask.apply_(model)
        result = {"epochs": [], "accuracy": {"pruned": run.accuracy(model)}}
    run.store(model, weights_file("prune", number), mask)
    if START in prune_step(run, number).outputs:
        start = copy.deepcopy(model)
        to_levels(start, mask, centroids(start, mask), reset=True)
        save_start(start, mask, run.folder / START)
    return result


def _before(run: Run, number: int) -> tuple[nn.Module, Mask | None]:
    """Return the network that a round begins with, and the mask that it has already."""
    if number > 1:
        return run.stored(weights_file("tune", number - 1))
    weights = weights_of(run.recipe)
    return run.network(given=weights == "given") if weights != "dense" else run.stored(DENSE)[0], None


def _prune_by_score(run: Run, model: nn.Module, number: int, within: Mask | None) -> Mask:
    settings, rounds = run.recipe.prune, rounds_of(run.recipe.prune)
    total = sum(weight.numel() for weight in prunable(model, settings.exclude).values())
    try:
        return score(
            model,
            settings.method,
            density=settings.density if number == rounds else counts(settings, total)[number - 1] / total,
            data=run.batch(settings.train.batch),
            scope=scope_of(run.recipe),
            exclude=settings.exclude,
            generator=torch.Generator().manual_seed(run.recipe.seed),
            **({} if within is None else {"within": within}),
        )
    except InputError as error:
        if rounds == 1:
            raise
        raise type(error)(f"round {number} of {rounds}: {error}") from error


def _prune_by_training(run: Run, model: nn.Module) -> tuple[Mask, Result]:
    recipe = run.recipe
    handles = []

    def attach(module: nn.Module, optimizer: torch.optim.Optimizer, total: int, per_epoch: int) -> Any:
        handles.append(attached(recipe, module, optimizer, total, per_epoch))
        return handles[0]

    epochs = run.train(model, "prune", recipe.prune.train, attach)
    reached = "asni1" if recipe.prune.method == "asni" else "pruned"
    return handles[0].mask, {"epochs": epochs, "accuracy": {reached: run.accuracy(model)}}
