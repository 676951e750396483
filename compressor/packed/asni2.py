"""Format `asni2`: the mask, one sign per kept weight, and two float32 levels, low and high.

Source: papers/asni.md §3.4 (ASNI-II). Exact, or refused: the kept weights must take at most two values, both
finite and exact in float32, and not -0.0. A level that no weight takes is 0.0: a single negative value is the
low level, a single positive one the high level. Differs from the sheet, which demands low < 0 < high: a level
here is any float with low < high, as trained levels may end on the same side of zero. Positions, and the signs with
them, in the shortest coding there is.
"""

from dataclasses import replace

import numpy as np

from compressor.errors import FormatError
from compressor.packed import positions, reader
from compressor.packed.item import Item, Plan, bit_bytes
from compressor.packed.positions import Fan
from compressor.packed.reader import DTYPES, LEVEL_DTYPES, Array, level_bits, pieces, raise_16


def plan(item: Item, fan: Fan | None = None) -> Plan | str:
    """Return the tensor in this format, or why not."""
    found = levels(item)
    if isinstance(found, str):
        return found
    assert item.mask is not None
    signs = item.kept_bits == level_bits(found[1], item.dtype)
    both = found.astype("<f4").tobytes()
    entry, where = replace(item.entry("all", "levels"), scales=0), b""
    if item.kept < item.total:
        entry, where = positions.best(entry, item.mask, signs, fan)
    apart = b"" if entry.positions in reader.CODED else bit_bytes(signs)
    return Plan(entry, lambda: iter([where, both, apart]))


def levels(item: Item) -> Array | str:
    """Return float32[2], low and high, or why this tensor has no two levels."""
    if item.mask is None or item.dtype not in LEVEL_DTYPES:
        return f"asni2 stores masked weights of the dtypes {', '.join(LEVEL_DTYPES)}"
    if item.values in reader.ROUNDED:
        return "its values are rounded, which asni2 has no place to say"
    if not item.kept:
        return np.zeros(2, np.float32)
    bits = item.kept_bits
    pair = np.array([bits.min(), bits.max()])
    if not all(((bits[part] == pair[0]) | (bits[part] == pair[1])).all() for part in pieces(len(bits))):
        return "it takes more than two values; asni2 stores two levels (compressor.to_levels makes them)"
    with np.errstate(over="ignore", invalid="ignore"):
        wide = raise_16(pair, "BF16") if item.dtype == "BF16" else pair.view(DTYPES[item.dtype])
        both = np.unique(wide.astype(np.float32))
    if pair[0] == pair[1]:
        both = np.sort(np.append(both[:1], np.float32(0.0)))
    return (
        both
        if _exact(both, pair, item.dtype)
        else "its two values are not two different, finite float32 levels"
    )


def _exact(both: Array, pair: Array, dtype: str) -> bool:
    """Whether the levels, decoded, are the bits they came from."""
    if len(both) != 2 or not np.isfinite(both).all() or not both[0] < both[1]:
        return False
    if (np.signbit(both) & (both == 0)).any():
        return False
    try:
        decoded = {int(level_bits(level, dtype)) for level in both}
    except FormatError:
        return False
    return {int(pair[0]), int(pair[1])} <= decoded
