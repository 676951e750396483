"""The parts of a section, from docs/formats.md: where the stored weights are, and what they are."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from compressor.packed import coder, reader
from compressor.packed.reader import Layer

LAYER = Layer("static", 1, 1, 1, 0, (1, 1), None, False, False)


def bits(values: Iterable[int]) -> bytes:
    return np.packbits(np.array(list(values), bool), bitorder="little").tobytes()


def number_bits(values: Iterable[int], width: int) -> list[int]:
    return [value >> place & 1 for value in values for place in range(width)]


def distances(mask: Sequence[int]) -> list[int]:
    """How many others stand directly before each stored element."""
    places = [-1, *(place for place, bit in enumerate(mask) if bit)]
    return [here - before - 1 for before, here in pairwise(places)]


def gaps(mask: Sequence[int], width: int) -> tuple[bytes, int]:
    """The digits, and how many of them are escapes."""
    escape = (1 << width) - 1
    digits = [digit for gap in distances(mask) for digit in [escape] * (gap // escape) + [gap % escape]]
    return bits(number_bits(digits, width)), len(digits) - sum(mask)


def rice(mask: Sequence[int], width: int) -> tuple[bytes, int]:
    """Quotients in unary and remainders, and the sum of the quotients."""
    found = distances(mask)
    unary = [bit for gap in found for bit in [0] * (gap >> width) + [1]]
    rest = number_bits([gap & (1 << width) - 1 for gap in found], width)
    return bits(unary) + bits(rest), len(unary) - sum(mask)


def layer(grid: np.ndarray, signed: bool, **known: object) -> Layer:
    """known: model, picture, kernel, fan, ordered."""
    rows, columns = grid.shape
    return replace(LAYER, rows=rows, columns=columns, kept=int(grid.sum()), signed=signed, **known)  # type: ignore[arg-type]


def stream(grid: Iterable[Iterable[int]], signs: Sequence[int] | None = None, **known: object) -> bytes:
    """The stream of a mask, given row by row, and of the signs of its ones."""
    mask = np.array(list(grid), bool)
    own = layer(mask, signs is not None, **known)
    return coder.encode_mask(mask.reshape(-1), None if signs is None else np.array(signs, bool), own)


def planes(values: bytes, item: int, coded: int) -> tuple[bytes, bytes]:
    """The stream of the most significant bytes of each value, and the others."""
    each = np.frombuffer(values, np.uint8).reshape(-1, item)
    top = np.ascontiguousarray(each[:, ::-1].T[:coded])
    streams: list[bytes] = []
    coder.encode_planes(top, streams.append)
    return streams[-1], each[:, : item - coded].tobytes()


def other_endings(
    grid: Iterable[Iterable[int]], signs: Sequence[int] | None = None, **known: object
) -> list[bytes]:
    """Second encodings of a mask."""
    mask = np.array(list(grid), bool)
    own, encoder = layer(mask, signs is not None, **known), coder.Encoder()
    reader.code_mask(encoder, own, mask.reshape(-1).tolist(), list(signs or []))
    return endings(encoder)


def other_planes(values: bytes, item: int, coded: int) -> list[bytes]:
    """Second encodings of planes."""
    each, encoder = np.frombuffer(values, np.uint8).reshape(-1, item), coder.Encoder()
    reader.code_planes(encoder, each[:, ::-1].T[:coded], lambda: None)
    return endings(encoder)


def endings(encoder: coder.Encoder) -> list[bytes]:
    """What a careless decoder takes for the same: streams that end elsewhere in what is left of the interval."""
    only = encoder.finish()
    found = [only + b"\x00", only + bytes(8), only + b"\x00\x00\x00\x00\x01", only + b"\xff" * 8]
    for size in range(5):
        step = 1 << 32 - 8 * size
        first, last = -(-encoder.low // step), encoder.high // step
        ends = [value.to_bytes(size, "big") for value in {first, first + 1, last} if first <= value <= last]
        found += [bytes(encoder.emitted) + end for end in ends]
    return [each for each in dict.fromkeys(found) if each != only]


def by_reason(others: Iterable[bytes], only: bytes) -> dict[str, list[bytes]]:
    """What a reader has to say of second encodings."""
    found: dict[str, list[bytes]] = {"ends in a zero byte": [], "unread bytes": [], "in another way": []}
    for each in others:
        longer = "unread bytes" if len(each) > len(only) else "in another way"
        found["ends in a zero byte" if each[-1:] == b"\x00" else longer].append(each)
    return found
