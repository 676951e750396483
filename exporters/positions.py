"""Where the kept weights are: gap code, Elias-Fano code and bitmask, in numpy, with their exact sizes.

Every code ends in a tail of 1 to 8 (gap: times the escape) places behind the last weight, so that all bit
planes fill whole bytes and a network without a single kept weight needs no case of its own. The decode
chains of encodings.py cut the tail off.

Source: gap code with an escape symbol as in Han et al. 2016 (Deep Compression), section 3; Elias 1974 and
Fano 1971 for the split into unary high and plain low parts.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]
Index = npt.NDArray[np.int64]

GAP_WIDTHS: Final = range(2, 15)
LOW_WIDTHS: Final = range(1, 21)
ELIAS_FANO_BYTES: Final = 470  # its nodes and constants beyond those of the gap code, measured
# onnxruntime folds no node with an output above 1 GiB (microsoft/onnxruntime #28055); int32 is 4 bytes wide.
LARGEST: Final = 2**28 - 1


@dataclass(frozen=True, slots=True)
class Positions:
    """Encoded positions.

    planes: bool (width, slots), plane j holds bit j of every symbol; slots is a multiple of 8
    unary: bool (length,), the high parts of an Elias-Fano code, or the bitmask; empty for the gap code
    slots: for every kept weight, in order, the place of its value among the slots
    tail: places behind the last weight that the decoder makes too
    """

    code: str
    width: int
    planes: Bits
    unary: Bits
    slots: Index
    tail: int


def padding(count: int) -> int:
    """Return how many entries (1 to 8) fill `count` up to the next multiple of 8."""
    return 8 - count % 8


def cheapest(positions: Index, total: int, value_bits: int) -> tuple[str, int, int]:
    """Return (code, width, bits) of the smallest code, values included, that keeps every intermediate small.

    positions: strictly increasing, in 0 .. total - 1; value_bits: what each slot costs beside its position.
    The code is "" where none is possible.
    """
    kept = len(positions)
    found: list[tuple[int, str, int]] = []
    gaps = np.diff(positions, prepend=-1) - 1
    for width in GAP_WIDTHS:
        symbols = kept + int((gaps // (2**width - 1)).sum())
        slots = symbols + padding(symbols)
        if slots * (width + 1) <= LARGEST and total + 8 * 2**width <= LARGEST:
            found.append((slots * (width + value_bits), "gap", width))
    slots = kept + padding(kept)
    for width in LOW_WIDTHS:
        unary = unary_length(total, kept, width)
        if slots * (width + 1) <= LARGEST and max(unary, total + 8) <= LARGEST:
            bits = slots * (width + value_bits) + unary + 8 * ELIAS_FANO_BYTES
            found.append((bits, "elias-fano", width))
    if total + 8 <= LARGEST:
        table = kept + 1 + padding(kept + 1)
        found.append((total + padding(total) + table * value_bits, "bitmask", 1))
    if not found:
        return "", 0, 0
    bits, code, width = min(found)
    return code, width, bits


def unary_length(total: int, kept: int, width: int) -> int:
    """Return the length in bits, a multiple of 8, of the unary part of an Elias-Fano code."""
    slots = kept + padding(kept)
    length = slots + ((total + padding(kept) - 1) >> width) + 1
    return length + padding(length)


def encode(code: str, width: int, positions: Index, total: int) -> Positions:
    """Encode strictly increasing positions in 0 .. total - 1."""
    if code == "gap":
        return _gap(width, positions)
    if code == "elias-fano":
        return _elias_fano(width, positions, total)
    return _bitmask(positions, total)


def _gap(width: int, positions: Index) -> Positions:
    """Symbol s < E: s pruned weights, then a kept one; symbol E = 2^width - 1: E pruned weights."""
    escape = 2**width - 1
    gaps = np.diff(positions, prepend=-1) - 1
    slots = np.cumsum(gaps // escape + 1) - 1
    count = int(slots[-1]) + 1 if len(slots) else 0
    pad = padding(count)
    symbols = np.full(count + pad, escape, dtype=np.int64)
    symbols[slots] = gaps % escape
    return Positions("gap", width, _planes(symbols, width), np.zeros(0, np.bool_), slots, pad * escape)


def _elias_fano(width: int, positions: Index, total: int) -> Positions:
    """High parts in unary (a zero per step, a one per weight), low `width` bits as they are."""
    kept = len(positions)
    pad = padding(kept)
    padded = np.concatenate([positions, np.arange(total, total + pad)])
    unary = np.zeros(unary_length(total, kept, width), np.bool_)
    unary[(padded >> width) + np.arange(kept + pad)] = True
    low = padded & (2**width - 1)
    return Positions("elias-fano", width, _planes(low, width), unary, np.arange(kept), pad)


def _bitmask(positions: Index, total: int) -> Positions:
    """One bit per weight; slot 0 is the value of all pruned weights, the kept ones start at slot 1."""
    unary = np.zeros(total + padding(total), np.bool_)
    unary[positions] = True
    kept = len(positions)
    empty = np.zeros((0, kept + 1 + padding(kept + 1)), np.bool_)
    return Positions("bitmask", 1, empty, unary, np.arange(1, kept + 1), padding(total))


def _planes(symbols: Index, width: int) -> Bits:
    return (symbols >> np.arange(width)[:, None] & 1).astype(np.bool_)
