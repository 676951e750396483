"""What methods take as `data`: batches, inputs alone, or a shape (DESIGN §4)."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from compressor.copies import undisturbed
from compressor.errors import InputError

Batch = tuple[tuple[Tensor, ...], Any]
"""(inputs, labels): what the network is called with, and what the loss compares its output with."""

_WHAT = "data: not a batch (x, y), an iterable of batches, inputs x or a shape"


def example_inputs(data: Any) -> tuple[Tensor, ...]:
    """Return one batch of inputs from what methods take as `data`.

    data: (x, y), ((x1, x2), y), an iterable of such batches, x alone, or a shape without the batch, or several, which
    give ones. Raises InputError for anything else.
    """
    if isinstance(data, Tensor):
        return (data,)
    if _is_shape(data):
        return (torch.ones(2, *data, device="cpu"),)
    if isinstance(data, tuple) and data and all(_is_shape(shape) for shape in data):
        return tuple(torch.ones(2, *shape, device="cpu") for shape in data)
    if _is_batch(data):
        return _inputs(data[0])
    first = next(_iterate(data), None)
    if first is None or first is data or isinstance(first, int | float | str):
        raise InputError(_WHAT)
    return example_inputs(tuple(first) if isinstance(first, list) else first)


def labelled(data: Any, method: str) -> list[Batch]:
    """Return the batches of `data`, in order and held in memory: several rounds must see the same ones.

    data: (x, y), ((x1, x2), y) or an iterable of such batches. Raises InputError where labels or data are missing.
    """
    wants = f"{method} wants data=(x, y), a batch of inputs and labels, or an iterable of batches"
    if data is None:
        raise InputError(f"{wants}; there is none")
    if isinstance(data, Tensor) or _is_shape(data):
        raise InputError(f"{wants}; there are no labels")
    batches = [data] if _is_batch(data) else list(_iterate(data))
    if not batches:
        raise InputError(f"{wants}; the iterable is empty")
    if not all(_is_batch(batch) for batch in batches):
        raise InputError(f"{wants}; there is something else in it than tensors")
    return [(_inputs(batch[0]), batch[1]) for batch in batches]


def collected(data: Any, *, whole: bool) -> Any:
    """Return `data` so that reading it twice gives the same: an iterable as the list of its batches.

    whole: all of them, or only the first. A loader that shuffles or augments gives others every time. The global
    generators, which loaders draw from, are put back.
    """
    if data is None or isinstance(data, Tensor) or _is_shape(data) or _is_batch(data):
        return data
    if isinstance(data, tuple) and data and all(_is_shape(shape) for shape in data):
        return data
    with undisturbed():
        return list(islice(_iterate(data), None if whole else 1))


def _is_shape(data: Any) -> bool:
    if not isinstance(data, Sequence) or not data or not all(isinstance(size, int) for size in data):
        return False
    if min(data) < 1:
        raise InputError(f"data: the shape {tuple(data)} has a size below 1")
    return True


def _is_batch(data: Any) -> bool:
    """Say whether this is (x, y) or ((x1, x2), y), as a tuple or, as loaders give it, a list."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        return False
    x, y = data
    several = isinstance(x, tuple | list) and bool(x) and all(isinstance(part, Tensor) for part in x)
    # Two batches in a list look like ((x1, x2), y) but for the y, which is then a batch itself.
    return (isinstance(x, Tensor) or several) and isinstance(y, Tensor | Mapping)


def _inputs(x: Any) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)


def _iterate(data: Any) -> Iterator[Any]:
    try:
        return iter(data)
    except TypeError:
        raise InputError(_WHAT) from None
