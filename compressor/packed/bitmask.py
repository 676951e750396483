"""Format `bitmask`: one bit per weight, least significant bit of each byte first, then the kept values."""

from compressor.packed import positions, values
from compressor.packed.item import Item, Plan


def plan(item: Item) -> Plan:
    """Return the tensor in this format, which can store every masked one."""
    assert item.mask is not None
    entry, where = positions.bitmask(item.entry("bitmask"), item.mask)
    return Plan(entry, lambda: iter([where, *values.raw(item, item.kept_bits)]))
