"""Write the container: the safetensors header, ours, the sections, the digest. Layout: docs/formats.md.

Every number and name of the layout stands in reader.py and nowhere else.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from compressor.errors import InputError
from compressor.files import writing
from compressor.packed import reader
from compressor.packed.reader import Entry

BLOCK = 1 << 20
Layout = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> dtype and shape


def number(value: int) -> bytes:
    """Return an unsigned integer as LEB128 in its shortest form."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def short(name: str) -> bytes:
    """Return a name as it stands in the file: one byte for what many names end in."""
    for code, ending in enumerate(reader.ENDINGS, 1):
        if name.endswith(ending):
            return name.removesuffix(ending).encode() + bytes([code])
    return name.encode()


def entry_bytes(entry: Entry, previous: str, places: Mapping[str, int], masked: Mapping[str, int]) -> bytes:
    """Return the header entry; `previous` is the name before it ("" for the first).

    places: name -> index of the tensors before it; masked: the same, counting only those that may be producers.
    """
    name, last = short(entry.name), short(previous)
    pairs = enumerate(zip(name, last, strict=False))
    shared = next((at for at, (one, other) in pairs if one != other), min(len(name), len(last)))
    length = len(name) - shared
    out = (
        number(shared << 4 | min(length, 15)) + (number(length - 15) if length >= 15 else b"") + name[shared:]
    )
    if entry.role == "alias":
        return out + bytes([reader.ROLES.index("alias")]) + number(places[entry.alias_of])
    positions, values = reader.POSITIONS.index(entry.positions), reader.VALUES.index(entry.values)
    out += bytes([reader.ROLES.index(entry.role) | positions << 2 | values << 5])
    rank = len(entry.shape)
    out += bytes([list(reader.DTYPES).index(entry.dtype) | min(rank, 7) << 5])
    out += (number(rank - 7) if rank >= 7 else b"") + b"".join(number(size) for size in entry.shape)
    if entry.role == "sparse" or entry.positions != "all":
        out += number(entry.kept)
    out += _where_bytes(entry, masked)
    if entry.values == "int8" and entry.stored:
        out += number(entry.rows - entry.scales)
    if entry.values not in ("levels", "base") and entry.stored:
        out += number(entry.stream << 3 | entry.planes)
    return out + entry.crc.to_bytes(4, "little")


def _where_bytes(entry: Entry, masked: Mapping[str, int]) -> bytes:
    if entry.positions in ("gaps", "rice"):
        return bytes([entry.width]) + number(entry.escapes) if entry.kept else b""
    if entry.positions not in reader.CODED:
        return b""
    out = number(entry.ordered | entry.picture << 1)
    if entry.positions == "mixed":
        out += number(len(masked) - masked[entry.producer] if entry.producer else 0)
    return out + number(entry.coded)


def entries_bytes(entries: Sequence[Entry]) -> list[bytes]:
    """Return the header entries of a whole file, in order."""
    found: list[bytes] = []
    places: dict[str, int] = {}
    masked: dict[str, int] = {}
    previous = ""
    for entry in entries:
        found.append(entry_bytes(entry, previous, places, masked))
        previous = entry.name
        places[entry.name] = len(places)
        if reader.produces(entry):
            masked[entry.name] = len(masked)
    return found


def head(entries: Sequence[Entry], kind: str, max_error: float, base: bytes) -> bytes:
    """Return everything before the sections, the safetensors header included.

    base: the base file's SHA-256, of which nothing is written unless a tensor is stored from it.
    """
    lossy = any(entry.values in reader.ROUNDED for entry in entries)
    task = any(entry.values == "base" for entry in entries)
    inner = reader.MAGIC + bytes([reader.VERSION, reader.KINDS.index(kind) | lossy << 1 | task << 2])
    if lossy:
        inner += np.array(max_error, "<f4").tobytes()
    if task:
        inner += base
    header = number(len(entries)) + b"".join(entries_bytes(entries))
    inner += number(len(header)) + header
    sections = sum(entry.section for entry in entries)
    return reader.outer(len(inner) + sections + reader.DIGEST) + inner


def file_size(entries: Sequence[Entry], kind: str) -> int:
    """Return the bytes of the whole file."""
    any_base = bytes(reader.DIGEST)  # only its length counts here
    return len(head(entries, kind, 0.0, any_base)) + sum(entry.section for entry in entries) + reader.DIGEST


def write(path: Path | str, start: bytes, sections: IO[bytes]) -> None:
    """Write the head, the sections from where their file stands, and the digest; all or nothing. Raises HostError."""
    digest = hashlib.sha256(start)
    with writing(path) as beside, beside.open("wb") as file:
        file.write(start)
        while block := sections.read(BLOCK):
            digest.update(block)
            file.write(block)
        file.write(digest.digest())


def check_name(name: str) -> None:
    """Raise InputError for a tensor name that the format has no place for."""
    try:
        data = name.encode()
    except UnicodeEncodeError:
        raise InputError(f"tensor {name!r}: the name is not valid text; rename it") from None
    if not 0 < len(data) <= reader.MAX_NAME:
        raise InputError(f"tensor {name!r}: names have 1 to {reader.MAX_NAME} bytes")
    if min(data) < 32:
        raise InputError(f"tensor {name!r}: control characters are not allowed in names")


def check_limits(entries: Sequence[Entry], size: int) -> None:
    """Raise InputError for a network that the reader would refuse to unpack from a file of `size` bytes."""
    if len(entries) > reader.MAX_TENSORS:
        raise InputError(f"{len(entries):,} tensors; a packed file holds at most {reader.MAX_TENSORS:,}")
    names = sum(len(entry.name.encode()) for entry in entries)
    if names > reader.MAX_NAMES:
        raise InputError(
            f"names of {names:,} bytes; those of a packed file have at most {reader.MAX_NAMES:,}"
        )
    for entry in entries:
        if len(entry.shape) > reader.MAX_RANK:
            raise InputError(f'tensor "{entry.name}" has more than {reader.MAX_RANK} dimensions')
    if sum(entry.decoded for entry in entries) > reader.memory_limit(size):
        raise InputError(
            f"a file of {size:,} bytes may not hold so large a network; use format bitmask or dense"
        )


def plain_header(layout: Layout) -> tuple[bytes, dict[str, int]]:
    """Return how an ordinary safetensors file of these tensors begins, and where each stands in it, in that order.

    Source: safetensors/src/tensor.rs, which puts wide dtypes first, then goes by name.
    """
    codes = list(reader.DTYPES)
    header: dict[str, object] = {}
    begins: dict[str, int] = {}
    end = 0
    for name in sorted(layout, key=lambda name: (-codes.index(layout[name][0]), name)):
        dtype, shape = layout[name]
        begins[name], end = end, end + math.prod(shape) * np.dtype(reader.DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begins[name], end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = len(text).to_bytes(8, "little") + text
    return start, {name: len(start) + begin for name, begin in begins.items()}
