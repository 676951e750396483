"""One tensor on its way into the file: its bits, its mask, and what every format asks about them."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np

from compressor.errors import InputError
from compressor.packed.reader import DTYPES, LOWERED_DTYPES, NEVER_SPARSE, Array, Entry

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


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """A tensor to be stored.

    bits: all elements, flat, as unsigned integers, pruned ones +0.0. mask: flat bool, None for role dense.
    kept_bits: the kept ones of bits. values: "own", "F16" / "BF16" where bits hold nothing finer, or "base": the
    base file has these values; base_mask: the mask that it has them under. error: what lowering cost at most.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bits: Array
    mask: Array | None
    kept_bits: Array
    crc: int
    values: str = "own"
    error: float = 0.0
    base_mask: Array | None = None

    @property
    def kept(self) -> int:
        """The number of kept elements; all of them for role dense."""
        return len(self.kept_bits)

    def entry(self, positions: str, values: str, width: int = 0, escapes: int = 0) -> Entry:
        """Return the header entry of this tensor in the given codings."""
        role = "dense" if self.mask is None else "sparse"
        return Entry(
            self.name, role, self.dtype, self.shape, self.kept, positions, values, width, escapes, self.crc
        )


class Format(Protocol):
    """What the file of one storage format holds."""

    def plan(self, item: Item) -> Entry | str:
        """Return the header entry of the tensor in this format, or the reason why it cannot be stored."""

    def sections(self, item: Item, entry: Entry) -> Iterator[bytes]:
        """Yield the parts of the tensor's section."""


def make(name: str, dtype: str, shape: tuple[int, ...], bits: Array, mask: Array | None) -> Item:
    """Return the tensor as it will be decoded: a -0.0 at a pruned place becomes +0.0.

    bits: unsigned integers in row-major order; mask: bool, same number of elements. Raises InputError for a
    non-zero at a pruned place.
    """
    bits = bits.reshape(-1)
    if mask is None:
        return Item(name, dtype, shape, bits, None, bits, crc(bits))
    if dtype in NEVER_SPARSE:
        raise InputError(f'tensor "{name}": dtype {dtype} has no zero; leave it out of the mask')
    mask = mask.reshape(-1)
    nonzero = bits != 0
    stray = nonzero & ~mask
    if stray.any():
        where = np.flatnonzero(stray)
        signs = bits.dtype.type(SIGNS.get(dtype, 0))
        wrong = np.count_nonzero(bits[where] & ~signs)
        if wrong:
            raise InputError(
                f'tensor "{name}": {wrong:,} weights that the mask prunes are not zero; apply the mask first'
            )
        bits = bits.copy()
        bits[where] = 0
    return Item(name, dtype, shape, bits, mask, bits[mask], crc(bits))


def crc(bits: Array) -> int:
    """Return the CRC-32 of the decoded bytes."""
    return zlib.crc32(np.ascontiguousarray(bits).view(np.uint8).data)


def lower(item: Item, values: str) -> Item:
    """Return the tensor with every value rounded to float16 or bfloat16 (values: F16, BF16), to nearest even.

    Raises InputError if a finite value becomes infinite.
    """
    if item.dtype not in LOWERED_DTYPES:
        return item
    wide = item.bits.view(DTYPES[item.dtype])
    with np.errstate(invalid="ignore"):
        back = np.asarray(raise_16(lower_16(wide, values), values).astype(wide.dtype))
        finite = np.isfinite(wide)
        if not np.isfinite(back[finite]).all():
            largest = float(np.abs(wide[finite]).max())
            raise InputError(f'tensor "{item.name}": {values} cannot hold {largest:g}; keep its own values')
        error = float(np.abs(back[finite].astype(np.float64) - wide[finite]).max(initial=0.0))
    bits = back.view(item.bits.dtype)
    kept = bits if item.mask is None else bits[item.mask]
    return replace(item, bits=bits, kept_bits=kept, crc=crc(bits), values=values, error=error)


def lower_16(wide: Array, values: str) -> Array:
    """Round float32 or float64 to float16, or to bfloat16 (as uint16)."""
    with np.errstate(over="ignore", invalid="ignore"):
        if values == "F16":
            return wide.astype("<f2")
        single = wide.astype("<f4")
    bits = single.view("<u4")
    rounded = ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2")
    return np.where(np.isnan(single), (bits >> 16 | 0x40).astype("<u2"), rounded)


def raise_16(low: Array, values: str) -> Array:
    """Return float16 or bfloat16 numbers as float32, exactly."""
    if values == "F16":
        return low.astype("<f4")
    return (low.astype("<u4") << 16).view("<f4")


def value_bytes(item: Item, bits: Array) -> bytes:
    """Return values as they stand in the file: in their own dtype, or in 16 bits."""
    if item.values == "own":
        return bits.tobytes()
    return lower_16(bits.view(DTYPES[item.dtype]), item.values).tobytes()


def bit_bytes(bits: Array) -> bytes:
    """Return a bool array, the least significant bit of each byte first, padded with zeros."""
    return np.packbits(bits, bitorder="little").tobytes()
