"""Where the stored weights are: one bit each, gaps, Rice codes, or the arithmetic coder with one of its two models."""

from collections.abc import Iterator, Sequence
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


def bitmask(entry: Entry) -> Entry:
    """One bit per weight, least significant bit of each byte first."""
    return replace(entry, positions="bitmask")


def gaps(entry: Entry, mask: Array) -> Entry:
    """The number of pruned weights before each kept one, in digits of `width` bits; all ones mean: go on."""
    width, escapes = best_width(*_counted(mask))
    return replace(entry, positions="gaps", width=width, escapes=escapes)


def rice(entry: Entry, mask: Array) -> Entry:
    """The same gaps as Rice codes: all quotients in unary, 1 at the end of each, then all remainders."""
    lengths, times = _counted(mask)
    quotients = [int(((lengths >> width) * times).sum()) for width in range(31)]
    width = min(range(31), key=lambda width: quotients[width] + entry.kept * width)
    return replace(entry, positions="rice", width=width, escapes=quotients[width])


def plain_bytes(entry: Entry, mask: Array) -> bytes:
    """Return the positions of a tensor without the coder, as its entry says: bitmask, gaps or rice."""
    if entry.positions == "bitmask":
        return bit_bytes(mask)
    return _digits(entry, mask) if entry.positions == "gaps" else _codes(entry, mask)


def best(entry: Entry, mask: Array, signs: Array | None, fan: Fan | None) -> tuple[Entry, bytes]:
    """Return the shortest of raw bits, Rice codes and the two models, and with these the signs in the same stream.

    Tensors of more than MAX_MIXED weights are not worth the time of the models. Ties go to the first.
    """
    found: list[tuple[Entry, bytes | None]] = [(bitmask(entry), None), (rice(entry, mask), None)]
    if entry.kept and entry.total <= reader.MAX_MIXED:
        found += _streams(entry, mask, signs, fan)
    shortest, data = min(
        found, key=lambda each: each[0].section + FIELDS[each[0].positions] * bool(entry.kept)
    )
    return shortest, plain_bytes(shortest, mask) if data is None else data


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
    step = max(reader.BLOCK // rows.shape[1], 1)
    for at in range(0, len(rows) - 1, step):
        below = rows[at + 1 : at + 1 + step]
        above = rows[at : at + len(below)]
        first = (above != below).argmax(1)
        pick = np.arange(len(first))
        if (above[pick, first] < below[pick, first]).any():
            return False
    return True


def _gaps(mask: Array) -> Iterator[Array]:
    """Yield how many pruned weights stand directly before each kept one, block by block: giants have many."""
    last = -1
    for part in reader.pieces(len(mask)):
        places = np.flatnonzero(mask[part]) + part.start
        if len(places):
            yield np.diff(places, prepend=last) - 1
            last = int(places[-1])


def _counted(mask: Array) -> tuple[Array, Array]:
    """Return the gaps of a mask, and how often each is there; those of SMALL or more one by one.

    Gaps add up to less than the tensor has weights, so those are few.
    """
    small, large = np.zeros(SMALL, np.int64), []
    for lengths in _gaps(mask):
        small += np.bincount(lengths[lengths < SMALL], minlength=SMALL)
        large.append(lengths[lengths >= SMALL])
    found = np.flatnonzero(small)
    each = np.concatenate([found, *large])
    return each, np.concatenate([small[found], np.ones(len(each) - len(found), np.int64)])


def best_width(lengths: Array, times: Array) -> tuple[int, int]:
    """Return the bits per digit of gaps that need fewest bits in all (the first such), and the escapes."""
    kept = int(times.sum())
    escapes = [int((lengths // ((1 << width) - 1) * times).sum()) for width in range(1, 33)]
    bits = [(kept + each) * width for width, each in enumerate(escapes, 1)]
    width = bits.index(min(bits)) + 1
    return width, escapes[width - 1]


def _digits(entry: Entry, mask: Array) -> bytes:
    """Return gaps in digits, from the bits that are 0 in them: what escapes is 1, however long it is."""
    size, at = (entry.kept + entry.escapes) * entry.width, 0
    zeros = np.zeros(-(-size // 8), np.uint8)
    for lengths in _gaps(mask):
        times, last = np.divmod(lengths, (1 << entry.width) - 1)
        ends = at + np.cumsum(times + 1) - 1
        _set(zeros, ends, entry.width, ~last)
        at = int(ends[-1]) + 1
    ones = ~zeros
    if size % 8:
        ones[-1] &= (1 << size % 8) - 1
    return ones.tobytes()


def _codes(entry: Entry, mask: Array) -> bytes:
    """Return gaps as Rice codes."""
    unary = np.zeros(-(-(entry.kept + entry.escapes) // 8), np.uint8)
    rest = np.zeros(-(-entry.kept * entry.width // 8), np.uint8)
    seen = at = 0
    for lengths in _gaps(mask):
        ends = at + np.cumsum((lengths >> entry.width) + 1) - 1
        _set(unary, ends, 1, np.ones_like(ends))
        _set(rest, np.arange(seen, seen + len(ends)), entry.width, lengths)
        seen, at = seen + len(ends), int(ends[-1]) + 1
    return unary.tobytes() + rest.tobytes()


def _set(packed: Array, places: Array, width: int, numbers: Array) -> None:
    """Set the ones of the lowest `width` bits of numbers, which stand at ascending places of that width each."""
    digits = np.arange(width)
    bits = (places[:, None] * width + digits)[(numbers[:, None] >> digits & 1).astype(bool)]
    (first,) = np.nonzero(np.diff(bits >> 3, prepend=-1))
    if len(first):
        packed[bits[first] >> 3] |= np.bitwise_or.reduceat(1 << (bits & 7), first).astype(np.uint8)
