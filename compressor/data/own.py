"""The user's own data: an npz file, or a function that returns a training and a test set."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.utils.data import TensorDataset

from compressor.data.images import Source
from compressor.data.items import Items
from compressor.data.memory import inputs, labels
from compressor.errors import InputError
from compressor.imports import call, factory

ARRAYS: Final = ("x_train", "y_train", "x_test", "y_test")


def npz(path: Path) -> Source:
    """Return the arrays x_train, y_train, x_test, y_test of an npz file: NCHW uint8 or float, integer labels.

    Raises InputError if the file or an array is missing, damaged or unfit.
    """
    try:
        # Opened here: np.load leaves a file open that is no whole zip.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file]
            if missing:
                raise InputError(
                    f"{path}: {', '.join(missing)} missing; an npz data set holds {', '.join(ARRAYS)}"
                )
            x_train, y_train, x_test, y_test = (file[name] for name in ARRAYS)
    except (
        OSError,
        ValueError,
        EOFError,
        AttributeError,
        TypeError,
        zlib.error,
        zipfile.BadZipFile,
    ) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if "pickle" in reason:  # numpy goes on to advise running what is in the file
            reason = "it holds something else"
        raise InputError(f"{path}: cannot be read as an npz of plain arrays ({reason})") from error
    return _pairs(str(path), (x_train, y_train), (x_test, y_test))


def made(name: str, search: Sequence[Path]) -> Source:
    """Return what the function `package.module:function` returns: a training set and a test set.

    Each is a pair of tensors (x, y) or a TensorDataset, treated like an npz, or any other torch Dataset of
    (x, y), left as its transforms make it. Raises InputError for anything else, and if the function raises.
    """
    result = call(name, factory(name, search), search)
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise InputError(f"{name}: returned {type(result).__name__}; return (training set, test set)")
    train, test = _pair(result[0]), _pair(result[1])
    if train is not None and test is not None:
        return _pairs(name, train, test)
    first, second = Items(result[0], f"{name}, training set"), Items(result[1], f"{name}, test set")
    y_train, y_test = first.labels(), second.labels()
    _same_shape(name, first.shape, second.shape)
    return Source(first, y_train, second, y_test, 1 + int(max(y_train.max(), y_test.max())))


def _pair(part: Any) -> tuple[Any, Any] | None:
    """Return (x, y) if that is what a split consists of."""
    tensors = part.tensors if isinstance(part, TensorDataset) else part
    if not isinstance(tensors, tuple | list) or len(tensors) != 2:
        return None
    if not all(isinstance(tensor, torch.Tensor | np.ndarray) for tensor in tensors):
        return None
    return tensors[0], tensors[1]


def _pairs(name: str, train: tuple[Any, Any], test: tuple[Any, Any]) -> Source:
    x_train, x_test = inputs(train[0], f"{name}, x_train"), inputs(test[0], f"{name}, x_test")
    y_train = labels(train[1], f"{name}, y_train", len(x_train))
    y_test = labels(test[1], f"{name}, y_test", len(x_test))
    _same_shape(name, x_train.shape, x_test.shape)
    if x_train.pixels != x_test.pixels:
        raise InputError(f"{name}: x_train and x_test must both be uint8 pixels or both floats")
    return Source(x_train, y_train, x_test, y_test, 1 + int(max(y_train.max(), y_test.max())))


def _same_shape(name: str, train: tuple[int, ...], test: tuple[int, ...]) -> None:
    if train != test:
        raise InputError(
            f"{name}: one training input has shape {train}, one test input {test}; they must be equal"
        )
