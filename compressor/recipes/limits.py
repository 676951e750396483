"""What the values of a recipe may be, and what they may be together."""

from collections.abc import Callable, Collection
from dataclasses import fields

from compressor.errors import InputError, unknown
from compressor.recipe import (
    DataSet,
    Dense,
    Pack,
    Prune,
    Recipe,
    Train,
    Tune,
    Verify,
    epoch_at,
    rounds_of,
    weights_of,
)

CHOICES = {
    "optimizer": ("sgd", "adam", "adamw"),
    "schedule": ("cosine", "constant", "multistep"),
    "augment": ("auto", "none", "crop", "flip", "crop+flip"),
    "scope": ("auto", "global", "layer", "erk"),
    "prune.weights": ("auto", "given", "start", "dense"),
    "start": ("trained", "init", "rewind", "levels"),
    "tune.mask": ("move", "fixed"),
    "values": ("", "float16", "bfloat16", "int8"),
    "biases": ("", "float16", "bfloat16"),
    "encoding": ("compact", "dense"),
}

Limit = tuple[Callable[[float], bool], str]

_POSITIVE: Limit = (lambda x: x > 0, "above 0")
_FROM_0: Limit = (lambda x: x >= 0, "0 or more")
_FROM_1: Limit = (lambda x: x >= 1, "1 or more")
_SHARE: Limit = (lambda x: 0 < x <= 1, "above 0 and at most 1")
_BELOW_1: Limit = (lambda x: 0 <= x < 1, "from 0 to below 1")
_FROM_0_TO_1: Limit = (lambda x: 0 <= x <= 1, "from 0 to 1")
_MOST_ROUNDS = 1000  # a training each; above it somebody has mistyped
LIMITS: dict[str, Limit] = {
    "seed": (lambda x: 0 <= x < 2**63, "from 0 to 2^63 - 1"),
    "lr": _POSITIVE,
    "momentum": _BELOW_1,
    "weight_decay": _FROM_0,
    "batch": _FROM_1,
    "epochs": _FROM_1,
    "cosine_scale": _FROM_1,
    "gamma": _POSITIVE,
    "warmup": _FROM_0,
    "label_smoothing": _BELOW_1,
    "threads": _FROM_0,
    "validation": _BELOW_1,
    "density": _SHARE,
    "end": _SHARE,
    "rounds": _FROM_1,
    "per_round": (lambda x: 0.001 <= x < 1, "from 0.001 to below 1"),
    "max_drop": _FROM_0_TO_1,
    "rewind_to": _FROM_0_TO_1,
    "replay_from": _BELOW_1,
}


def check(recipe: Recipe, where: str) -> None:
    """Raise InputError for the first value, or pair of values, that no run could use."""
    _values(recipe, "", where)
    for section in fields(recipe):
        part = getattr(recipe, section.name)
        if hasattr(part, "__dataclass_fields__"):
            _values(part, section.name, where)
        if isinstance(part, Train):
            _train(part, f"{where}: [{section.name}]")
        elif hasattr(part, "train"):
            _values(part.train, section.name, where)
            _train(part.train, f"{where}: [{section.name}]")
    _data(recipe.data, where)
    _dense(recipe.dense, recipe, where)
    _prune(recipe.prune, recipe, where)
    _tune(recipe.tune, recipe, where)
    _pack(recipe.pack, recipe, where)
    _verify(recipe.verify, recipe, where)


def _values(part: object, section: str, where: str) -> None:
    """Check each plain value of a section on its own."""
    label = f"[{section}] " if section else ""
    for item in fields(part):  # type: ignore[arg-type]
        value = getattr(part, item.name)
        known = CHOICES.get(f"{section}.{item.name}", CHOICES.get(item.name, ()))
        if isinstance(value, str) and known and value not in known:
            raise InputError(f"{where}: {unknown(f'{label}{item.name}', value, filter(None, known))}")
        limit = LIMITS.get(item.name)
        if limit is not None and isinstance(value, int | float) and not limit[0](value):
            raise InputError(f"{where}: {label}{item.name} = {value} is out of range; it must be {limit[1]}")


def _train(train: Train, where: str) -> None:
    if train.nesterov and (train.optimizer != "sgd" or train.momentum == 0):
        raise InputError(f"{where} nesterov wants the optimizer sgd with a momentum above 0")
    if train.warmup >= train.epochs and train.warmup > 0:
        raise InputError(f"{where} warmup = {train.warmup} must be shorter than epochs = {train.epochs}")
    rising = list(train.milestones) == sorted(set(train.milestones))
    if not rising or any(epoch < 1 for epoch in train.milestones):
        raise InputError(f"{where} milestones = {list(train.milestones)} must be rising epochs, 1 or more")
    kind, _, index = train.device.partition(":")
    if kind not in {"auto", "cpu", "cuda"} or (index and (kind != "cuda" or not index.isdigit())):
        raise InputError(f'{where} device = "{train.device}" must be auto, cpu, cuda or cuda:N')


def _data(data: DataSet, where: str) -> None:
    if len(data.mean) != len(data.std):
        raise InputError(
            f"{where}: [data] mean and std must have one number per channel each, or both be empty"
        )
    if any(value <= 0 for value in data.std):
        raise InputError(f"{where}: [data] std = {list(data.std)} must be above 0")


