"""Format `base`: nothing but the positions; the values are those that the base file has there.

One frozen network, one small file per task (papers/edge-popup.md §8a): of a masked tensor whose kept weights are the
base's, bit for bit, the mask is stored; of one whose mask is the base's own too, or that has none, not even that.
"""

from dataclasses import replace

import numpy as np

from compressor.packed import positions
from compressor.packed.item import Item, Plan
from compressor.packed.reader import Packed


def in_base(item: Item, base: Packed) -> Item:
    """Return the tensor as one that is stored from the base, or as it is if the base does not have it so."""
    first = base.tensors.get(item.name)
    if first is None or (first.dtype, first.shape) != (item.dtype, item.shape):
        return item
    bits = first.data.reshape(-1).view(item.kept_bits.dtype)
    if not np.array_equal(bits if item.mask is None else bits[item.mask], item.kept_bits):
        return item
    own = np.ones(len(bits), bool) if first.mask is None else first.mask.reshape(-1)
    return replace(item, values="base", base_mask=own)


def plan(item: Item) -> Plan:
    """Return the shortest coding of the positions of a tensor that `in_base` found there."""
    assert item.base_mask is not None
    entry, where = item.entry("all", "base"), b""
    if item.mask is not None and not np.array_equal(item.mask, item.base_mask):
        entry, where = positions.best(entry, item.mask, None, None)
    return Plan(entry, lambda: iter([where]))
