"""Format `bitmask`: one bit per weight, least significant bit of each byte first, then the kept values."""

from functools import partial

from compressor.packed import positions, values
from compressor.packed.item import Item, Plan


def plan(item: Item) -> Plan:
    """Return the tensor in this format, which can store every masked one."""
    entry = positions.bitmask(item.entry("bitmask"))
    return Plan(entry, partial(values.placed, item, entry))