def _dense(dense: Dense, recipe: Recipe, where: str) -> None:
    if not dense.control:
        return
    what, method = f"{where}: [dense] control = true", recipe.prune.method
    if not recipe.tune.enabled:
        raise InputError(f"{what} trains as long as [tune] does; enable [tune]")
    if not dense.enabled and not recipe.model.weights:
        raise InputError(f"{what} wants [dense] enabled = true")
    if method in _methods()[1]:
        raise InputError(f"{what} goes with scoring methods; {method} is a training of its own")
    if weights_of(recipe) == "start" and method in _methods()[0]:
        raise InputError(
            f"{what} trains on what pruning starts from, trained weights; {method} starts from random ones: "
            'give [prune] method = "magnitude" or weights = "dense"'
        )
    if recipe.tune.tied:
        raise InputError(
            f"{what} trains at the rates of [tune], which begin anew where two levels settle; leave tied = true or "
            "control out"
        )


def _prune(prune: Prune, recipe: Recipe, where: str) -> None:
    if prune.weights == "given" and not recipe.model.weights:
        raise InputError(f'{where}: [prune] weights = "given" wants [model] weights = "FILE"')
    if prune.weights == "dense" and not recipe.dense.enabled:
        raise InputError(f'{where}: [prune] weights = "dense" wants a [dense] section')
    if prune.per_round is not None and prune.rounds is not None:
        raise InputError(
            f"{where}: [prune] rounds = {prune.rounds} and per_round = {prune.per_round} say two things; "
            "give one of them"
        )
    if prune.max_drop is not None:
        _max_drop(recipe, where)
    if rounds_of(prune) > 1:
        _rounds(rounds_of(prune), recipe, where)


def _max_drop(recipe: Recipe, where: str) -> None:
    if recipe.data.validation == 0:
        raise InputError(
            f"{where}: [prune] max_drop is held against validation images; give [data] validation = 0.1"
        )
    if not recipe.dense.enabled and not recipe.model.weights:
        raise InputError(
            f"{where}: [prune] max_drop wants a dense network to hold against: a [dense] section"
        )
    if not recipe.tune.enabled:
        raise InputError(f"{where}: [prune] max_drop judges tuned networks; it wants [tune] enabled = true")


def _rounds(count: int, recipe: Recipe, where: str) -> None:
    """Refuse what cannot be done again and again."""
    what, tune, method = f"{where}: [prune] {count} rounds", recipe.tune, recipe.prune.method
    if count > _MOST_ROUNDS:
        raise InputError(f"{what} are more than {_MOST_ROUNDS}; raise per_round, or lower rounds")
    if not tune.enabled:
        raise InputError(f"{what} want [tune] enabled = true; without it they are one round")
    if tune.tied:
        raise InputError(f"{what} rank the weights that tuning leaves; two levels per layer leave no order")
    if tune.start == "levels":
        raise InputError(f'{what} want [tune] start = "trained", "rewind" or "init", not "levels"')
    if method != "magnitude" and any(method in menu for menu in _methods()):
        raise InputError(
            f"{what}: only magnitude ranks the weights that a round of training leaves; {method} prunes once, leave "
            "rounds and per_round out"
        )


def _methods() -> tuple[Collection[str], Collection[str]]:
    """Return the names of the scoring and of the training methods; a name on neither is told with the nearest later."""
    from compressor import methods  # and torch, which most commands on recipes do without

    return methods.METHODS, methods.TRAINING_METHODS


def _tune(tune: Tune, recipe: Recipe, where: str) -> None:
    if tune.tied and not tune.enabled:
        raise InputError(f"{where}: [tune] tied = true wants [tune] enabled = true")
    if tune.enabled and tune.start == "rewind" and not recipe.dense.enabled:
        raise InputError(f'{where}: [tune] start = "rewind" wants a [dense] section to rewind to')
    if tune.rewind_to is not None and tune.start != "rewind":
        raise InputError(
            f'{where}: [tune] rewind_to = {tune.rewind_to} is for start = "rewind", not "{tune.start}"; leave '
            "rewind_to out"
        )
    if tune.enabled and tune.replay_from is not None:
        _replay(tune, tune.replay_from, recipe.dense, where)


def _replay(tune: Tune, share: float, dense: Dense, where: str) -> None:
    """Refuse a replay of something else than the dense training, or from elsewhere than the weights come from."""
    what = f"{where}: [tune] replay_from = {share}"
    if not dense.enabled:
        raise InputError(f"{what} wants a [dense] section with enabled = true, whose training it replays")
    for item in fields(Train):
        own, played = getattr(tune.train, item.name), getattr(dense.train, item.name)
        if own != played:
            raise InputError(
                f"{what} trains as [dense] does, {item.name} = {played}; leave [tune] {item.name} = {own} out"
            )
    if epoch_at(share, dense.train.epochs) >= dense.train.epochs:
        raise InputError(f"{what} of {dense.train.epochs} epochs leaves none to train")
    if tune.tied:
        raise InputError(f"{what} cannot be with tied = true, whose levels settle by a schedule of their own")
    if tune.start == "rewind" and tune.rewind_to not in (None, share):
        raise InputError(
            f"{what} and rewind_to = {tune.rewind_to} differ; weights and schedule rewind together: leave "
            "rewind_to out"
        )
    if tune.start == "init" and epoch_at(share, dense.train.epochs) > 0:
        raise InputError(f'{what}: start = "init" is the start of the training; it wants replay_from = 0')


def _pack(pack: Pack, recipe: Recipe, where: str) -> None:
    if pack.format == "asni2" and not recipe.tune.tied and recipe.prune.method != "edge-popup":
        raise InputError(f'{where}: [pack] format = "asni2" wants [tune] tied = true, two levels per layer')


def _verify(verify: Verify, recipe: Recipe, where: str) -> None:
    if verify.enabled and not recipe.export.enabled:
        raise InputError(f"{where}: [verify] wants [export] enabled = true; there is nothing else to verify")
    if verify.samples != "all" and (isinstance(verify.samples, str) or verify.samples < 1):
        raise InputError(f'{where}: [verify] samples = {verify.samples} must be 1 or more, or "all"')
