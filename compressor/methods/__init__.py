"""The menus of methods, and `prune`: one call for every scoring method, with the collapse guard (DESIGN §4)."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import nn

from compressor.errors import InputError, unknown
from compressor.flow import guard
from compressor.methods.asni import asni
from compressor.methods.magnitude import magnitude
from compressor.methods.random import random
from compressor.weights import Mask

Method = Callable[..., Mask]
"""The socket of a scoring method, pure: it returns a mask and leaves everything else the same bits.

method(model, density, data=None, *, generator=None, scope="global", exclude=(), **options) -> Mask
"""

METHODS: Final[Mapping[str, Method]] = {
    "magnitude": magnitude,
    "random": random,
}
TRAINING_METHODS: Final = {
    "asni": asni,
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
    Raises InputError for an unknown method or option, a training method, a density outside (0, 1] and a mask
    through which nothing can flow (DESIGN §3).
    """
    if method in TRAINING_METHODS:
        raise InputError(f'"{method}" prunes while it trains; use compressor.{method}(model, optimizer, ...)')
    if method not in METHODS:
        raise unknown("method", method, [*METHODS, *TRAINING_METHODS])
    function = METHODS[method]
    known = inspect.signature(function).parameters
    for option in options:
        if option not in known:
            raise unknown(f"option of {method}", option, [name for name in known if name != "model"])
    mask = function(model, density, data, generator=generator, scope=scope, exclude=exclude, **options)
    guard(model, mask, data)
    return mask
