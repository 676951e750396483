"""Format `dense`: every element in its place, zeros as zeros.

A tensor under a mask may be stored so too (the smallest plain form above a density of about 97 %): its kept weights
are then those whose bits are not +0.0, which only works if no kept weight is +0.0.
"""

from functools import partial

import numpy as np

from compressor.packed import values
from compressor.packed.item import Item, Plan


def plan(item: Item) -> Plan | str:
    """Return the tensor in this format, or why not."""
    pruned = item.mask is not None and item.kept < item.total
    if pruned and item.values == "int8":
        return "dense would store a code for every pruned weight"
    zeros = item.kept - int(np.count_nonzero(item.kept_bits)) if pruned else 0
    if zeros:
        return f"dense cannot tell its {zeros:,} kept zeros from pruned weights"
    return Plan(item.entry("all"), partial(values.raw, item, whole=True))
