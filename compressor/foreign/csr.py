"""Compressed sparse rows, whoever wrote them: checked, then laid out as a tensor and its mask."""

import math
from collections.abc import Sequence

import numpy as np

from compressor.errors import FormatError
from compressor.packed.reader import Array


def spread(
    name: str, rows: int, columns: int, starts: Array, places: Array, values: Array
) -> tuple[Array, Array]:
    """Return the flat bits of a matrix (rows, columns), +0.0 where nothing is stored, and which places are stored.

    starts: where each row begins among the values, and their number (scipy's indptr, torch's crow_indices); places:
    the column of each value, ascending in each row; values: unsigned integers. Raises FormatError.
    """
    starts, places = _integers(name, "row starts", starts), _integers(name, "columns", places)
    if starts.shape != (rows + 1,):
        raise _wrong(name, f"has {starts.size:,} row starts for {rows:,} rows; one more than rows is right")
    if places.shape != values.shape or values.ndim != 1:
        raise _wrong(name, f"has {places.size:,} columns for {values.size:,} values")
    counts = np.diff(starts)
    inside = 0 <= starts.min() <= starts.max() <= len(values)  # before differences that might wrap
    if not inside or starts[0] != 0 or starts[-1] != len(values) or (counts < 0).any():
        raise _wrong(name, f"has row starts that do not rise from 0 to its {len(values):,} values")
    if len(places) and not 0 <= places.min() <= places.max() < columns:
        raise _wrong(name, f"has a column outside of 0 to {columns - 1:,}")
    return scatter(name, rows * columns, np.repeat(np.arange(rows) * columns, counts) + places, values)


def scatter(name: str, total: int, where: Array, values: Array) -> tuple[Array, Array]:
    """Return flat bits and mask with the values at these flat places, which must rise. Raises FormatError."""
    steps = np.diff(where)
    if (steps == 0).any():
        raise _wrong(name, "stores two values at one place; add them up first (sum_duplicates, coalesce)")
    if (steps < 0).any():
        raise _wrong(name, "stores its places in no order; sort them first (sort_indices, coalesce)")
    mask = np.zeros(total, bool)
    mask[where] = True
    bits = np.zeros(total, values.dtype)
    bits[where] = values
    return bits, mask


def flat(shape: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of a tensor of this shape: the first dimension, and all the others."""
    rows = shape[0] if shape else 1
    return rows, math.prod(shape[1:])


def _integers(name: str, what: str, found: Array) -> Array:
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise _wrong(name, f"has {what} of {found.dtype} {list(found.shape)}; a list of integers is right")
    return found.astype(np.int64)


def _wrong(name: str, what: str) -> FormatError:
    return FormatError(f'tensor "{name}" {what}')
