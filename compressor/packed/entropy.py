"""Format `entropy`: the positions in the shortest coding there is, the byte planes of the kept values coded.

Source: research into what trained masks have in common (docs/formats.md, "The mixed model"): densities that differ by
column, row and fan-in, survivors that stand together. Unmasked tensors come here too: their values coded, and exact
zeros left out if that is shorter.
"""

from dataclasses import replace

from compressor.packed import positions, values
from compressor.packed.item import Item, Plan
from compressor.packed.positions import Fan


def plan(item: Item, fan: Fan | None = None) -> Plan:
    """Return the tensor in this format, which can store every one."""
    if item.mask is None or item.kept == len(item.bits):
        entry, data = values.planed(item, item.entry("all"), item.bits)
        other = _without_zeros(item) if item.mask is None and item.codes is None else None
        if other is not None and other.entry.section + 6 < entry.section:
            return other
        return Plan(entry, lambda: iter([data]))
    entry, where = positions.best(item.entry("bitmask"), item.mask, None, fan)
    entry, data = values.planed(item, entry, item.kept_bits)
    return Plan(entry, lambda: iter([where, data]))


def _without_zeros(item: Item) -> Plan | None:
    """Return an unmasked tensor without its +0.0, if it has any."""
    there = item.bits != 0
    left = item.bits[there]
    if len(left) == len(item.bits):
        return None
    entry = replace(item.entry("bitmask"), kept=len(left))
    both = (code(entry, there) for code in (positions.bitmask, positions.rice))
    entry, where = min(both, key=lambda each: each[0].section)
    entry, data = values.planed(item, entry, left)
    return Plan(entry, lambda: iter([where, data]))
