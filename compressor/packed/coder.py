"""The encoding side of the arithmetic coder, whose predictions stand in reader.py: in C++ if that is built."""

from collections.abc import Callable

import numpy as np

from compressor.packed import reader
from compressor.packed.reader import Array, Layer


class Encoder:
    """The 32-bit carry-less binary arithmetic encoder."""

    def __init__(self) -> None:
        self.low, self.high, self.emitted = 0, 0xFFFFFFFF, bytearray()

    def code(self, p: int, bit: int) -> int:
        """Take a bit whose probability to be 1 is p / 65536."""
        middle = self.low + ((self.high - self.low) * p >> 16)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while (self.low ^ self.high) < 1 << 24:
            self.emitted.append(self.low >> 24)
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 255
        return bit

    def finish(self) -> bytes:
        """Return the shortest bytes of what was taken so far; more may follow."""
        return bytes((self.emitted + reader.terminator(self.low, self.high)).rstrip(b"\0"))


def encode_mask(mask: Array, signs: Array | None, layer: Layer) -> bytes:
    """Return the stream of a mask (flat, bool), and of the signs of its survivors (bool, 1 = positive or high)."""
    mask = mask.view(np.uint8)
    if reader.core is not None:
        plain = None if signs is None else signs.view(np.uint8)
        stream: bytes = reader.core.encode_mask(mask, plain, *reader.core_arguments(layer))
        return stream
    encoder = Encoder()
    reader.code_mask(encoder, layer, mask.tolist(), [] if signs is None else signs.tolist())
    return encoder.finish()


def encode_planes(planes: Array, take: Callable[[bytes], None]) -> None:
    """Give `take` the streams of the first plane, the first two, and so on. planes: uint8[planes, n]."""
    if reader.core is not None:
        reader.core.encode_planes(planes, take)
        return
    encoder = Encoder()
    reader.code_planes(encoder, planes, lambda: take(encoder.finish()))
