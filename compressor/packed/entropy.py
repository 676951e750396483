"""Format `entropy`: the positions in the shortest coding there is, the byte planes of the kept values coded.

Source: research into what trained masks have in common (docs/formats.md, "The mixed model"): densities that differ by
column, row and fan-in, survivors that stand together. Unmasked tensors come here too: their values coded, and exact
zeros left out if that is shorter.
"""

from dataclasses import replace
from typing import Final

from compressor.packed import positions, values
from compressor.packed.item import Item, Plan
from compressor.packed.positions import Fan

FEW: Final = 8  # of so many elements not one is 0: then the models take longer than they are worth


def plan(item: Item, fan: Fan | None = None) -> Plan:
    """Return the tensor in this format, which can store every one."""
    if item.mask is None or item.kept == item.total:
        entry, parts = values.planed(item, item.entry("all"), item.kept_bits)
        other = _without_zeros(item) if item.mask is None and item.codes is None else None
        if other is not None and other.entry.section + 6 < entry.section:
            return other
        return Plan(entry, lambda: iter(parts))
    entry, where = positions.best(item.entry("bitmask"), item.mask, None, fan)
    entry, parts = values.planed(item, entry, item.kept_bits)
    return Plan(entry, lambda: iter([where, *parts]))


def _without_zeros(item: Item) -> Plan | None:
    """Return an unmasked tensor without its +0.0, if it has any."""
    there = item.kept_bits != 0
    left = item.kept_bits[there]
    if len(left) == item.total:
        return None
    entry = replace(item.entry("bitmask"), kept=len(left))
    if len(left) and FEW * (item.total - len(left)) > item.total:
        entry, where = positions.best(entry, there, None, None)
    else:
        entry = min(positions.bitmask(entry), positions.rice(entry, there), key=lambda each: each.section)
        where = positions.plain_bytes(entry, there)
    entry, parts = values.planed(item, entry, left)
    return Plan(entry, lambda: iter([where, *parts]))
