"""The menus of methods, and `prune`: one call for every scoring method, with the collapse guard (DESIGN §4)."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from compressor.batches import collected
from compressor.errors import CollapseError, InputError, unknown
from compressor.flow import collapse, remedy
from compressor.methods.asni import asni
from compressor.methods.edge_popup import edge_popup
from compressor.methods.force import force
from compressor.methods.grasp import grasp
from compressor.methods.iterative_snip import iterative_snip
from compressor.methods.magnitude import magnitude
from compressor.methods.random import random
from compressor.methods.snip import snip
from compressor.methods.synflow import synflow
from compressor.selection import SCOPES, kept_count
from compressor.weights import Mask

Method = Callable[..., Mask]
"""The socket of a scoring method, pure: it returns a mask and leaves everything else the same bits.

method(model, density, data=None, *, generator=None, scope="global", exclude=(), **options) -> Mask
"""

METHODS: Final[Mapping[str, Method]] = {
    "magnitude": magnitude,
    "random": random,
    "snip": snip,
    "grasp": grasp,
    "synflow": synflow,
    "iterative-snip": iterative_snip,
    "force": force,
}
TRAINING_METHODS: Final[Mapping[str, Callable[..., Any]]] = {
    "asni": asni,
    "edge-popup": edge_popup,
}


def prune(
    model: nn.Module,
    method: str,
    *,
    density: float,
    data: Any = None,
    scope: str = "global",
    exclude: Sequence[str] = (),
    generator: torch.Generator | None = None,
    **options: Any,
) -> Mask:
    """Return the mask that a scoring method finds at this density (kept / total of the prunable weights).

    data: one batch (x, y), an iterable of batches, or for methods without data x or a shape without the batch.
    The module is not changed; apply the mask with `mask.apply_(model)` or train under `hold`.
    options: those of the method's own function, such as rounds=, mode= or loss=.
    Raises InputError for an unknown method or option, a training method, a density outside (0, 1], data that are
    missing or do not fit, and a mask through which nothing can flow, with the layers and the round (DESIGN §3).
    """
    if method in TRAINING_METHODS:
        own = TRAINING_METHODS[method].__name__
        raise InputError(f'"{method}" prunes while it trains; use compressor.{own}(model, optimizer, ...)')
    if method not in METHODS:
        raise unknown("method", method, [*METHODS, *TRAINING_METHODS])
    function = METHODS[method]
    known = inspect.signature(function).parameters
    for option in options:
        if option not in known:
            raise unknown(f"option of {method}", option, [name for name in known if name != "model"])
    if not isinstance(model, nn.Module):
        raise InputError(f"{method} prunes a torch.nn.Module, not a {type(model).__name__}")
    kept_count(density, 1)
    if scope not in SCOPES:
        raise unknown("scope", str(scope), SCOPES)
    exclude = [exclude] if isinstance(exclude, str) else exclude
    data = collected(data, whole="loss" in known)
    call = partial(function, model, density, data, generator=generator, scope=scope, exclude=exclude)
    mask = call(**options)
    why = collapse(model, mask, data)
    if why:
        again = partial(call, **{name: value for name, value in options.items() if name != "on_round"})
        when = f" in round {_collapsed_in(model, data, again)}" if "on_round" in known else ""
        raise CollapseError(f"layer collapse by {method}{when}: {why}; {remedy(method)}")
    return mask


def _collapsed_in(model: nn.Module, data: Any, call: Callable[..., Mask]) -> int:
    """Return the round after which nothing flowed any more, by pruning once again with an eye on it."""
    dead_since = 0

    def look(number: int, masks: Mapping[str, Tensor]) -> None:
        nonlocal dead_since
        if not collapse(model, masks, data):
            dead_since = 0
        elif not dead_since:
            dead_since = number

    call(on_round=look)
    return dead_since
