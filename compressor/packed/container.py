"""Write the container: the safetensors header, ours, the sections, the digest. Layout: docs/formats.md.

Every number and name of the layout stands in reader.py and nowhere else.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from compressor.errors import InputError
from compressor.files import writing
from compressor.packed import reader
from compressor.packed.reader import Entry


def number(value: int) -> bytes:
    """Return an unsigned integer as LEB128 in its shortest form."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def entry_bytes(entry: Entry, previous: str, places: dict[str, int]) -> bytes:
    """Return the header entry; `previous` is the name before it ("" for the first), places: name -> index."""
    name, before = entry.name.encode(), previous.encode()
    pairs = enumerate(zip(name, before, strict=False))
    shared = next((at for at, (one, other) in pairs if one != other), min(len(name), len(before)))
    out = number(shared) + number(len(name) - shared) + name[shared:]
    if entry.role == "alias":
        return out + bytes([reader.ROLES.index("alias")]) + number(places[entry.alias_of])
    positions, values = reader.POSITIONS.index(entry.positions), reader.VALUES.index(entry.values)
    out += bytes([reader.ROLES.index(entry.role) | positions << 2 | values << 5])
    out += bytes([list(reader.DTYPES).index(entry.dtype)])
    out += number(len(entry.shape)) + b"".join(number(size) for size in entry.shape)
    if entry.role == "sparse":
        out += number(entry.kept)
    if entry.positions == "gaps":
        out += bytes([entry.width]) + number(entry.escapes)
    return out + entry.crc.to_bytes(4, "little")


def entries_bytes(entries: Sequence[Entry]) -> list[bytes]:
    """Return the header entries of a whole file, in order."""
    places = {entry.name: place for place, entry in enumerate(entries)}
    names = ["", *places]
    return [entry_bytes(entry, before, places) for entry, before in zip(entries, names, strict=False)]


def head(entries: Sequence[Entry], kind: str, max_error: float, base: bytes) -> bytes:
    """Return everything before the sections, the safetensors header included.

    base: the base file's SHA-256, of which nothing is written unless a tensor is stored from it.
    """
    lossy = any(entry.values in ("F16", "BF16") for entry in entries)
    task = any(entry.values == "base" for entry in entries)
    version = reader.TASK_VERSION if task else reader.VERSION
    inner = reader.MAGIC + bytes([version, reader.KINDS.index(kind) | lossy << 1 | task << 2])
    if lossy:
        inner += np.array(max_error, "<f8").tobytes()
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


def write(path: Path | str, start: bytes, sections: Iterable[Iterator[bytes]]) -> None:
    """Write the head, the sections tensor by tensor, and the digest; all or nothing. Raises HostError."""
    digest = hashlib.sha256(start)
    with writing(path) as beside, beside.open("wb") as file:
        file.write(start)
        for section in sections:
            for part in section:
                digest.update(part)
                file.write(part)
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
    for entry in entries:
        if len(entry.shape) > reader.MAX_RANK:
            raise InputError(f'tensor "{entry.name}" has more than {reader.MAX_RANK} dimensions')
    if sum(entry.decoded for entry in entries) > reader.memory_limit(size):
        raise InputError(
            f"a file of {size:,} bytes may not hold so large a network; use format bitmask or dense"
        )
