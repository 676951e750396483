"""The networks that the sparse one is held against: the weights that were given, the dense training."""

from dataclasses import asdict
from math import floor

from torch import nn

from compressor.records import Result, Step
from compressor.runs import DENSE, REWIND, Run
from compressor.train import Epoch


def given_step(run: Run) -> Step:
    """Return what `given` depends on and writes."""
    return Step("given", run.settings(), run.inputs(), ())


def given(run: Run) -> Result:
    """Measure the weights that the user brought, before anything is done to them."""
    return {"accuracy": {"given": run.accuracy(run.network(given=True))}}


def dense_step(run: Run) -> Step:
    """Return what `dense` depends on and writes."""
    recipe = run.recipe
    settings = run.settings() | {"train": asdict(recipe.dense.train)}
    rewinds = recipe.tune.enabled and recipe.tune.start == "rewind"
    if rewinds:
        settings["rewind_to"] = recipe.tune.rewind_to
    return Step("dense", settings, run.inputs(), (DENSE, REWIND) if rewinds else (DENSE,))


def dense(run: Run) -> Result:
    """Train the reference; keep its early weights where tuning rewinds to them."""
    recipe = run.recipe
    model = run.network(given=True)
    rewinds = recipe.tune.enabled and recipe.tune.start == "rewind"
    early = floor(recipe.tune.rewind_to * recipe.dense.train.epochs + 0.5)

    def keep(epoch: Epoch, trained: nn.Module) -> None:
        if rewinds and epoch.epoch + 1 == early:
            run.store(trained, REWIND)

    if rewinds and early == 0:
        run.store(model, REWIND)
    epochs = run.train(model, "dense", recipe.dense.train, on_epoch=keep)
    run.store(model, DENSE)
    return {"epochs": epochs, "accuracy": {"dense": run.accuracy(model)}}
