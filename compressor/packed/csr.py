"""Format `csr`: where the kept weights are, row by row, as gaps; then the kept values.

The rows are the first dimension, the rest is flattened. A gap is the number of pruned weights between a kept
one and the kept one before it; it may run over the end of a row, so that empty rows cost nothing. Gaps are
written in digits of `width` bits; a digit of all ones adds 2**width - 1 and goes on. Column indices with row
counts, the usual form, are never smaller at the same packing of bits (proof in docs/formats.md), so there is
no such form in the file.
"""

from functools import partial

from compressor.packed import positions, values
from compressor.packed.item import Item, Plan


def plan(item: Item) -> Plan:
    """Return the tensor in this format, with the width of the digits that makes the positions smallest."""
    assert item.mask is not None
    entry = positions.gaps(item.entry("gaps"), item.mask)
    return Plan(entry, partial(values.placed, item, entry))
