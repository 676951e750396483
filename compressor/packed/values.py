"""What the stored weights are: as they stand in memory, or with their most significant byte planes coded."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np

from compressor.packed import coder, reader
from compressor.packed.container import number
from compressor.packed.item import Item, lower_16
from compressor.packed.reader import DTYPES, Array, Entry

MOST: Final = 1 << 26  # bytes of values; beyond, they stand raw


def raw(item: Item, bits: Array) -> Iterator[bytes]:
    """Yield values (bits: all of the tensor, or the kept ones) as they stand in the file without coding."""
    if item.scales is not None:
        yield item.scales.tobytes()
    yield _stored(item, bits).tobytes()


def planed(item: Item, entry: Entry, bits: Array) -> tuple[Entry, bytes]:
    """Return the entry and the bytes with as many planes coded as make them shortest, perhaps none."""
    values = np.ascontiguousarray(_stored(item, bits)).view(np.uint8).reshape(len(bits), entry.item)
    scales = b"" if item.scales is None else item.scales.tobytes()
    best = replace(entry, planes=0, stream=0), b""
    if 0 < values.nbytes <= MOST:
        planes = np.ascontiguousarray(values[:, ::-1].T)
        for count, stream in enumerate(coder.encode_planes(planes[: reader.MAX_PLANES]), 1):
            coded = replace(entry, planes=count, stream=len(stream))
            held = count * len(bits) <= reader.LONGEST * (len(stream) + 16)
            if held and coded.section + _length(coded) < best[0].section + _length(best[0]):
                best = coded, stream
    entry, stream = best
    return entry, scales + stream + values[:, : entry.item - entry.planes].tobytes()


def _length(entry: Entry) -> int:
    """Return the bytes that the header takes to say how long the stream is."""
    return len(number(entry.stream << 3 | entry.planes))


def _stored(item: Item, bits: Array) -> Array:
    if item.codes is not None:
        return item.codes
    if item.values in ("F16", "BF16"):
        return lower_16(bits.view(DTYPES[item.dtype]), item.values)
    return bits
