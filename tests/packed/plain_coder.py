"""The arithmetic coder and what its models are built of, slow and obvious, from docs/formats.md alone."""

import functools
import hashlib
import math
import struct
from decimal import Decimal, localcontext

HASH = "03238aa8b51b0eb33f579938ca319d6f1b961b4e648c1a0de973240de7c97c65"
CERTAIN = 2840


def clip(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


@functools.cache
def tables() -> tuple[list[int], list[int]]:
    """squash by log-odds + 4096, stretch by probability."""
    with localcontext() as context:
        context.prec = 40
        odds = [(1 + (Decimal(-x) / 256).exp()) for x in range(-4096, 4096)]
        squashed = [clip(math.floor(65536 / one + Decimal("0.5")), 1, 65535) for one in odds]
    stretched, x = [], -CERTAIN
    for p in range(65536):
        while x < CERTAIN and squashed[x + 4096] < p:
            x += 1
        stretched.append(x)
    packed = struct.pack("<8192H", *squashed) + struct.pack("<65536h", *stretched)
    assert hashlib.sha256(packed).hexdigest() == HASH
    return squashed, stretched


def squash(x: int) -> int:
    return tables()[0][x + 4096]


def stretch(p: int) -> int:
    return tables()[1][p]


@functools.cache
def bounds(per: int, middle: int, count: int) -> list[int]:
    """The thresholds K(per, middle, b)."""
    with localcontext() as context:
        context.prec = 40
        powers = [Decimal(2) ** ((b - middle - Decimal("0.5")) / per) for b in range(1, count)]
        return [math.floor(65536 * power + Decimal("0.5")) for power in powers]


def halves(at_least: int, times: int = 1) -> int:
    """How many of the halves, `times` times, are at most that."""
    return sum(bound * times <= at_least for bound in bounds(2, 6, 12))


def thirds(at_least: int) -> int:
    return sum(bound <= at_least for bound in bounds(3, 24, 48))


class Encoder:
    def __init__(self) -> None:
        self.low, self.high = 0, 2**32 - 1
        self.out = bytearray()

    def middle(self, p: int) -> int:
        return self.low + ((self.high - self.low) * p >> 16)

    def code(self, bit: int, p: int) -> None:
        assert 1 <= p <= 65535
        middle = self.middle(p)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            self.out.append(self.low >> 24)
            self.low = self.low % 2**24 * 256
            self.high = self.high % 2**24 * 256 + 255

    def end(self) -> bytes:
        for length in range(5):
            step = 256 ** (4 - length)
            smallest = -(-self.low // step)
            if smallest * step <= self.high:
                return (bytes(self.out) + smallest.to_bytes(length, "big")).rstrip(b"\0")
        raise AssertionError("four bytes are always enough")


class Decoder:
    """An encoder runs beside it: it must make the same stream of the bits that were found."""

    def __init__(self, stream: bytes) -> None:
        self.stream, self.again = stream, Encoder()

    def bit(self, p: int) -> int:
        at = len(self.again.out)
        held = int.from_bytes(self.stream[at : at + 4].ljust(4, b"\0"), "big")
        bit = int(held <= self.again.middle(p))
        self.again.code(bit, p)
        return bit

    def end(self) -> None:
        assert self.again.end() == self.stream


class Counter:
    def __init__(self, start: int, seen: int, limit: int = 1023) -> None:
        self.chance, self.seen, self.limit = start, seen, limit

    @property
    def p(self) -> int:
        return max(1, self.chance >> 6)

    def learn(self, bit: int) -> None:
        self.chance += 2 * ((4194303 if bit else 0) - self.chance) // (2 * self.seen + 3)
        self.seen += self.seen != self.limit


class Mixer:
    def __init__(self, weights: list[int]) -> None:
        self.weights = list(weights)

    def odds(self, inputs: list[int]) -> int:
        total = sum(x * w for x, w in zip(inputs, self.weights, strict=True))
        return clip(total >> 16, -CERTAIN, CERTAIN)

    def learn(self, bit: int, p: int, inputs: list[int], rate: int) -> None:
        for i, x in enumerate(inputs):
            self.weights[i] += ((65536 * bit - p) * x * rate + 2**23) >> 24


class Refinement:
    def __init__(self, contexts: int) -> None:
        self.cells = [[squash(-2848 + 178 * i) for i in range(33)] for _ in range(contexts)]

    def p(self, context: int, odds: int) -> int:
        cells = self.cells[context]
        i, f = divmod(odds + 2848, 178)
        return (cells[i] * (178 - f) + cells[i + 1] * f) // 178

    def learn(self, bit: int, context: int, odds: int) -> None:
        cells = self.cells[context]
        i, f = divmod(odds + 2848, 178)
        i += f > 89
        cells[i] += (65535 * bit - cells[i]) >> 8


def planes(stream: bytes, count: int, coded: int) -> list[bytes]:
    """The `coded` most significant bytes of each of `count` values, the highest first."""
    coder, above = Decoder(stream), [0] * count
    found: list[list[int]] = [[] for _ in range(count)]
    for _ in range(coded):
        alone = [Counter(2**21, 1) for _ in range(256)]
        below: dict[int, Counter] = {}
        mixers = [Mixer([32768, 32768]) for _ in range(256)]
        for value in range(count):
            node = 1
            while node < 256:
                second = below.setdefault(256 * above[value] + node, Counter(2**21, 1))
                inputs = [stretch(alone[node].p), stretch(second.p)]
                p = squash(mixers[node].odds(inputs))
                bit = coder.bit(p)
                mixers[node].learn(bit, p, inputs, 256)
                alone[node].learn(bit)
                second.learn(bit)
                node = 2 * node + bit
            above[value] = node - 256
            found[value].append(above[value])
    coder.end()
    return [bytes(one) for one in found]
