"""One tensor on its way into the file: its bits, its mask, and the precision that it is stored at."""

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from compressor.errors import InputError
from compressor.packed.reader import (
    DTYPES,
    LOWERED_DTYPES,
    NEVER_SPARSE,
    Array,
    Entry,
    larger_than_needed,
    pieces,
    products,
    raise_16,
    row_begins,
    row_blocks,
)

# dtype -> the bits in which -0.0 and +0.0 differ (the FNUZ types have one zero only; integers too)
SIGNS: Final = {
    "F8_E5M2": 0x80,
    "F8_E4M3": 0x80,
    "F16": 0x8000,
    "BF16": 0x8000,
    "F32": 1 << 31,
    "F64": 1 << 63,
    "C64": 1 << 63 | 1 << 31,
}
FINEST: Final = np.float32(2.0**-126)  # the smallest normal float32: finer scales of int8 are taken for 0


@dataclass(frozen=True, slots=True)
class Given:
    """A tensor to be packed that need not be in memory yet.

    load: returns its elements, flat and row-major, as unsigned integers, and its mask, flat, bool, or None if it has
    none; it may be called twice. sparse: whether there is a mask. alias_of: the earlier tensor that this is, or "".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sparse: bool
    load: Callable[[], tuple[Array, Array | None]]
    alias_of: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A tensor to be stored.

    mask: flat bool, None for role dense. kept_bits: the elements under it (all of them without one), flat, as unsigned
    integers. values: "own", "F16" / "BF16" where they hold nothing finer, "int8" with the codes of the kept ones and
    the scales of the rows that have any, or "base": the base file has these values; base_mask: the mask that it has
    them under. error: what lowering cost at most.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    mask: Array | None
    kept_bits: Array
    crc: int
    values: str = "own"
    codes: Array | None = None
    scales: Array | None = None
    error: float = 0.0
    base_mask: Array | None = None

    @property
    def kept(self) -> int:
        """The number of kept elements; all of them for role dense."""
        return len(self.kept_bits)

    @property
    def total(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def blocks(self) -> Iterator[Array]:
        """Yield all elements, flat, block by block: pruned ones are +0.0."""
        return _blocks(self.mask, self.kept_bits)

    def entry(self, positions: str, values: str = "") -> Entry:
        """Return the header entry of this tensor in the given codings, without what they say of themselves."""
        role = "dense" if self.mask is None else "sparse"
        values = values or self.values
        scales = len(self.scales) if self.scales is not None else 0
        entry = Entry(self.name, role, self.dtype, self.shape, self.kept, positions, values, crc=self.crc)
        return replace(entry, scales=scales)


@dataclass(frozen=True, slots=True)
class Plan:
    """A tensor in one storage format: its header entry, and its section, part by part."""

    entry: Entry
    parts: Callable[[], Iterator[bytes | memoryview]]


class Format(Protocol):
    """What the file of one storage format holds."""

    def plan(self, item: Item, /) -> Plan | str:
        """Return the tensor in this format, or the reason why it cannot be stored so."""


def make(name: str, dtype: str, shape: tuple[int, ...], bits: Array, mask: Array | None) -> Item:
    """Return the tensor as it will be decoded: a -0.0 at a pruned place becomes +0.0.

    bits: unsigned integers in row-major order; mask: bool, same number of elements. Raises InputError for a
    non-zero at a pruned place.
    """
    bits = bits.reshape(-1)
    if mask is None:
        return Item(name, dtype, shape, None, bits, _crc(None, bits))
    if dtype in NEVER_SPARSE:
        raise InputError(f'tensor "{name}": dtype {dtype} has no zero; leave it out of the mask')
    mask = mask.reshape(-1)
    magnitude = bits.dtype.type(~SIGNS.get(dtype, 0) & (1 << 8 * bits.itemsize) - 1)
    wrong = 0
    for part in pieces(len(bits)):
        pruned = bits[part][~mask[part]]
        wrong += int(np.count_nonzero(pruned & magnitude))
    if wrong:
        raise InputError(
            f'tensor "{name}": {wrong:,} weights that the mask prunes are not zero; apply the mask first'
        )
    kept = bits[mask]
    return Item(name, dtype, shape, mask, kept, _crc(mask, kept))


def _blocks(mask: Array | None, kept: Array) -> Iterator[Array]:
    """Yield the elements of a tensor, block by block, from those under its mask."""
    if mask is None:
        yield from (kept[part] for part in pieces(len(kept)))
        return
    at = 0
    for part in pieces(len(mask)):
        block = np.zeros(part.stop - part.start, kept.dtype)
        count = int(np.count_nonzero(mask[part]))
        block[mask[part]] = kept[at : at + count]
        at += count
        yield block


def _crc(mask: Array | None, kept: Array) -> int:
    """Return the CRC-32 of the decoded bytes."""
    crc = 0
    for block in _blocks(mask, kept):
        crc = zlib.crc32(np.ascontiguousarray(block).view(np.uint8).data, crc)
    return crc


def lower(item: Item, values: str) -> Item:
    """Return the tensor with every value rounded (values: F16, BF16, int8), to nearest even.

    int8: code times scale, one scale for each row (first dimension) that has kept weights, the largest of which has
    the code 127. Raises InputError for int8 of NaN or infinity, or if a finite value becomes infinite.
    """
    if item.dtype not in LOWERED_DTYPES:
        return item
    wide = item.kept_bits.view(DTYPES[item.dtype])
    back, error = np.empty_like(wide), 0.0
    codes = scales = None
    if values == "int8":
        codes, scales = _lower_8(item, wide, back)
    for part in pieces(len(wide)):
        if values != "int8":
            back[part] = raise_16(lower_16(wide[part], values).view("<u2"), values)
        finite = np.isfinite(wide[part])
        before, after = wide[part][finite], back[part][finite]
        if not np.isfinite(after).all():
            largest = float(np.abs(before).max())
            raise InputError(f'tensor "{item.name}": {values} cannot hold {largest:g}; keep its own values')
        error = max(error, float(np.abs(after.astype(np.float64) - before).max(initial=0.0)))
    kept = back.view(item.kept_bits.dtype)
    crc = _crc(item.mask, kept)
    return replace(item, kept_bits=kept, crc=crc, values=values, codes=codes, scales=scales, error=error)


def _lower_8(item: Item, wide: Array, back: Array) -> tuple[Array, Array]:
    """Return the codes and the scales; fill in the values that they stand for."""
    begins = row_begins(item.entry("all"), item.mask)
    scales = np.zeros(len(begins), "<f4")  # first what is largest in each row
    for part, rows, inside in row_blocks(begins, len(wide)):
        if not np.isfinite(wide[part]).all():
            raise InputError(f'tensor "{item.name}": holds NaN or infinity, which int8 cannot')
        with np.errstate(over="ignore"):
            single = np.abs(wide[part].astype("<f4"))
        scales[rows] = np.maximum(scales[rows], np.maximum.reduceat(single, inside))
    scales /= np.float32(127)
    scales[scales < FINEST] = 0
    codes = np.zeros(len(wide), np.int8)
    for part, rows, inside in row_blocks(begins, len(wide)):
        with np.errstate(over="ignore", invalid="ignore"):
            single = wide[part].astype("<f4")
            each = np.repeat(scales[rows], np.diff(inside, append=len(single)))
            quotient = np.divide(single, each, out=np.zeros_like(single), where=each > 0)
            codes[part] = np.rint(quotient).astype(np.int8)
    while (spare := larger_than_needed(codes, scales, begins)).any():
        scales[spare] = np.nextafter(scales[spare], np.float32(0))
    for part, rows, inside in row_blocks(begins, len(wide)):
        back[part] = products(codes[part], scales[rows], inside)
    return codes, scales


def lower_16(wide: Array, values: str) -> Array:
    """Round float32 or float64 to float16, or to bfloat16 (as uint16); a NaN keeps its sign and highest bits, quiet."""
    with np.errstate(over="ignore", invalid="ignore"):
        if values == "F16":
            return _quiet(wide, wide.astype("<f2"))
        single = wide.astype("<f4")
    bits = single.view("<u4")
    rounded = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2")
    return np.where(np.isnan(single), (bits >> 16 | 0x40).astype("<u2"), rounded)


def _quiet(wide: Array, half: Array) -> Array:
    """Return float16 with the NaNs by integers: what a cast makes of one differs from processor to processor."""
    size = wide.dtype.itemsize
    bits = wide.view(f"<u{size}")
    sign, payload = bits >> (8 * size - 16) & 0x8000, bits >> (13 if size == 4 else 42) & 0x1FF
    return np.where(np.isnan(wide), (sign | 0x7E00 | payload).astype("<u2"), half.view("<u2")).view("<f2")


def bit_bytes(bits: Array) -> bytes:
    """Return a bool array, the least significant bit of each byte first, padded with zeros."""
    return np.packbits(bits, bitorder="little").tobytes()
