"""The arithmetic coder in C++: what reader.py does in plain Python, the same bytes. Absent where it was not built.

Arrays are C-contiguous. Bytes that no encoder writes, and arguments that are no layer, give a ValueError that goes on
after the tensor's name, such as "has a stream with unread bytes at its end". The GIL is released while they work.
The arguments from mixed on are those of reader.core_arguments.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

MODEL: Final[int]

def encode_mask(
    mask: NDArray[np.uint8],
    signs: NDArray[np.uint8] | None,
    mixed: bool,
    rows: int,
    columns: int,
    kept: int,
    picture: int,
    high: int,
    wide: int,
    fan: NDArray[np.int64] | None,
    ordered: bool,
    signed: bool,
) -> bytes:
    """Return the stream of a layer; mask: rows * columns of 0 / 1; signs: one 0 / 1 for each 1, 1 = positive."""

def decode_mask(
    data: bytes,
    mixed: bool,
    rows: int,
    columns: int,
    kept: int,
    picture: int,
    high: int,
    wide: int,
    fan: NDArray[np.int64] | None,
    ordered: bool,
    signed: bool,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return mask (rows * columns) and signs (kept, or none)."""

def encode_planes(planes: NDArray[np.uint8], take: Callable[[bytes], object]) -> None:
    """Give `take` the streams of the first plane, the first two, and so on; planes: [planes, n]."""

def decode_planes(data: bytes, planes: int, count: int) -> NDArray[np.uint8]:
    """Return uint8[planes, count]."""

def tables() -> bytes:
    """Return SQ as little-endian u16 and ST as i16, whose SHA-256 docs/formats.md gives."""
