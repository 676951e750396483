"""Build packed files by hand, from docs/formats.md alone, so that every field can lie."""

import hashlib
import math
import zlib
from collections.abc import Iterable

DENSE, SPARSE, ALIAS = 0, 1, 2
ALL, BITMASK, GAPS, RICE, STATIC, MIXED = range(6)
OWN, F16, BF16, LEVELS, BASE, INT8 = range(6)
DTYPE = {
    "BOOL": 0, "U8": 1, "I8": 2, "F8_E8M0": 5, "F16": 10, "BF16": 11, "F32": 14, "C64": 15, "F64": 16, "I64": 17,
}  # fmt: skip


def number(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def named(name: bytes, shared: int = 0) -> bytes:
    """The name field, `name` what is not shared; the short form of an ending is the caller's."""
    rest = number(len(name) - 15) if len(name) >= 15 else b""
    return number(shared << 4 | min(len(name), 15)) + rest + name


def entry(
    name: bytes = b"w",
    *,
    role: int = SPARSE,
    positions: int = BITMASK,
    values: int = OWN,
    dtype: int = DTYPE["F32"],
    shape: Iterable[int] = (4,),
    kept: int | None = 1,
    width: int = 0,
    escapes: int = 0,
    picture: int = 0,
    ordered: int = 0,
    producer: int = 0,
    coded: int = 0,
    bare: int = 0,
    planes: int = 0,
    stream: int = 0,
    decoded: bytes = b"",
    shared: int = 0,
) -> bytes:
    """A header entry of version 3, each field where the table has it."""
    shape = tuple(shape)
    out = named(name, shared) + bytes([role | positions << 2 | values << 5, dtype | min(len(shape), 7) << 5])
    out += (number(len(shape) - 7) if len(shape) >= 7 else b"") + b"".join(number(size) for size in shape)
    if (role == SPARSE or positions != ALL) and kept is not None:
        out += number(kept)
    stored = math.prod(shape) if positions == ALL else kept
    if positions in (GAPS, RICE) and kept:
        out += bytes([width]) + number(escapes)
    if positions in (STATIC, MIXED):
        out += number(ordered | picture << 1)
        out += (number(producer) if positions == MIXED else b"") + number(coded)
    if values == INT8 and stored:
        out += number(bare)
    if values in (OWN, F16, BF16, INT8) and stored:
        out += number(planes | stream << 3)
    return out + zlib.crc32(decoded).to_bytes(4, "little")


def old_entry(
    name: bytes = b"w",
    *,
    role: int = SPARSE,
    positions: int = BITMASK,
    values: int = OWN,
    dtype: int = DTYPE["F32"],
    shape: Iterable[int] = (4,),
    kept: int | None = 1,
    gaps: bytes = b"",
    decoded: bytes = b"",
    shared: int = 0,
) -> bytes:
    """A header entry of versions 1 and 2."""
    out = number(shared) + number(len(name)) + name
    out += bytes([role | positions << 2 | values << 5, dtype])
    shape = tuple(shape)
    out += number(len(shape)) + b"".join(number(size) for size in shape)
    if role == SPARSE and kept is not None:
        out += number(kept)
    return out + gaps + zlib.crc32(decoded).to_bytes(4, "little")


def alias(name: bytes, target: int, code: int = ALIAS) -> bytes:
    return named(name) + bytes([code]) + number(target)


def wrap(inner: bytes) -> bytes:
    """The safetensors header around everything inside, the digest included."""
    length = len(inner) + 32
    json = b'{"__metadata__":{"format":"compressor"},"compressor":{"dtype":"U8",'
    json += b'"shape":[%d],"data_offsets":[0,%d]}}' % (length, length)
    json += b" " * (-len(json) % 8)
    return len(json).to_bytes(8, "little") + json


def seal(data: bytes) -> bytes:
    return data + hashlib.sha256(data).digest()


def file(
    *entries: bytes,
    sections: bytes = b"",
    magic: bytes = b"\x89CMP",
    version: int = 3,
    flags: int = 0,
    error: bytes = b"",
    base: bytes = b"",
    count: bytes | None = None,
    length: bytes | None = None,
) -> bytes:
    header = (number(len(entries)) if count is None else count) + b"".join(entries)
    inner = magic + bytes([version, flags]) + error + base
    inner += (number(len(header)) if length is None else length) + header + sections
    return seal(wrap(inner) + inner)
