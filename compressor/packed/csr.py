"""Format `csr`: where the kept weights are, row by row, as gaps; then the kept values.

The rows are the first dimension, the rest is flattened. A gap is the number of pruned weights between a kept
one and the kept one before it; it may run over the end of a row, so that empty rows cost nothing. Gaps are
written in digits of `width` bits; a digit of all ones adds 2**width - 1 and goes on. Column indices with row
counts, the usual form, are never smaller at the same packing of bits (proof in docs/formats.md), so there is
no such form in the file.
"""

from collections.abc import Iterator

import numpy as np

from compressor.packed.item import Item, bit_bytes, value_bytes
from compressor.packed.reader import Array, Entry

SMALL = 1 << 16


def plan(item: Item) -> Entry | str:
    """Return the header entry, with the width of the digits that makes the positions smallest."""
    width, escapes = best_width(gaps(item))
    return item.entry("gaps", item.values, width, escapes)


def sections(item: Item, entry: Entry) -> Iterator[bytes]:
    """Yield the gaps, then the kept values in row-major order."""
    yield gap_bytes(item, entry)
    yield value_bytes(item, item.kept_bits)


def positions(item: Item, values: str) -> Entry:
    """Return the header entry with the smaller coding of the positions, bitmask or gaps (ties: bitmask)."""
    bitmask = item.entry("bitmask", values)
    width, escapes = best_width(gaps(item))
    listed = item.entry("gaps", values, width, escapes)
    return listed if listed.section < bitmask.section else bitmask


def position_bytes(item: Item, entry: Entry) -> Iterator[bytes]:
    """Yield the positions as the entry codes them: nothing where all are in their place."""
    if entry.positions == "gaps":
        yield gap_bytes(item, entry)
    elif entry.positions == "bitmask":
        assert item.mask is not None
        yield bit_bytes(item.mask)


def gaps(item: Item) -> Array:
    """Return how many pruned weights stand directly before each kept one, int64[kept]."""
    assert item.mask is not None
    where = np.flatnonzero(item.mask)
    return np.diff(where, prepend=-1) - 1


def best_width(distances: Array) -> tuple[int, int]:
    """Return the bits per digit that need fewest bits in all (the first such), and the escapes."""
    small = np.bincount(distances[distances < SMALL])
    large = distances[distances >= SMALL]
    # Gaps add up to less than the tensor has weights, so few are large: one histogram serves all widths.
    sizes = np.concatenate([np.arange(len(small)), large])
    times = np.concatenate([small, np.ones(len(large), np.int64)])
    best: tuple[int, int, int] | None = None
    for width in range(1, 33):
        escapes = int((sizes // ((1 << width) - 1) * times).sum())
        bits = (len(distances) + escapes) * width
        if best is None or bits < best[0]:
            best = bits, width, escapes
    assert best is not None
    return best[1], best[2]


def gap_bytes(item: Item, entry: Entry) -> bytes:
    """Return the digits of all gaps, each with its least significant bit first, padded with zeros."""
    escape = (1 << entry.width) - 1
    times, last = np.divmod(gaps(item), escape)
    digits = np.full(item.kept + entry.escapes, escape)
    digits[np.cumsum(times + 1) - 1] = last
    bits = np.empty((len(digits), entry.width), bool)
    for place in range(entry.width):
        bits[:, place] = digits >> place & 1
    return bit_bytes(bits)
