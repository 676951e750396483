"""What the stored weights are: as they stand in memory, or with their most significant byte planes coded."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from compressor.packed import coder, positions, reader
from compressor.packed.container import number
from compressor.packed.item import Item, lower_16
from compressor.packed.reader import DTYPES, Array, Entry

MOST: Final = 1 << 28  # bytes of values; beyond, they stand raw
MANY: Final = 1 << 22  # bytes of values, beyond which not every plane is tried on all of them
RUNS: Final = 32  # of values that are tried instead, as columns differ from each other,
RUN: Final = 4096  # each so long


def raw(item: Item, *, whole: bool = False) -> Iterator[bytes | memoryview]:
    """Yield the kept values, or with `whole` all elements, as they stand in the file without coding."""
    if item.scales is not None:
        yield item.scales.tobytes()
    if item.codes is not None:
        yield item.codes.data
        return
    bits = item.kept_bits
    blocks = item.blocks() if whole else (bits[part] for part in reader.pieces(len(bits)))
    for block in blocks:
        yield np.ascontiguousarray(_stored(item, block)).data


def placed(item: Item, entry: Entry) -> Iterator[bytes | memoryview]:
    """Yield positions, as the entry says, and values, both without coding."""
    assert item.mask is not None
    yield positions.plain_bytes(entry, item.mask)
    yield from raw(item)


def planed(item: Item, entry: Entry, bits: Array) -> tuple[Entry, list[bytes | memoryview]]:
    """Return the entry and the values with as many planes coded as make them shortest, perhaps none."""
    stored = item.codes if item.codes is not None else _stored(item, bits)
    values = np.ascontiguousarray(stored).view(np.uint8).reshape(len(bits), entry.item)
    entry, stream = replace(entry, planes=0, stream=0), b""
    tried = 0

    def take(coded: bytes) -> None:
        nonlocal entry, stream, tried
        tried += 1
        other = replace(entry, planes=tried, stream=len(coded))
        held = tried * len(bits) <= reader.LONGEST * (len(coded) + 16)
        if held and other.section + _length(other) < entry.section + _length(entry):
            entry, stream = other, coded

    if 0 < values.nbytes <= MOST:
        coder.encode_planes(_planes(values, _promising(values)), take)
    scales = [] if item.scales is None else [item.scales.tobytes()]
    rest = np.ascontiguousarray(values[:, : entry.item - entry.planes])
    return entry, [*scales, stream, rest.data]


def _planes(values: Array, count: int) -> Array:
    """Return the `count` most significant bytes of values, the most significant first: uint8[count, n]."""
    return np.ascontiguousarray(values[:, ::-1][:, :count].T)


def _promising(values: Array) -> int:
    """Return how many planes are worth trying: of many values what is best for some of them."""
    most = min(int(values.shape[1]), reader.MAX_PLANES)
    if values.nbytes <= MANY:
        return most
    step = len(values) // RUNS
    some = np.concatenate([values[at : at + RUN] for at in range(0, RUNS * step, step)])
    lengths = [0]
    coder.encode_planes(_planes(some, most), lambda coded: lengths.append(len(coded)))
    saved: list[int] = [count * len(some) - length for count, length in enumerate(lengths)]
    return saved.index(max(saved))


def _length(entry: Entry) -> int:
    """Return the bytes that the header takes to say how long the stream is."""
    return len(number(entry.stream << 3 | entry.planes))


def _stored(item: Item, bits: Array) -> Array:
    """Return values at the precision that they are stored at."""
    if item.values not in ("F16", "BF16"):
        return bits
    low = np.empty(len(bits), "<u2")
    wide = bits.view(DTYPES[item.dtype])
    for part in reader.pieces(len(bits)):
        low[part] = lower_16(wide[part], item.values).view("<u2")
    return low
