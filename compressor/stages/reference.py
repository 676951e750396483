"""The networks that the sparse one is held against: the weights that were given, the dense training."""

from dataclasses import asdict

from torch import nn

from compressor.recipe import replays_from, rewinds_to, weights_of
from compressor.records import Result, Step
from compressor.runs import DENSE, REWIND, Run
from compressor.stages.rounds import named, weights_file
from compressor.train import Epoch


def given_step(run: Run) -> Step:
    """Return what `given` depends on and writes."""
    return Step("given", run.settings(), run.inputs(), ())


def given(run: Run) -> Result:
    """Measure the weights that the user brought, before anything is done to them."""
    model = run.network(given=True)
    return {"accuracy": {"given": run.accuracy(model)}, "validation": run.validation(model)}


def dense_step(run: Run) -> Step:
    """Return what `dense` depends on and writes."""
    recipe = run.recipe
    settings = run.settings() | {"train": asdict(recipe.dense.train)}
    early = rewinds_to(recipe)
    if early is not None:
        settings["rewind_to"] = early
    return Step("dense", settings, run.inputs(), (DENSE,) if early is None else (DENSE, REWIND))


def dense(run: Run) -> Result:
    """Train the reference; keep its early weights where tuning rewinds to them."""
    recipe = run.recipe
    model = run.network(given=True)
    early = rewinds_to(recipe)

    def keep(epoch: Epoch, trained: nn.Module) -> None:
        if epoch.epoch + 1 == early:
            run.store(trained, REWIND)

    if early == 0:
        run.store(model, REWIND)
    epochs = run.train(model, "dense", recipe.dense.train, on_epoch=keep)
    run.store(model, DENSE)
    found = {"dense": run.accuracy(model)}
    return {"epochs": epochs, "accuracy": found, "validation": run.validation(model)}


def control_step(run: Run, number: int = 1) -> Step:
    """Return what the control of a round depends on and writes."""
    recipe = run.recipe
    settings = run.settings() | {"train": asdict(recipe.tune.train), "first": replays_from(recipe)}
    settings["weights"] = weights_of(recipe)
    before = (weights_file("control", number - 1),) if number > 1 else (DENSE,)
    inputs = run.inputs() | (run.digests(*before) if number > 1 or weights_of(recipe) == "dense" else {})
    return Step(named("control", number), settings, inputs, (weights_file("control", number),))


def control(run: Run, number: int = 1) -> Result:
    """Train the network that pruning starts from on and on, as every round is tuned, but dense.

    Source: extended dense training, papers/lr-rewinding.md §5, control A. Where rounds rewind weights, this does not:
    it would be the dense training once more.
    """
    if number > 1:
        model, _ = run.stored(weights_file("control", number - 1))
    else:
        model = run.stored(DENSE)[0] if weights_of(run.recipe) == "dense" else run.network(given=True)
    settings, first = run.recipe.tune.train, replays_from(run.recipe)
    epochs = run.train(model, named("control", number), settings, first=first)
    run.store(model, weights_file("control", number))
    return {"epochs": epochs, "accuracy": {"control": run.accuracy(model)}}
