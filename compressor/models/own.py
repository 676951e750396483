"""Networks that were written elsewhere: torchvision's classification models and the user's own."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from compressor.errors import InputError, unknown
from compressor.imports import call, factory, torchvision


def from_torchvision(name: str, classes: int) -> nn.Module:
    """Return a torchvision classification model without pretrained weights. Raises InputError, HostError."""
    models = torchvision().models
    if name not in models.list_models(module=models):
        raise unknown("torchvision model", name, models.list_models(module=models))
    options = {"num_classes": classes}
    if name in ("googlenet", "inception_v3"):
        # Their own initialisation takes minutes in scipy and warns that it will go.
        options["init_weights"] = False
    return models.get_model(name, weights=None, **options)  # type: ignore[no-any-return]


def made(name: str, shape: tuple[int, ...], classes: int, search: Sequence[Path]) -> nn.Module:
    """Return what `package.module:factory` returns.

    It is called without arguments, but for `shape` and `classes` where its signature names them, and
    `num_classes` where that has no default. Raises InputError if it wants more, raises, or returns no module.
    """
    function = factory(name, search)
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        parameters = {}
    offered = {"shape": shape, "classes": classes, "num_classes": classes}
    needed = [key for key, value in parameters.items() if _required(value)]
    unmet = [key for key in needed if key not in offered]
    if unmet:
        raise InputError(
            f"{name}: wants {', '.join(unmet)}; only shape and classes can be given, use defaults"
        )
    names = [key for key in ("shape", "classes") if key in parameters] + [
        key for key in needed if key == "num_classes"
    ]
    model = call(name, function, search, **{key: offered[key] for key in names})
    if not isinstance(model, nn.Module):
        raise InputError(f"{name}: returned {type(model).__name__}; return a torch.nn.Module")
    return model


def _required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return named and parameter.default is inspect.Parameter.empty
