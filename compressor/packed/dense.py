"""Format `dense`: every element in its place, zeros as zeros.

A tensor under a mask may be stored so too (the smallest form above a density of about 97 %): its kept weights
are then those whose bits are not +0.0, which only works if no kept weight is +0.0.
"""

from collections.abc import Iterator

import numpy as np

from compressor.packed.item import Item, value_bytes
from compressor.packed.reader import Entry


def plan(item: Item) -> Entry | str:
    """Return the header entry, or why not."""
    if item.mask is not None and item.kept < len(item.bits):
        zeros = item.kept - int(np.count_nonzero(item.kept_bits))
        if zeros:
            return f"dense cannot tell its {zeros:,} kept zeros from pruned weights"
    return item.entry("all", item.values)


def sections(item: Item, entry: Entry) -> Iterator[bytes]:  # noqa: ARG001
    """Yield all elements."""
    yield value_bytes(item, item.bits)
