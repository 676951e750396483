"""Where the kept weights are: gap code and bitmask, in numpy, with their exact sizes.

A gap symbol says how many places on the next weight is. Symbols are digits: a stored word of 8, 16 or 32 bits
holds as many as its base allows, which Div and Mod take apart again in few nodes and little memory; where that
is worth its nodes, a symbol is split into two digits of two streams of words.

Source: gap code with an escape symbol as in Han et al. 2016 (Deep Compression), section 3. There an escape is a
zero of its own; here it is a kept weight of value 0 as far away as a symbol reaches.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]
Words = npt.NDArray[np.unsignedinteger] | npt.NDArray[np.int32]

# onnxruntime folds no node with an output above 1 GiB (microsoft/onnxruntime #28055); int32 is 4 bytes wide.
LARGEST: Final = 2**28 - 1
# What a second stream must save, in bits: its nodes weigh 350 bytes and cost 0.3 ms of load time.
SECOND: Final = 8 * 500


@dataclass(frozen=True, slots=True)
class Digits:
    """How words of the type `kind` hold `count` digits each, of the given base; the first is the lowest."""

    kind: str
    count: int
    base: int

    @property
    def bits(self) -> float:
        """Bits of one digit."""
        return 8 * np.dtype(self.kind).itemsize / self.count


BITS: Final = Digits("<u1", 8, 2)
DIGITS: Final = (
    Digits("<u1", 1, 256),
    Digits("<u1", 2, 16),
    Digits("<u1", 3, 6),
    Digits("<u1", 4, 4),
    Digits("<u1", 5, 3),
    BITS,
    Digits("<u2", 3, 40),
    Digits("<u2", 5, 9),
    Digits("<i4", 3, 1290),  # decoders compute in int32: a word stays below 2^31
    Digits("<i4", 5, 73),
    Digits("<i4", 7, 21),
)


@dataclass(frozen=True, slots=True)
class Code:
    """A code for positions: one or two streams of digits for gap symbols, none for the bitmask.

    two_levels: a symbol also says whether its weight has the high level
    """

    streams: tuple[Digits, ...]
    two_levels: bool

    @property
    def reach(self) -> int:
        """How many places on a symbol reaches."""
        size = math.prod(one.base for one in self.streams)
        return (size - 1) // 2 - 1 if self.two_levels else size - 1

    @property
    def multiple(self) -> int:
        """The number of symbols is a multiple of this, so that they fill whole words of all streams."""
        return math.lcm(*(one.count for one in self.streams))


def padding(count: int, multiple: int = 8) -> int:
    """Return how many entries (1 to `multiple`) fill `count` up to the next multiple."""
    return multiple - count % multiple


def cheapest(positions: Index, total: int, value_bits: int, two_levels: bool) -> tuple[int, Code] | None:
    """Return (bits, code) of the smallest code, values included, None where an intermediate would be too large.

    positions: strictly increasing, in 0 .. total - 1; value_bits: what each kept weight of float values costs
    beside its position.
    """
    if total + 8 > LARGEST:
        return None
    kept = len(positions)
    table = kept + 1 + padding(kept + 1)
    best = total + padding(total) + table * (1 if two_levels else value_bits)
    code = Code((), two_levels)
    pairs = ((one, other) for one in DIGITS for other in DIGITS if one.bits >= other.bits)
    advances, often = np.unique(np.diff(positions, prepend=0), return_counts=True)
    for streams in (*((one,) for one in DIGITS), *pairs):
        found = Code(streams, two_levels)
        if found.reach < 1:
            continue
        count = int((_symbols(advances, found.reach) * often).sum())
        bits = (count + padding(count, found.multiple)) * sum(one.bits for one in streams)
        bits += 0 if two_levels else count * value_bits
        bits += SECOND * (len(streams) - 1)
        if bits < best and count <= LARGEST // 2:
            best, code = math.ceil(bits), found
    return best, code


def _symbols(advances: Index, reach: int) -> Index:
    """Return how many symbols each advance takes."""
    return 1 + np.maximum(advances - 1, 0) // reach


def gaps(code: Code, positions: Index, high: npt.NDArray[np.bool_] | None) -> tuple[Index, Index]:
    """Return (symbols, slots): the gap symbols of strictly increasing positions, and where each one's ends.

    high: which weights have the high level, for a code of two levels. A symbol without levels is the advance
    itself; with E = reach + 1, symbol 0 is the escape, 1 + a an advance of a to a low level, 1 + E + a to a high.
    """
    advances = np.diff(positions, prepend=0)
    taken = _symbols(advances, code.reach)
    slots = np.cumsum(taken) - 1
    symbols = np.full(int(taken.sum()), 0 if code.two_levels else code.reach, np.int64)
    rest = advances - (taken - 1) * code.reach
    symbols[slots] = rest if high is None else 1 + rest + high * (code.reach + 1)
    return symbols, slots


def words(code: Code, symbols: Index) -> list[Words]:
    """Return the words of every stream, the last one the lowest digits; `symbols` fill whole words."""
    streams = []
    for one in reversed(code.streams):
        streams.append(packed(one, symbols % one.base))
        symbols = symbols // one.base
    return streams[::-1]


def packed(how: Digits, digits: Index) -> Words:
    """Return the words that hold `digits`, which fill whole ones."""
    weights = how.base ** np.arange(how.count)
    stored: Words = (digits.reshape(-1, how.count) * weights).sum(axis=1).astype(how.kind)
    return stored
