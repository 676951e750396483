"""Where the stored weights are: one bit each, gaps, Rice codes, or the arithmetic coder with one of its two models."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from compressor.packed import coder, reader
from compressor.packed.item import bit_bytes
from compressor.packed.reader import Array, Entry

SMALL: Final = 1 << 16
TRIED: Final = 1 << 16  # weights on which the variants of a large layer are compared
NARROWEST: Final = 4  # pixels of a picture that is tried
# about what the header says of a coding, in bytes
FIELDS: Final = {"bitmask": 0, "rice": 3, "static": 3, "mixed": 4}

Fan = tuple[str, Array]  # name and survivors by row of a tensor that may be the producer


def bitmask(entry: Entry, mask: Array) -> tuple[Entry, bytes]:
    """One bit per weight, least significant bit of each byte first."""
    return replace(entry, positions="bitmask"), bit_bytes(mask)


def gaps(entry: Entry, mask: Array) -> tuple[Entry, bytes]:
    """The number of pruned weights before each kept one, in digits of `width` bits; all ones mean: go on."""
    distances = _distances(mask)
    width, escapes = best_width(distances)
    escape = (1 << width) - 1
    times, last = np.divmod(distances, escape)
    digits = np.full(len(distances) + escapes, escape, distances.dtype)
    digits[np.cumsum(times + 1, dtype=np.int64) - 1] = last
    return replace(entry, positions="gaps", width=width, escapes=escapes), _digits(digits, width)


def rice(entry: Entry, mask: Array) -> tuple[Entry, bytes]:
    """The same gaps as Rice codes: all quotients in unary, 1 at the end of each, then all remainders."""
    distances = _distances(mask)
    width, total = 0, 0
    if len(distances):
        sizes = [int((distances >> each).sum()) + len(distances) * each for each in range(31)]
        width = sizes.index(min(sizes))
        total = sizes[width] - len(distances) * width
    unary = np.zeros(len(distances) + total, bool)
    unary[np.cumsum((distances >> width) + 1, dtype=np.int64) - 1] = True
    rest = _digits(distances & ((1 << width) - 1), width)
    return replace(entry, positions="rice", width=width, escapes=total), bit_bytes(unary) + rest


def crowded(entry: Entry) -> bool:
    """Whether a giant has so many survivors that a list of them would take too much memory for what it saves."""
    return entry.total > reader.MAX_MIXED and entry.kept * 5 > entry.total


def best(entry: Entry, mask: Array, signs: Array | None, fan: Fan | None) -> tuple[Entry, bytes]:
    """Return the shortest of raw bits, Rice codes and the two models, and with these the signs in the same stream.

    Tensors of more than MAX_MIXED weights are not worth the time of the models. Ties go to the first.
    """
    found = [bitmask(entry, mask)] + ([] if crowded(entry) else [rice(entry, mask)])
    if entry.kept and entry.total <= reader.MAX_MIXED:
        found += _streams(entry, mask, signs, fan)
    return min(found, key=lambda each: each[0].section + FIELDS[each[0].positions])


def _streams(entry: Entry, mask: Array, signs: Array | None, fan: Fan | None) -> list[tuple[Entry, bytes]]:
    """Return the streams of both models, of the mixed one with the variant that does best on the first rows."""
    grid = mask.reshape(entry.rows, -1)
    ordered = len(grid) > 1 and _descending(grid)
    static = replace(entry, positions="static", ordered=ordered)
    found = [_coded(static, mask, signs, None)]
    if len(entry.shape) > 1 and entry.columns <= reader.MAX_COLUMNS:
        rows = max(-(-TRIED // entry.columns), 2)
        mixed = replace(static, positions="mixed")
        pictures = [replace(mixed, picture=picture) for picture in _pictures(entry)]
        variants: list[tuple[Entry, Array | None]] = [(one, None) for one in pictures]
        if fan is not None:
            variants = [(replace(one, producer=fan[0]), fan[1]) for one in pictures] + variants
        chosen = variants[0]
        if len(variants) > 1:
            chosen = min(variants, key=lambda one: _trial(one[0], grid[:rows], signs, one[1]))
        found.append(_coded(chosen[0], mask, signs, chosen[1]))
    longest = reader.LONGEST
    return [(one, data) for one, data in found if one.total <= longest * (one.coded + 16)]


def _pictures(entry: Entry) -> Sequence[int]:
    """Return the pictures that a row may be: a kernel if it has one, else square ones, or none."""
    if len(entry.shape) > 2:
        return [1] if entry.columns > entry.shape[1] else [0]
    wide = range(NARROWEST, int(entry.columns**0.5) + 1)
    return [0, *(each for each in wide if entry.columns % (each * each) == 0)]


def _trial(entry: Entry, grid: Array, signs: Array | None, fan: Array | None) -> int:
    """Return the bytes that a variant takes for some rows."""
    kept = int(np.count_nonzero(grid))
    part = replace(entry, shape=(len(grid), *entry.shape[1:]), kept=kept)
    if not kept:
        return 0
    _, data = _coded(part, grid.reshape(-1), None if signs is None else signs[:kept], fan)
    return len(data)


def _coded(entry: Entry, mask: Array, signs: Array | None, fan: Array | None) -> tuple[Entry, bytes]:
    data = coder.encode_mask(mask, signs, reader.layer_of(entry, fan, signed=signs is not None))
    return replace(entry, coded=len(data)), data


def _descending(grid: Array) -> bool:
    """Whether no row is, as a binary number, greater than the row above it."""
    rows = np.packbits(grid, axis=1)
    differ = rows[:-1] != rows[1:]
    first = differ.argmax(1)
    pick = np.arange(len(first))
    return bool((rows[:-1][pick, first] >= rows[1:][pick, first]).all())


def _distances(mask: Array) -> Array:
    """Return how many pruned weights stand directly before each kept one, in 32 bits if they fit: memory is short."""
    distances = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    return distances.astype(np.uint32) if len(mask) < 1 << 32 else distances


def best_width(distances: Array) -> tuple[int, int]:
    """Return the bits per digit of a gap that need fewest bits in all (the first such), and the escapes."""
    small = np.bincount(distances[distances < SMALL])
    large = distances[distances >= SMALL]
    # Gaps add up to less than the tensor has weights, so few are large: one histogram serves all widths.
    sizes = np.concatenate([np.arange(len(small)), large])
    times = np.concatenate([small, np.ones(len(large), np.int64)])
    escapes = [int((sizes // ((1 << width) - 1) * times).sum()) for width in range(1, 33)]
    bits = [(len(distances) + each) * width for width, each in enumerate(escapes, 1)]
    width = bits.index(min(bits)) + 1
    return width, escapes[width - 1]


def _digits(numbers: Array, width: int) -> bytes:
    """Return numbers of `width` bits each, the least significant bit first, padded with zeros."""
    bits = np.empty((len(numbers), width), bool)
    for place in range(width):
        bits[:, place] = numbers >> place & 1
    return bit_bytes(bits)
