"""Read a packed file with numpy and the standard library only; the layout is in docs/formats.md.

This is the only decoder of the project, and it stands alone: copied beside a deployment, `import reader` and
`python reader.py FILE [BASE]` work without the rest. It trusts no byte: a file gives its tensors or a FormatError.
"""

import hashlib
import math
import os
import sys
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from functools import cache
from io import BufferedReader
from operator import mul
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

try:
    from compressor.errors import FormatError, InputError
except ImportError:  # copied out: the two errors are all that this file takes from its package

    class FormatError(ValueError):  # type: ignore[no-redef]
        """The bytes of the file are not what the format demands."""

    class InputError(ValueError):  # type: ignore[no-redef]
        """The file cannot be read."""


MODEL: Final = 2  # of the coder and of the calls to it; a core that was built for another one is not used
# The optional part in C++, which codes the same bytes as the plain Python below, only faster.
core: Any = None
with suppress(ImportError, AttributeError):
    from compressor.packed import _core

    core = _core if MODEL == _core.MODEL else None

MAGIC: Final = b"\x89CMP"
VERSION: Final = (
    3  # what is written; 1 and 2 (a task file) are read: they lack the entropy coder and its codings
)
KINDS: Final = ("network", "start")
ROLES: Final = ("dense", "sparse", "alias")
POSITIONS: Final = ("all", "bitmask", "gaps", "rice", "static", "mixed")
CODED: Final = ("static", "mixed")  # by the arithmetic coder, the signs of two levels in the same stream
VALUES: Final = ("own", "F16", "BF16", "levels", "base", "int8")
ROUNDED: Final = ("F16", "BF16", "int8")
# What many names end in, and the byte that stands for it: no name has bytes below 32.
ENDINGS: Final = (".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked")
# safetensors name -> numpy type of Stored.data; a dtype's code in the file is its place in this table.
DTYPES: Final = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "F8_E5M2": "u1", "F8_E4M3": "u1", "F8_E8M0": "u1",
    "F8_E4M3FNUZ": "u1", "F8_E5M2FNUZ": "u1", "I16": "<i2", "U16": "<u2", "F16": "<f2", "BF16": "<u2",
    "I32": "<i4", "U32": "<u4", "F32": "<f4", "C64": "<c8", "F64": "<f8", "I64": "<i8", "U64": "<u8",
}  # fmt: skip
NEVER_SPARSE: Final = ("F8_E8M0",)  # has no zero
LEVEL_DTYPES: Final = ("F16", "BF16", "F32", "F64")
LOWERED_DTYPES: Final = ("F32", "F64")
MAX_TENSORS: Final = 1 << 17
MAX_NAME: Final = 1024
MAX_NAMES: Final = 1 << 24  # bytes of all names
MAX_RANK: Final = 32
MAX_PLANES: Final = 7
MAX_MIXED: Final = 1 << 24  # weights in a tensor of mode mixed
MAX_COLUMNS: Final = 1 << 20  # of such a tensor, and rows of its producer
LONGEST: Final = 1 << 14  # weights, or bytes of planes, for each byte of a stream and the 16 that it is given
BLOCK: Final = 1 << 18  # elements of a tensor for which there is memory beside the tensor itself
WINDOW: Final = 1 << 26  # bytes of tensors that are decoded ahead of the one that is asked for
LEAST: Final = 1 << 13  # that a tensor of any size counts for there
SMALL: Final = 1 << 15  # bytes; what takes less is decoded at once: a thread would take longer
DIGEST: Final = 32
START: Final = 1024  # the safetensors header, magic, flags and header length take less
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header says of one tensor; bytes: what it takes in the file, header entry and section.

    kept: the weights that are stored (all of them with positions "all"). width, escapes: of gaps and Rice codes.
    picture, producer (a name, or ""), ordered, coded (bytes): of positions in CODED. planes, stream (bytes): of values
    that go through the coder. scales: of int8.
    """

    name: str
    role: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    kept: int = 0
    positions: str = "all"
    values: str = "own"
    width: int = 0
    escapes: int = 0
    ordered: bool = False
    picture: int = 0
    producer: str = ""
    coded: int = 0
    planes: int = 0
    stream: int = 0
    scales: int = 0
    crc: int = 0
    alias_of: str = ""
    bytes: int = 0
    version: int = VERSION

    @property
    def total(self) -> int:
        """The number of elements of the tensor."""
        return math.prod(self.shape)

    @property
    def rows(self) -> int:
        """The first dimension of two or more; one row else."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        """The elements of a row."""
        return self.total // max(self.rows, 1)

    @property
    def itemsize(self) -> int:
        """The bytes of one element."""
        return np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def item(self) -> int:
        """The bytes of one stored value."""
        return {"F16": 2, "BF16": 2, "int8": 1}.get(self.values, self.itemsize)

    @property
    def format(self) -> str:
        """The name of the storage format: dense, csr, bitmask, entropy, asni2 or base."""
        plain = {"all": "dense", "bitmask": "bitmask", "gaps": "csr"}
        by_positions = "entropy" if self.planes else plain.get(self.positions, "entropy")
        return {"levels": "asni2", "base": "base"}.get(self.values, by_positions)

    @property
    def decoded(self) -> int:
        """The bytes that the tensor and its mask take in memory; what the base has takes none.

        An alias counts as a masked tensor: it takes none either, but `each` decodes it as often as it is named.
        """
        if self.values == "base" and self.role != "alias":
            return self.total if self.positions in CODED else 0
        return self.total * (self.itemsize + (self.role != "dense" or self.positions != "all"))

    @property
    def stored(self) -> int:
        """The number of values in the section."""
        return 0 if self.values == "base" else self.total if self.positions == "all" else self.kept

    @property
    def section(self) -> int:
        """The bytes of the tensor's section; they follow from the rest of the entry."""
        if self.role == "alias":
            return 0
        if self.values == "levels":
            return self.where + 8 + (0 if self.positions in CODED else _octets(self.stored))
        return self.where + 4 * self.scales + self.stream + self.stored * (self.item - self.planes)

    @property
    def where(self) -> int:
        """The bytes of the section that are positions, which come first."""
        if self.positions == "rice":
            return _octets(self.kept + self.escapes) + _octets(self.kept * self.width)
        bits = {"bitmask": self.total, "gaps": (self.kept + self.escapes) * self.width}
        return _octets(bits.get(self.positions, 0)) + self.coded


def _octets(bits: int) -> int:
    return (bits + 7) // 8


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One tensor. data: bit for bit, BF16 and the FP8s as unsigned integers; mask: bool, of role sparse only.

    levels: (low, high) of a two-level tensor. alias_of: the first name, whose data and mask an alias shares.
    values: own, F16, BF16 or int8 (stored at lower precision), levels, or base (taken from the base file; `look`
    leaves data of zeros, and no mask, which take no memory). positions: how the mask is coded, one of POSITIONS; with
    role dense, that zeros are left out. bytes: header entry and section.
    """

    dtype: str
    shape: tuple[int, ...]
    role: str
    format: str
    kept: int
    mask: Array | None
    data: Array
    levels: tuple[float, float] | None
    alias_of: str | None
    positions: str
    values: str
    bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A whole file, tensors in its order. max_error: the largest |stored - original| the packer declared.

    sha256: of the file itself, in hexadecimal. base: that of the base file which a task file needs, else "".
    """

    kind: str
    version: int
    tensors: dict[str, Stored]
    max_error: float
    sha256: str
    base: str


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What stands before the sections, which begin at `at`; the rest is as in `Packed`. intact: the digest is right."""

    kind: str
    version: int
    entries: list[Entry]
    max_error: float
    sha256: str
    base: str
    intact: bool
    at: int


def outer(length: int) -> bytes:
    """Return the safetensors header of a file whose only tensor holds `length` bytes."""
    text = f'"compressor":{{"dtype":"U8","shape":[{length}],"data_offsets":[0,{length}]}}'
    text = '{"__metadata__":{"format":"compressor"},' + text + "}"
    text += " " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text.encode()


def memory_limit(size: int) -> int:
    """Return how many bytes the tensors and masks of a file of `size` bytes may take once decoded.

    Two-level float32 weights of density 0.0002, the sparsest that is of use, take 13,500 times their file.
    """
    return (1 << 27) + (size << 14)


def is_packed(path: Path | str) -> bool:
    """Whether a file begins like a packed one; nothing else of it is checked. Raises InputError."""
    path = Path(path)
    with _open(path) as file, _told(path):
        return not _foreign(file)


def read(
    path: Path | str, base: Path | str | None = None, *, max_bytes: int | None = None
) -> dict[str, Array]:
    """Return name -> array of a packed file, bit for bit: BF16 and the FP8s as unsigned integers. See `parse`."""
    return {name: one.data for name, one in parse(path, base, max_bytes=max_bytes).tensors.items()}


def parse(path: Path | str, base: Path | str | None = None, *, max_bytes: int | None = None) -> Packed:
    """Read and check a packed file; base: the file that a task file was packed with, which is read too.

    max_bytes: what tensors and masks, aliases too, may take in memory, and those of the base, instead of
    `memory_limit`. Raises FormatError (damaged, not ours), InputError (cannot be read; a base that is missing, another,
    or not needed).
    """
    path = Path(path)
    with _open(path) as file:
        header = _header(path, file, max_bytes)
        source = _source(path, header, base, max_bytes)
        with _told(path):
            return _packed(file, header, source)


def each(
    path: Path | str, base: Path | str | None = None, *, partly: bool = False, max_bytes: int | None = None
) -> Iterator[tuple[str, Stored]]:
    """Yield name and tensor in the order of the file, in the memory of one tensor; an alias is decoded again.

    The whole file is checked before the first one. partly: a task file whose base is not given is read without it, as
    `look` does. Other arguments and errors: as for `parse`.
    """
    with opened(path, base, partly=partly, max_bytes=max_bytes) as (_, tensors):
        yield from tensors


@contextmanager
def opened(
    path: Path | str, base: Path | str | None = None, *, partly: bool = False, max_bytes: int | None = None
) -> Iterator[tuple[Header, Iterator[tuple[str, Stored]]]]:
    """Give the header of a file, and what `each` yields of the same file, which is closed at the end."""
    path = Path(path)
    with _open(path) as file:
        header = _header(path, file, max_bytes)
        source = None if partly and base is None else _source(path, header, base, max_bytes)
        with _told(path):
            if not header.intact:  # the CRC-32 gives the damaged tensor a name
                deque(_tensors(file, header, source), 0)
            _check(header.intact, "does not match its SHA-256")
        yield header, _telling(path, _tensors(file, header, source))


def _telling(path: Path, tensors: Iterator[tuple[str, Stored]]) -> Iterator[tuple[str, Stored]]:
    with _told(path):
        yield from tensors


def head(path: Path | str) -> Header:
    """Return what a packed file says of itself and of its tensors, which are not decoded; its digest is checked.

    Raises FormatError, InputError.
    """
    path = Path(path)
    with _open(path) as file:
        header = _header(path, file, None)
        with _told(path):
            _check(header.intact, "does not match its SHA-256")
    return header


def look(path: Path | str) -> Packed:
    """Read and check a packed file as far as that goes without its base; a file that needs none is read whole.

    Raises FormatError, InputError.
    """
    path = Path(path)
    with _open(path) as file:
        header = _header(path, file, None)
        with _told(path):
            return _packed(file, header, None)


def _source(path: Path, header: Header, base: Path | str | None, max_bytes: int | None) -> Packed | None:
    """Return the base of a file that needs one; what is wrong with the file itself comes first."""
    try:
        return _base(path, header, base, max_bytes)
    except (FormatError, InputError):
        if header.intact:
            raise
        return None


def _base(task: Path, header: Header, path: Path | str | None, max_bytes: int | None) -> Packed | None:
    """Return the base that a file needs, read and found to be the right one; None for a file that needs none."""
    if path is None and header.base:
        raise InputError(
            f"{task}: is a task file; give the base file it was packed with (base=, or compressor unpack --base), "
            f"which has the SHA-256 {header.base}"
        )
    if path is None:
        return None
    if not header.base:
        raise InputError(f"{task}: holds a whole network and needs no base; leave it out")
    path = Path(path)
    with _open(path) as file:
        found = _header(path, file, max_bytes)
        if found.intact and found.sha256 != header.base:
            raise InputError(
                f"{path}: is not the base that {task} was packed with, the file with the SHA-256 {header.base}"
            )
        with _told(path):
            base = _packed(file, found, None)
    with _told(task):
        _check(base.kind == "network" and not base.base, "has a base that is no whole network")
    return base


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Put the file's name before whatever is wrong with it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except FormatError as error:
        raise FormatError(f"{path}: {error}; the file is damaged, get it again or pack it again") from None
    except MemoryError:
        raise FormatError(f"{path}: its tensors do not fit into memory") from None


def _open(path: Path) -> BufferedReader:
    try:
        if path.exists() and not path.is_file():  # a FIFO would block for ever
            raise InputError(f"{path}: not a regular file; give the path of a packed file")
        return path.open("rb")
    except (OSError, ValueError) as error:  # a NUL in the path is a ValueError
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _foreign(file: BufferedReader) -> str:
    """Return why this is no file for this reader, or ""."""
    start = file.read(START)
    if start[8:48] != outer(0)[8:48]:
        return "is not a packed file (compressor pack writes them)"
    at = 8 + int.from_bytes(start[:8], "little")
    version = start[at + 4 : at + 5]
    if start[at : at + 4] == MAGIC and version and not 1 <= version[0] <= VERSION:
        return f"has another version of the format than 1 to {VERSION}; update compressor"
    return ""


def _header(path: Path, file: BufferedReader, max_bytes: int | None) -> Header:
    with _told(path):
        foreign = _foreign(file)
        if not foreign:
            return _parsed(file, max_bytes)
    raise FormatError(f"{path}: {foreign}")


def _parsed(file: BufferedReader, max_bytes: int | None) -> Header:
    """Check everything up to the sections, and hash the whole file."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(START)
    begin = 8 + int.from_bytes(start[:8], "little")
    ours = begin < len(start) and start[:begin] == outer(size - begin)
    _check(ours, "has a safetensors header that does not fit the file")
    cursor = _Cursor(start[: max(size - DIGEST, 0)], begin)
    _check(cursor.take(4) == MAGIC, "does not begin with the magic bytes")
    version, flags = cursor.byte(), cursor.byte()
    _check(flags < 8, "sets a flag that this version does not have")
    fits = version == VERSION or (version == 2) == bool(flags & 4)
    _check(fits, "needs a base in a version that has none, or the reverse")
    _check(flags & 5 != 5, "is a start that needs a base")
    wide = "<f4" if version == VERSION else "<f8"
    declared = cursor.take(np.dtype(wide).itemsize) if flags & 2 else bytes(8)
    max_error = float(np.frombuffer(declared, wide)[0])
    base = cursor.take(DIGEST).hex() if flags & 4 else ""
    length = cursor.number()
    _check(length <= size - DIGEST - cursor.at, "has a header that is longer than the file")
    intact, sha256 = _digests(file, size)
    file.seek(cursor.at)
    limit = memory_limit(size) if max_bytes is None else max_bytes
    entries = _entries(_Cursor(file.read(length), 0), version, limit)
    sections = sum(entry.section for entry in entries)
    _check(cursor.at + length + sections + DIGEST == size, "is not as long as its tensors are")
    values = {entry.values for entry in entries}
    _check(
        bool(values & {*ROUNDED}) == bool(flags & 2),
        "declares an error but no rounded tensor, or the reverse",
    )
    _check(("base" in values) == bool(flags & 4), "names a base that no tensor is in, or the reverse")
    _check(0 <= max_error < math.inf and not np.signbit(max_error), "declares an error that cannot be")
    return Header(KINDS[flags & 1], version, entries, max_error, sha256, base, intact, cursor.at + length)


def _packed(file: BufferedReader, header: Header, base: Packed | None) -> Packed:
    # With a wrong digest too: the CRC-32 gives the damaged tensor a name.
    found = dict(_tensors(file, header, base, again=False))
    tensors = {
        entry.name: _alias(entry, found[entry.alias_of]) if entry.alias_of else found[entry.name]
        for entry in header.entries
    }
    _check(header.intact, "does not match its SHA-256")
    return Packed(header.kind, header.version, tensors, header.max_error, header.sha256, header.base)


def _check(good: bool, otherwise: str) -> None:
    if not good:
        raise FormatError(otherwise)


def _digests(file: BufferedReader, size: int) -> tuple[bool, str]:
    """Return whether the digest at the end is right, and the SHA-256 of the file with it."""
    file.seek(0)
    digest, left = hashlib.sha256(), size - DIGEST
    while left and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    last = file.read()
    intact = last == digest.digest()
    digest.update(last)
    return intact, digest.hexdigest()


class _Cursor:
    """A place in the header; it never passes the end."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def take(self, count: int) -> bytes:
        _check(count <= len(self.data) - self.at, "has a header that ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """LEB128: seven bits a byte, the least significant first; the shortest form, at most nine bytes."""
        value = shift = 0
        while (byte := self.byte()) > 127:
            value |= (byte & 127) << shift
            shift += 7
            _check(shift <= 56, "has a number of more than nine bytes")
        _check(byte > 0 or shift == 0, "has a number that is not in its shortest form")
        return value | byte << shift

    def choice(self, what: str, names: tuple[str, ...], code: int | None = None) -> str:
        code = self.byte() if code is None else code
        _check(code < len(names), f"has an unknown {what} ({code})")
        return names[code]


def _entries(cursor: _Cursor, version: int, limit: int) -> list[Entry]:
    """Parse the header; what the tensors take once decoded must stay below `limit` bytes."""
    count = cursor.number()
    _check(count <= MAX_TENSORS, f"claims {count:,} tensors; {MAX_TENSORS:,} is the limit")
    entries: list[Entry] = []
    masked: list[Entry] = []
    names: set[str] = set()
    previous, named = b"", 0
    for _ in range(count):
        begin = cursor.at
        previous, name = _name(cursor, previous, version)
        named += len(name.encode())
        _check(named <= MAX_NAMES, f"has names of more than {MAX_NAMES:,} bytes")
        _check(name not in names, f'has two tensors of the name "{name}"')
        names.add(name)
        try:
            entry = _entry(cursor, name, entries, masked, version)
        except FormatError as error:
            raise FormatError(f'tensor "{name}" {error}') from None
        limit -= entry.decoded
        _check(limit >= 0, f'tensor "{name}" claims more memory than a file of this size may')
        entries.append(replace(entry, bytes=cursor.at - begin + entry.section))
        if produces(entry):
            masked.append(entry)
    _check(cursor.at == len(cursor.data), "has a header with something behind its last tensor")
    return entries


def _name(cursor: _Cursor, previous: bytes, version: int) -> tuple[bytes, str]:
    """Return a name as it stands in the file, and as it is."""
    shared = cursor.number()
    if version == VERSION:
        shared, length = shared >> 4, shared & 15
        length += cursor.number() if length == 15 else 0
    else:
        length = cursor.number()
    _check(shared <= len(previous) and 0 < shared + length <= MAX_NAME, "has a name of a wrong length")
    rest = cursor.take(length)
    _check(rest[:1] != previous[shared : shared + 1] or not rest, "has a name that shares more than it says")
    short = previous[:shared] + rest
    stem, ending = short, ""
    if version == VERSION and 0 < short[-1] <= len(ENDINGS):
        stem, ending = short[:-1], ENDINGS[short[-1] - 1]
    _check(min(stem, default=32) >= 32, "has a control character in a name")
    try:
        name = stem.decode() + ending
    except UnicodeDecodeError:
        raise FormatError("has a name that is not UTF-8") from None
    _check(len(stem) + len(ending) <= MAX_NAME, "has a name of a wrong length")
    whole = version == VERSION and not ending and name.endswith(ENDINGS)
    _check(not whole, f'has the name "{name}", whose ending is not in its short form')
    return short, name


def _entry(cursor: _Cursor, name: str, before: list[Entry], masked: list[Entry], version: int) -> Entry:
    code = cursor.byte()
    role = cursor.choice("role", ROLES, code & 3)
    if role == "alias":
        _check(code == 2, "is an alias with a format")
        target = cursor.number()
        _check(target < len(before), "is an alias of a tensor that does not come before it")
        first = before[target]
        _check(first.role != "alias", "is an alias of an alias")
        return replace(first, name=name, role=role, alias_of=first.name)
    newer = version == VERSION
    positions = cursor.choice("position coding", POSITIONS[: None if newer else 3], code >> 2 & 7)
    values = cursor.choice("value coding", VALUES[: None if newer else 5], code >> 5)
    kind = cursor.byte()
    dtype = cursor.choice("dtype", tuple(DTYPES), kind & 31 if newer else kind)
    rank = kind >> 5 if newer and kind < 7 << 5 else (7 if newer else 0) + cursor.number()
    _check(rank <= MAX_RANK, f"claims {rank:,} dimensions; {MAX_RANK} is the limit")
    shape = tuple(cursor.number() for _ in range(rank))
    total = math.prod(shape)
    without_zeros = math.prod(max(size, 1) for size in shape)  # numpy's limit, for empty arrays too
    _check(without_zeros < 1 << 48, "claims a shape beyond every limit")
    kept = cursor.number() if role == "sparse" or (newer and positions != "all") else total
    entry = Entry(name, role, dtype, shape, kept, positions, values, version=version)
    _check(kept <= total, f"claims {kept:,} kept of {total:,} weights")
    entry = _where_fields(cursor, entry, masked)
    bare = cursor.number() if values == "int8" and entry.stored else entry.rows
    _check(bare <= entry.rows, f"claims {bare:,} empty of {entry.rows:,} rows")
    coded = cursor.number() if newer and values not in ("levels", "base") and entry.stored else 0
    crc = int.from_bytes(cursor.take(4), "little")
    entry = replace(entry, scales=entry.rows - bare, planes=coded & 7, stream=coded >> 3, crc=crc)
    _check_values(entry)
    return entry


def _where_fields(cursor: _Cursor, entry: Entry, masked: list[Entry]) -> Entry:
    """Read and check what a position coding says of itself."""
    if entry.positions in ("gaps", "rice"):
        return _runs(cursor, entry) if entry.kept or entry.version < VERSION else entry
    if entry.positions not in CODED:
        return entry
    code = cursor.number()
    entry = replace(entry, ordered=bool(code & 1), picture=code >> 1)
    if entry.positions == "mixed":
        entry = replace(entry, producer=_producer(entry, cursor.number(), masked))
        _check_picture(entry)
    _check(entry.picture == 0 or entry.positions == "mixed", "is no picture, as its mode has none")
    _check(entry.rows > 1 or not entry.ordered, "has no rows to be in order")
    _check(entry.kept > 0, "has a stream of no weights")
    entry = replace(entry, coded=cursor.number())
    _check(entry.total <= LONGEST * (entry.coded + 16), "claims more weights than its stream may hold")
    return entry


def _runs(cursor: _Cursor, entry: Entry) -> Entry:
    entry = replace(entry, width=cursor.byte(), escapes=cursor.number())
    spare = entry.total - entry.kept
    if entry.positions == "gaps":
        _check(1 <= entry.width <= 32, f"has gaps of {entry.width} bits")
        _check(entry.escapes * ((1 << entry.width) - 1) <= spare, "has more escapes than its shape allows")
        _check(entry.kept > 0 or entry.width == 1, "has gaps of no weights")
    else:
        _check(entry.width <= 30, f"has Rice codes of {entry.width} bits")
        _check(entry.escapes << entry.width <= spare, "has longer Rice codes than its shape allows")
    return entry


def _producer(entry: Entry, back: int, masked: list[Entry]) -> str:
    """Return the name of the tensor whose rows are the columns of this one: the `back`th masked one before it."""
    if not back:
        return ""
    _check(back <= len(masked), "has a producer that does not come before it")
    found = masked[-back]
    fits = 1 < found.rows <= MAX_COLUMNS and entry.columns % found.rows == 0
    _check(fits and found.kept > 0, f'has the producer "{found.name}", whose rows are not its columns')
    return found.name


def produces(entry: Entry) -> bool:
    """Whether a later tensor may name this one as its producer: it has a mask, and not that of the base."""
    return entry.role == "sparse" and (entry.positions, entry.values) != ("all", "base")


def _check_picture(entry: Entry) -> None:
    fits = len(entry.shape) > 1 and entry.total <= MAX_MIXED and entry.columns <= MAX_COLUMNS
    _check(fits, "has a shape that mode mixed does not take")
    kernel = len(entry.shape) > 2 and math.prod(entry.shape[2:]) > 1
    picture = len(entry.shape) == 2 and entry.picture > 1 and entry.columns % entry.picture == 0
    good = entry.picture == 0 or (kernel if entry.picture == 1 else picture)
    _check(good, f"has pictures {entry.picture:,} wide, which do not fit its shape")


def _check_values(entry: Entry) -> None:
    sparse, newer = entry.role == "sparse", entry.version == VERSION
    plain = sparse or (entry.values != "levels" and (newer or entry.positions == "all"))
    _check(plain, "is dense with a sparse format")
    _check(
        not sparse or entry.dtype not in NEVER_SPARSE,
        f"is sparse with dtype {entry.dtype}, which has no zero",
    )
    levels = entry.values == "levels"
    _check(not levels or entry.dtype in LEVEL_DTYPES, f"has levels with dtype {entry.dtype}")
    _check(
        not levels or entry.positions != "all" or entry.kept == entry.total, "has levels without positions"
    )
    rounded = entry.values in ROUNDED
    _check(
        not rounded or entry.dtype in LOWERED_DTYPES, f"has {entry.values} values with dtype {entry.dtype}"
    )
    _check(entry.planes > 0 or entry.stream == 0, "has a stream of no planes")
    if entry.planes:
        _check(entry.planes <= entry.item, f"has {entry.planes} planes of values of {entry.item} bytes")
        longest = LONGEST * (entry.stream + 16)
        _check(entry.stored * entry.planes <= longest, "claims more values than its stream may hold")


Job = tuple[Entry, int, "Future[Stored]"]


def _tensors(
    file: BufferedReader, header: Header, base: Packed | None, *, again: bool = True
) -> Iterator[tuple[str, Stored]]:
    """Yield the tensors in their order, several decoded at once; again: the aliases too, each decoded once more."""
    ahead = 0
    places = _places(header)
    survivors: dict[str, Future[Array]] = {}
    producers = {entry.producer for entry in header.entries}
    waiting: deque[Job] = deque()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for entry in header.entries:
                if entry.role == "alias" and not again:
                    continue
                first, place = places[entry.alias_of or entry.name]
                copied = 0 if base is None else first.total * first.itemsize
                size = max(first.decoded, copied) + first.section + LEAST
                while waiting and ahead + size > WINDOW:
                    ahead -= waiting[0][1]
                    yield _finished(waiting)
                told = survivors.setdefault(entry.name, Future()) if entry.name in producers else None
                work = first, _section(file, first, place), base, survivors.get(first.producer), told
                waiting.append((entry, size, pool.submit(_job, *work) if size > SMALL else _at_once(*work)))
                ahead += size
                del work  # nothing of a giant may wait beside the next one
            while waiting:
                yield _finished(waiting)
        finally:
            for _, _, job in waiting:
                job.cancel()
            for told in survivors.values():  # what is running must not wait for what is cancelled
                told.cancel()


def _places(header: Header) -> dict[str, tuple[Entry, int]]:
    """Return the entry and the place of the section of each tensor that is no alias."""
    at, places = header.at, {}
    for entry in header.entries:
        if entry.role != "alias":
            places[entry.name], at = (entry, at), at + entry.section
    return places


def _section(file: BufferedReader, entry: Entry, place: int) -> Array:
    section = np.empty(entry.section, np.uint8)
    file.seek(place)
    _check(file.readinto(section.data) == len(section), "changed while it was read")
    return section


def _finished(waiting: deque[Job]) -> tuple[str, Stored]:
    entry, _, job = waiting.popleft()
    try:
        stored = job.result()
    except FormatError as error:
        raise FormatError(f'tensor "{entry.name}" {error}') from None
    return entry.name, _alias(entry, stored) if entry.role == "alias" else stored


def _alias(entry: Entry, first: Stored) -> Stored:
    return replace(first, role="alias", alias_of=entry.alias_of, bytes=entry.bytes)


def _at_once(*work: Any) -> "Future[Stored]":
    """Do a job here and now; what is wrong with it is told when its turn comes."""
    done: Future[Stored] = Future()
    try:
        done.set_result(_job(*work))
    except Exception as error:
        done.set_exception(error)
    return done


def _job(
    entry: Entry,
    section: Array,
    base: Packed | None,
    fan: "Future[Array] | None",
    told: "Future[Array] | None",
) -> Stored:
    """Decode a tensor whose producer, if it has one, is decoded or being decoded; tell its own survivors by row."""
    try:
        where = _where(entry, section[: entry.where], None if fan is None else fan.result())
        stored = _decode(entry, section, where, base)
        if told is not None:
            told.set_result(_by_row(entry, where, stored))
    except BaseException as error:
        if told is not None and not told.cancelled():
            told.set_exception(error)
        raise
    return stored


def _by_row(entry: Entry, where: "_Where", stored: Stored) -> Array:
    """Return the survivors in each row, without memory for the shape, which the base may contradict."""
    if where.places is not None:
        return np.bincount(where.places // entry.columns, minlength=entry.rows)
    mask = where.mask if stored.mask is None else stored.mask
    assert mask is not None  # which tensors have none, _producer refuses
    by_row: Array = mask.reshape(entry.rows, -1).sum(1)
    return by_row


@dataclass(frozen=True, slots=True, eq=False)
class _Where:
    """Which weights are stored: a flat bool mask, or ascending places, or neither (all).

    signs: those of two levels that stood in the same stream, else None.
    """

    mask: Array | None = None
    places: Array | None = None
    signs: Array | None = None

    def flat(self, total: int) -> Array | None:
        """Return the mask, or None if every element is in its place."""
        return self.mask if self.places is None else _marked(iter([self.places]), total)


def _where(entry: Entry, section: Array, fan: Array | None) -> _Where:
    """Decode the positions; without memory for the shape, unless a stream demands it, as the base may contradict."""
    if entry.positions == "bitmask":
        mask = _bits(section, entry.total).view(bool)
        _same_count(entry, int(np.count_nonzero(mask)))
        return _Where(mask)
    if entry.positions in ("gaps", "rice"):
        blocks = _gaps(entry, section) if entry.positions == "gaps" else _rice(entry, section)
        if entry.values == "base":
            return _Where(places=np.concatenate([np.zeros(0, np.int64), *blocks]))
        return _Where(_marked(blocks, entry.total))
    if entry.positions == "all":
        return _Where()
    signed = entry.values == "levels"
    layer = layer_of(entry, fan, signed=signed)
    mask, signs = decode_mask(section.tobytes(), layer)
    return _Where(mask.view(bool), signs=signs.view(bool) if signed else None)


def _marked(blocks: Iterator[Array], total: int) -> Array:
    """Return a mask from the places of its survivors."""
    mask = np.zeros(total, bool)
    for places in blocks:
        mask[places] = True
    return mask


def _decode(entry: Entry, section: Array, where: _Where, base: Packed | None) -> Stored:
    dtype = np.dtype(DTYPES[entry.dtype])
    raw = np.dtype(f"<u{dtype.itemsize}")
    if entry.values == "base" and base is None:
        return _stored(entry, None, np.broadcast_to(np.zeros((), dtype), entry.shape), None)
    first = _in_base(entry, base) if base is not None and entry.values == "base" else None
    mask, levels = where.flat(entry.total), None
    if first is None:
        values, levels = _values(entry, section[entry.where :], where.signs, mask)
    else:
        mask, values = _shared_with(entry, mask, first, raw)
    bits = values
    if mask is not None:
        _same_count(entry, int(np.count_nonzero(mask)))
        bits = np.zeros(entry.total, raw)
        bits[mask] = values
    elif entry.role == "sparse":  # every weight in its place: the kept ones are those that are not +0.0
        mask = np.ones(entry.total, bool) if entry.kept == entry.total else bits != 0
        _same_count(entry, int(np.count_nonzero(mask)))
    _check(zlib.crc32(bits.view(np.uint8).data) == entry.crc, "is damaged (its CRC-32 does not match)")
    _check(entry.dtype != "BOOL" or not (bits > 1).any(), "holds a truth value that is neither 0 nor 1")
    if entry.role == "dense":
        full = entry.positions == "all" or bool(values.all())
        _check(full, "stores a zero among what is left when zeros are left out")
        mask = None
    return _stored(entry, mask, bits.view(dtype), levels)


def _stored(entry: Entry, mask: Array | None, data: Array, levels: tuple[float, float] | None) -> Stored:
    return Stored(
        dtype=entry.dtype,
        shape=entry.shape,
        role=entry.role,
        format=entry.format,
        kept=entry.kept if entry.role == "sparse" else entry.total,
        mask=None if mask is None else mask.reshape(entry.shape),
        data=data.reshape(entry.shape),
        levels=levels,
        alias_of=None,
        positions=entry.positions,
        values=entry.values,
        bytes=entry.bytes,
    )


def _in_base(entry: Entry, base: Packed) -> Stored:
    first = base.tensors.get(entry.name)
    if first is None:
        raise FormatError("is not in the base")
    same = (first.dtype, first.shape) == (entry.dtype, entry.shape)
    _check(same, "is not of the dtype and shape that it has in the base")
    return first


def _shared_with(
    entry: Entry, mask: Array | None, first: Stored, raw: np.dtype[Any]
) -> tuple[Array | None, Array]:
    """Return the mask of a tensor of the base, and its values: under the mask, or all."""
    if entry.role == "sparse" and mask is None:
        mask = np.ones(entry.total, bool) if first.mask is None else first.mask.reshape(-1).copy()
    bits = first.data.reshape(-1).view(raw)
    return mask, bits.copy() if mask is None else bits[mask]


def _same_count(entry: Entry, found: int) -> None:
    _check(found == entry.kept, f"claims {entry.kept:,} kept weights, its mask holds {found:,}")


def _bits(packed: Array, count: int) -> Array:
    """Return `count` bits, the least significant of each byte first; those behind them must be 0."""
    _no_more(packed, count)
    return np.unpackbits(packed, count=count, bitorder="little")


def _no_more(packed: Array, count: int) -> None:
    _check(count % 8 == 0 or int(packed[-1]) >> count % 8 == 0, "has padding bits that are not 0")


def _numbers(packed: Array, first: int, count: int, width: int) -> Array:
    """Return `count` numbers of `width` bits each, the least significant bit first, from number `first` on."""
    begin, skip = divmod(first * width, 8)
    bits = np.unpackbits(packed[begin : _octets((first + count) * width)], bitorder="little")
    numbers = np.zeros(count, np.int64)
    for place, column in enumerate(bits[skip : skip + count * width].reshape(count, width).T):
        numbers |= column.astype(np.int64) << place
    return numbers


def _gaps(entry: Entry, packed: Array) -> Iterator[Array]:
    """Yield the places of the kept weights from digits of which the largest means: go on."""
    count = entry.kept + entry.escapes
    _no_more(packed, count * entry.width)
    seen = passed = last = 0
    for part in pieces(count):
        digits = _numbers(packed, part.start, part.stop - part.start, entry.width)
        (ends,) = np.nonzero(digits != (1 << entry.width) - 1)
        sums = passed + np.cumsum(digits)
        yield _inside(entry, sums[ends] + np.arange(seen, seen + len(ends)))
        seen, passed, last = seen + len(ends), int(sums[-1]), int(digits[-1])
    ended = seen == entry.kept and (not count or last != (1 << entry.width) - 1)
    _check(ended, "has gaps that do not end")


def _rice(entry: Entry, packed: Array) -> Iterator[Array]:
    """Yield the places of the kept weights from Rice codes: all quotients in unary, then all remainders."""
    count = entry.kept + entry.escapes
    unary, rest = packed[: _octets(count)], packed[_octets(count) :]
    _no_more(unary, count)
    _no_more(rest, entry.kept * entry.width)
    seen, last, place = 0, -1, -1
    for first in range(0, len(unary), BLOCK // 8):
        ends = np.flatnonzero(np.unpackbits(unary[first : first + BLOCK // 8], bitorder="little")) + 8 * first
        if not len(ends):
            continue
        _check(seen + len(ends) <= entry.kept, "has Rice codes that do not end")
        quotients = np.diff(ends, prepend=last) - 1
        remainders = _numbers(rest, seen, len(ends), entry.width)
        places = place + np.cumsum((quotients << entry.width) + remainders + 1)
        yield _inside(entry, places)
        seen, last, place = seen + len(ends), int(ends[-1]), int(places[-1])
    _check(seen == entry.kept and last == count - 1, "has Rice codes that do not end")


def _inside(entry: Entry, places: Array) -> Array:
    """Return ascending places, if none lies behind the end."""
    _check(not len(places) or places[-1] < entry.total, "has gaps that lead past its end")
    return places


def pieces(count: int) -> Iterator[slice]:
    """Yield slices of BLOCK elements that together are the first `count`."""
    return (slice(at, min(at + BLOCK, count)) for at in range(0, count, BLOCK))


def raise_16(low: Array, values: str) -> Array:
    """Return float16 (values: F16) or bfloat16 (BF16) numbers, given as uint16, as float32, exactly."""
    if values == "F16":
        return low.view("<f2").astype("<f4")
    return (low.astype("<u4") << 16).view("<f4")


def _values(
    entry: Entry, section: Array, signs: Array | None, mask: Array | None
) -> tuple[Array, tuple[float, float] | None]:
    """Return the stored values as unsigned integers of the tensor's own width, and the two levels if there are."""
    if entry.values == "levels":
        return _levels(entry, section, signs)
    scales, section = section[: 4 * entry.scales].view("<f4"), section[4 * entry.scales :]
    stored = _unplaned(entry, section)
    wide = np.dtype(DTYPES[entry.dtype])
    raw = np.dtype(f"<u{wide.itemsize}")
    if entry.values == "int8":
        return _scaled(entry, scales, stored.view(np.int8), mask).view(raw), None
    if entry.values == "own":
        return stored.view(raw), None
    found, low = np.empty(entry.stored, wide), stored.view("<u2")
    infinite, quiet = (0x7C00, 0x200) if entry.values == "F16" else (0x7F80, 0x40)
    for part in pieces(entry.stored):
        half = low[part]
        # Processors differ in what they make of a NaN that signals; early writers left them.
        signals = (half & (infinite | quiet) == infinite) & (half & (quiet - 1) > 0)
        _check(entry.version < VERSION or not signals.any(), "has a NaN that is not quiet")
        with np.errstate(invalid="ignore"):
            found[part] = raise_16(half, entry.values)
    return found.view(raw), None


def _unplaned(entry: Entry, section: Array) -> Array:
    """Return the bytes of the stored values, whose most significant planes were coded."""
    if not entry.planes:
        return section
    planes = decode_planes(section[: entry.stream].tobytes(), entry.planes, entry.stored)
    low = entry.item - entry.planes
    out = np.empty((entry.stored, entry.item), np.uint8)
    out[:, :low] = section[entry.stream :].reshape(entry.stored, low)
    out[:, low:] = planes[::-1].T
    return out.reshape(-1)


def _scaled(entry: Entry, scales: Array, codes: Array, mask: Array | None) -> Array:
    """Return numbers: code times the scale of its row; rows that store nothing have no scale."""
    begins = row_begins(entry, mask)
    _check(len(begins) == entry.scales, "has not one scale for each row that has weights")
    good = np.isfinite(scales).all() and not np.signbit(scales).any()
    _check(bool(good), "has a scale that is not finite, or negative")
    largest = np.zeros(len(scales), np.int16)
    found = np.empty(len(codes), DTYPES[entry.dtype])
    for part, rows, inside in row_blocks(begins, len(codes)):
        sizes = np.maximum.reduceat(np.abs(codes[part].astype(np.int16)), inside)
        largest[rows] = np.maximum(largest[rows], sizes)
        found[part] = products(codes[part], scales[rows], inside)
        _check(bool(np.isfinite(found[part]).all()), "has a scale whose products are not finite")
    fits = np.where(scales == 0, largest == 0, largest == 127)
    _check(bool(fits.all()), "has a row whose largest code is not 127")
    _check(
        not larger_than_needed(codes, scales, begins).any(), "has a scale that a smaller one could stand for"
    )
    return found


def row_begins(entry: Entry, mask: Array | None) -> Array:
    """Return for each row that has kept weights how many there are before it, in memory for those rows only."""
    size = "<u4" if entry.total < 1 << 32 else "<i8"
    if mask is None:
        every: Array = np.arange(entry.rows if entry.total else 0, dtype=size) * entry.columns
        return every
    seen, last = 0, -1
    begins: list[Array] = [np.zeros(0, size)]
    for part in pieces(len(mask)):
        rows = (np.flatnonzero(mask[part]) + part.start) // entry.columns
        begins.append((np.flatnonzero(np.diff(rows, prepend=last)) + seen).astype(size))
        seen, last = seen + len(rows), int(rows[-1]) if len(rows) else last
    return np.concatenate(begins)


def row_blocks(begins: Array, count: int) -> Iterator[tuple[slice, slice, Array]]:
    """Yield blocks of kept weights: which they are, their rows among `begins`, and where these begin in the block."""
    for part in pieces(count):
        low, high = np.array(
            [part.start, part.stop], begins.dtype
        )  # another type would convert all of begins
        first, last = np.searchsorted(begins, low, side="right") - 1, np.searchsorted(begins, high)
        yield part, slice(first, last), np.maximum(begins[first:last].astype(np.int64) - part.start, 0)


def products(codes: Array, scales: Array, begins: Array) -> Array:
    """Return float32: each code times the scale of its row, the first of whose codes stands at `begins`."""
    with np.errstate(over="ignore", invalid="ignore"):
        found: Array = codes.astype("<f4") * np.repeat(scales, np.diff(begins, append=len(codes)))
    return found


def larger_than_needed(codes: Array, scales: Array, begins: Array) -> Array:
    """Return for which rows the next smaller float32 scale has the same products."""
    smaller = np.nextafter(scales, np.float32(0))
    found = scales > 0
    for part, rows, inside in row_blocks(begins, len(codes)):
        own, other = (products(codes[part], each[rows], inside) for each in (scales, smaller))
        found[rows] &= np.logical_and.reduceat(own == other, inside)
    return found


def _levels(entry: Entry, section: Array, signs: Array | None) -> tuple[Array, tuple[float, float]]:
    low, high = section[:8].view("<f4")
    if signs is None:
        signs = _bits(section[8:], entry.kept).view(bool)
    _check(bool(np.isfinite([low, high]).all()), "has a level that is not finite")
    _check(entry.kept == 0 or low < high, "has levels that are not in the order low, high")
    for level, used in ((low, not signs.all()), (high, signs.any())):
        _check(bool(used) or level == 0, "has a level that no weight takes")
        _check(level != 0 or not np.signbit(level), "has a level of -0.0")
    bits = np.where(signs, level_bits(high, entry.dtype), level_bits(low, entry.dtype))
    return bits, (float(low), float(high))


def level_bits(level: np.float32, dtype: str) -> Any:
    """Return the bits of a level in the tensor's dtype. Raises FormatError if the dtype cannot hold it."""
    if dtype == "BF16":
        bits = int(level.view(np.uint32))
        _check(bits & 0xFFFF == 0, "has a level that BF16 cannot hold")
        return np.uint16(bits >> 16)
    wide = np.dtype(DTYPES[dtype])
    with np.errstate(over="ignore"):
        value = np.array([level]).astype(wide)
    _check(value.astype(np.float32)[0] == level, f"has a level that {dtype} cannot hold")
    return value.view(f"<u{wide.itemsize}")[0]


# --- the coder (docs/formats.md, "The arithmetic coder" and after): integers only, every division and shift floors ---

HALF: Final = 1 << 21  # an even chance in the 22 bits of a counter
RECENT: Final = 1023  # a counter forgets what is older
STRENGTHS: Final = {"line": 256, "kernel": 256, "picture": 512}  # rows that a column's surroundings count for


@dataclass(frozen=True, slots=True)
class Layer:
    """What both sides know of a mask before its first bit.

    model: static or mixed. picture: 0, 1 (the kernel is the picture) or the width of the picture that a row is. fan:
    the survivors in each row of the producer, or None. ordered: the rows stand in descending order. signed: each 1 is
    followed by its sign.
    """

    model: str
    rows: int
    columns: int
    kept: int
    picture: int
    kernel: tuple[int, int]
    fan: Array | None
    ordered: bool
    signed: bool

    @property
    def density(self) -> int:
        """The density in 1/65536, from 16 to 65000."""
        total = self.rows * self.columns
        return min(max(((self.kept << 16) + total // 2) // total, 16), 65000)


def layer_of(entry: Entry, fan: Array | None, *, signed: bool) -> Layer:
    """Return what the coder is told of a tensor. fan: the survivors in each row of its producer, or None."""
    kernel = (math.prod(entry.shape[2:-1]), entry.shape[-1]) if len(entry.shape) > 2 else (1, 1)
    return Layer(
        model=entry.positions,
        rows=entry.rows,
        columns=entry.columns,
        kept=entry.kept,
        picture=entry.picture,
        kernel=kernel,
        fan=fan,
        ordered=entry.ordered,
        signed=signed,
    )


class Coder(Protocol):
    """One of the two directions: `code` takes a bit of probability p / 65536 to be 1, or finds out which it was."""

    def code(self, p: int, bit: int) -> int:
        """Return the bit; a decoder does not look at the one it is given."""


class Decoder:
    """The 32-bit carry-less binary arithmetic decoder; `finish` holds the bytes against their only encoding."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 4
        self.low, self.high = 0, 0xFFFFFFFF
        self.value = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def code(self, p: int, bit: int) -> int:
        """Return the next bit."""
        middle = self.low + ((self.high - self.low) * p >> 16)
        bit = int(self.value <= middle)
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while (self.low ^ self.high) < 1 << 24:
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 255
            following = self.data[self.at] if self.at < len(self.data) else 0
            self.value = self.value << 8 & 0xFFFFFFFF | following
            self.at += 1
        return bit

    def finish(self) -> None:
        """Raise FormatError unless the bytes are what an encoder would have written."""
        end, shifted = terminator(self.low, self.high), self.at - 4
        _check(self.data[-1:] != b"\0", "has a stream that ends in a zero byte")
        _check(len(self.data) <= shifted + len(end), "has a stream with unread bytes at its end")
        shortest = self.data[shifted:].ljust(len(end), b"\0") == end
        _check(shortest, "has a stream that ends in another way than the shortest")


def terminator(low: int, high: int) -> bytes:
    """Return the shortest bytes that, followed by zeros, lie between low and high."""
    for size in range(5):
        step = 1 << 32 - 8 * size
        value = -(-low // step) * step
        if value <= high:
            return (value // step).to_bytes(size, "big")
    raise AssertionError


@cache
def _tables() -> tuple[list[int], list[int]]:
    """Return `squash` (log-odds + 4096 -> probability) and `stretch` (probability -> log-odds)."""
    with localcontext() as context:
        context.prec = 40
        odds = [Decimal(65536) / (1 + (Decimal(4096 - place) / 256).exp()) for place in range(8192)]
        squash = [min(max(int(value + Decimal("0.5")), 1), 65535) for value in odds]
    places = np.searchsorted(squash, np.arange(65536)) - 4096
    stretch = np.clip(places, -FARTHEST, FARTHEST)
    both = np.array(squash, "<u2").tobytes() + stretch.astype("<i2").tobytes()
    assert hashlib.sha256(both).hexdigest() == TABLES
    return squash, stretch.tolist()


FARTHEST: Final = 2840
TABLES: Final = "03238aa8b51b0eb33f579938ca319d6f1b961b4e648c1a0de973240de7c97c65"


@cache
def _steps(per: int, middle: int, count: int) -> Array:
    """Return the thresholds of a bucket function: 2^16 2^((b - middle - 1/2) / per) for b = 1 .. count - 1."""
    with localcontext() as context:
        context.prec = 40
        exponents = [(Decimal(b - middle) - Decimal("0.5")) / per for b in range(1, count)]
        steps = [int(65536 * Decimal(2) ** each + Decimal("0.5")) for each in exponents]
        return np.array(steps, np.int64)


class _Counters:
    """Adaptive probabilities: a mean at first, and a running mean once `recent` bits were seen."""

    def __init__(self, size: int, start: int, seen: int, recent: int = RECENT) -> None:
        self.chance, self.seen, self.recent = [start] * size, [seen] * size, recent

    def at(self, index: int) -> int:
        """Return a probability in 1 .. 65535."""
        return min(max(self.chance[index] >> 6, 1), 65535)

    def learn(self, index: int, bit: int) -> None:
        chance, seen = self.chance[index], self.seen[index]
        self.chance[index] = chance + 2 * ((4194303 if bit else 0) - chance) // (2 * seen + 3)
        if seen < self.recent:
            self.seen[index] = seen + 1


class _Mixer:
    """A logistic mixture of log-odds, whose weights (in 1/65536) follow the error."""

    def __init__(self, weights: list[int]) -> None:
        self.weights = weights
        self.inputs: list[int] = []
        self.squash, _ = _tables()

    def mix(self, inputs: list[int]) -> int:
        """Return the log-odds, -2840 .. 2840."""
        self.inputs = inputs
        total: int = sum(map(mul, inputs, self.weights)) >> 16
        return min(max(total, -FARTHEST), FARTHEST)

    def learn(self, error: int, rate: int) -> None:
        """error: 65536 bit - p."""
        step = error * rate
        self.weights = [
            weight + (step * value + (1 << 23) >> 24)
            for weight, value in zip(self.weights, self.inputs, strict=True)
        ]


class _Refinement:
    """An adaptive probability map: for each context, what a mixture's log-odds really turned out to mean."""

    def __init__(self, contexts: int) -> None:
        squash, _ = _tables()
        self.cells = [[squash[4096 - 2848 + 178 * cell] for cell in range(33)] for _ in range(contexts)]
        self.cell, self.row = 0, self.cells[0]

    def refine(self, context: int, odds: int) -> int:
        cell, between = divmod(odds + 2848, 178)
        self.row, self.cell = self.cells[context], cell + (between > 89)
        return (self.row[cell] * (178 - between) + self.row[cell + 1] * between) // 178

    def learn(self, bit: int) -> None:
        self.row[self.cell] += (65535 * bit - self.row[self.cell]) >> 8


# (rows up, columns left or right, weight) of what was coded before, nearest first; the first six are the pattern
AROUND: Final = (
    (0, -1, 4), (-1, 0, 4), (-1, -1, 3), (-1, 1, 3), (0, -2, 2), (-2, 0, 2),
    (0, -3, 1), (-1, -2, 1), (-1, 2, 1), (-2, -1, 1), (-2, 1, 1), (-3, 0, 1),
)  # fmt: skip
INSIDE: Final = (
    (0, -1, 4), (-1, 0, 4), (-1, -1, 3), (-1, 1, 3), (0, -2, 3), (-2, 0, 3),
    (-1, -2, 2), (-1, 2, 2), (-2, -1, 2), (-2, 1, 2), (-2, -2, 2), (-2, 2, 2),
)  # fmt: skip
BEFORE: Final = ((0, -1, 4), (0, -2, 3), (0, -3, 2), (0, -4, 1))
Window = list[list[tuple[int, int]]]


class _Geometry:
    """What lies around a column of a layer: columns in a line, a picture, or the kernels of a convolution."""

    def __init__(self, layer: Layer) -> None:
        self.layer, columns = layer, layer.columns
        self.kind = ("line", "kernel")[layer.picture] if layer.picture < 2 else "picture"
        self.high, self.wide = layer.kernel if self.kind == "kernel" else (1, layer.picture or columns)
        if self.kind == "picture":
            self.high = columns // self.wide
            self.all_around = self._around(np.ones(columns, np.int64))
        around = {"line": BEFORE, "picture": AROUND, "kernel": INSIDE}[self.kind]
        near = 2 if self.kind == "line" else 6
        beside = near if self.kind == "line" else 4
        place = np.arange(columns)
        self.x, self.y = place % self.wide, place % (self.high * self.wide) // self.wide
        offsets = [(*self._seen(up, left), weight) for up, left, weight in around]
        self.pattern = _shared([(at, seen, 1 << bit) for bit, (at, seen, _) in enumerate(offsets[:near])])
        self.signs = _shared([(at, seen, 3**bit) for bit, (at, seen, _) in enumerate(offsets[:beside])])
        drift = offsets
        if self.kind == "line":
            drift = [(at, seen, 1) for at, seen, _ in offsets[:3]]
        self.drift = _shared(drift)
        if self.kind == "kernel":
            size = self.high * self.wide
            offsets = [*offsets, (-size, place >= size, 1)]
        self.window, self._offsets = _shared(offsets), offsets

    def _seen(self, up: int, left: int) -> tuple[int, Array]:
        """Return how far back in the row a neighbour is, and for which columns it is inside the picture."""
        x, y = self.x + left, self.y + up
        return up * self.wide + left, (y >= 0) & (x >= 0) & (x < self.wide)

    def expected(self, estimate: Array) -> list[int]:
        """Return for each column the weighted sum of the estimates in its window."""
        total = np.zeros(self.layer.columns, np.int64)
        for at, seen, weight in self._offsets:
            if at >= 0:  # of pictures of one or two pixels; nothing is seen there
                continue
            total[-at:] += weight * np.where(seen[-at:], estimate[:at], 0)
        return total.tolist()

    def surroundings(self, row: int, kept: Array, density: int, ratio: Array | None) -> Array:
        """Return what the columns around suggest for each column, from `kept` of each in the `row` rows before."""
        if self.kind == "kernel":
            return self._kernels(row, kept, density, ratio)
        if self.kind == "line":
            everywhere = ((int(kept.sum()) << 16) // len(kept) + 32 * density) // (row + 32)
            nearby = np.full(len(kept), everywhere, np.int64)
        else:
            (ring, near), (all_ring, all_near) = self._around(kept), self.all_around
            far = ((ring << 16) // all_ring + 16 * density) // (row + 16)
            nearby = ((near << 16) // all_near + 128 * far) // (row + 128)
        return nearby if ratio is None else np.minimum(nearby * ratio >> 12, 60000)

    def _kernels(self, row: int, kept: Array, density: int, ratio: Array | None) -> Array:
        size = self.high * self.wide
        each = kept.reshape(-1, size)
        start: Array = np.full(len(each), density, np.int64)
        if ratio is not None:
            start = np.clip(density * ratio[::size] >> 12, 4, 60000)
        channel = ((each.sum(1) << 16) + 32 * start) // (size * row + 32)
        position = ((each.sum(0) << 16) + 64 * density) // (len(each) * row + 64)
        both: Array = (channel[:, None] * position // density).reshape(-1)
        return np.minimum(both, 60000)

    def _around(self, pixels: Array) -> tuple[Array, Array]:
        """Return the sums of the 24 pixels around each, and of the 8 nearest, of which those beside it count twice."""
        high, wide = self.high, self.wide
        room = np.zeros((high + 4, wide + 4), np.int64)
        own = room[2:-2, 2:-2]
        own[:] = pixels.reshape(high, wide)
        lines = np.add.reduce([room[y : y + high] for y in range(5)])
        ring = np.add.reduce([lines[:, x : x + wide] for x in range(5)]) - own
        lines = np.add.reduce([room[y : y + high] for y in (1, 2, 3)])
        near = np.add.reduce([lines[:, x : x + wide] for x in (1, 2, 3)]) - own
        beside = room[1:-3, 2:-2] + room[3:-1, 2:-2] + room[2:-2, 1:-3] + room[2:-2, 3:-1]
        return ring.reshape(-1), (near + beside).reshape(-1)


def _shared(offsets: list[tuple[int, Array, int]]) -> Window:
    """Return for each column the (offset, weight) pairs that are there; equal lists are one list."""
    codes = sum((seen.astype(np.int64) << bit for bit, (_, seen, _) in enumerate(offsets)), start=np.int64(0))
    found = {
        int(code): [(at, weight) for bit, (at, _, weight) in enumerate(offsets) if code >> bit & 1]
        for code in np.unique(codes)
    }
    return [found[code] for code in np.asarray(codes).tolist()]


class _Signs:
    """The model of the signs, coded right after each 1: three sets of weights over five counters and a constant."""

    def __init__(self, geometry: _Geometry) -> None:
        self.geometry = geometry
        columns = geometry.layer.columns
        self.all = _Counters(1, HALF, 2)
        self.column = _Counters(columns, HALF, 2)
        self.pattern = _Counters(243, HALF, 2)
        self.drift = _Counters(31, HALF, 2)
        self.mixers = [_Mixer([3277] * 5 + [0]) for _ in range(3)]
        self.updates = [0, 0, 0]
        self.values = [0] * columns
        self.start_row()

    def start_row(self) -> None:
        self.above, self.values = self.values, [0] * len(self.values)
        self.row = _Counters(1, HALF, 2)

    def code(self, coder: Coder, column: int, sign: int) -> int:
        values, (squash, stretch) = self.values, _tables()
        beside = [(values[column + at], power) for at, power in self.geometry.signs[column]]
        pattern = sum(power * value % (3 * power) for value, power in beside)
        drift = sum(weight * values[column + at] for at, weight in self.geometry.drift[column])
        drift = min(max(drift, -15), 15) + 15
        which = 0 if pattern == 0 else 1 if sum(value for value, _ in beside) == 0 else 2
        places = (0, column, 0, 3 * pattern + self.above[column] % 3, drift)
        counters = (self.all, self.column, self.row, self.pattern, self.drift)
        mixer = self.mixers[which]
        inputs = [stretch[counter.at(place)] for counter, place in zip(counters, places, strict=True)]
        p = min(max(squash[mixer.mix([*inputs, 256]) + 4096], 64), 65472)
        sign = coder.code(p, sign)
        mixer.learn((sign << 16) - p, 192 + 1856000 // (1000 + self.updates[which]))
        self.updates[which] += 1
        for counter, place in zip(counters, places, strict=True):
            counter.learn(place, sign)
        values[column] = 1 if sign else -1
        return sign


class _Ties:
    """Rows in descending order: as long as a row equals the one above it, a 1 cannot stand where that has a 0."""

    def __init__(self) -> None:
        self.counters = _Counters(16, HALF, 1, 10)
        self.tied, self.ones = False, 0

    def start_row(self, ordered: bool) -> None:
        self.tied, self.ones = ordered, 0

    def code(self, coder: Coder, above: int, bit: int) -> int:
        """Return the bit of a row that is tied so far; it costs nothing below a 0."""
        if not above:
            return 0
        context = min(self.ones, 15)
        bit = coder.code(min(max(self.counters.at(context), 64), 65472), bit)
        self.counters.learn(context, bit)
        self.ones += bit
        self.tied = bool(bit)
        return bit


class _Static:
    """One chance for all places: as many ones as are still to come, in as many places. Signs are even."""

    def __init__(self, layer: Layer) -> None:
        self.ones, self.places = layer.kept, layer.rows * layer.columns

    def start_row(self, row: int, kept: Array) -> None:
        """Nothing changes from row to row."""

    def chance(self, column: int) -> int:  # noqa: ARG002
        return min(max(((self.ones << 16) + self.places // 2) // self.places, 1), 65535)

    def learn(self, column: int, bit: int, free: bool) -> None:  # noqa: ARG002
        self.ones, self.places = max(self.ones - bit, 0), self.places - 1

    def sign(self, coder: Coder, column: int, sign: int) -> int:  # noqa: ARG002
        return coder.code(32768, sign)


class _Mixed:
    """Five predictions of each bit, mixed: the whole layer, the row, the fan-in, the column, what lies around."""

    def __init__(self, layer: Layer) -> None:
        self.geometry = _Geometry(layer)
        self.density, self.columns = layer.density, layer.columns
        self.strength = STRENGTHS[self.geometry.kind]
        self.ratio, self.fans = _fan(layer)
        self.everywhere = _Counters(1, self.density << 6, 30)
        self.by_fan = _Counters(384, self.density << 6, 4)
        line = self.geometry.kind == "line"
        self.mixer = _Mixer([0, 8192, 8192, 26214, 3277 if line else 36045])
        self.by_estimate, self.by_pattern = _Refinement(12), _Refinement(4 if line else 64)
        self.signs = _Signs(self.geometry)
        self.halves = _steps(2, 6, 12)
        self.steps = self.halves.tolist()

    def start_row(self, row: int, kept: Array) -> None:
        """kept: of each column in the `row` rows before."""
        around = np.maximum(self.geometry.surroundings(row, kept, self.density, self.ratio), 4)
        estimate = ((kept << 16) + self.strength * around) // (row + self.strength)
        estimate = np.minimum(np.maximum(estimate, 2), 65000)
        contexts = np.searchsorted(self.halves * self.density, estimate << 16, side="right")
        self.estimates, self.contexts = estimate.tolist(), contexts.tolist()
        self.expected = self.geometry.expected(estimate)
        self.in_row = _Counters(1, self.density << 6, 1)
        self.here = [0] * self.columns
        self.seen = self.due = 0
        self.signs.start_row()

    def chance(self, column: int) -> int:
        _, stretch = _tables()
        own = self.estimates[column]
        in_this_row = min(max(own * self._excess() >> 12, 1), 60000)
        nearby = self._sum(self.geometry.window[column], column)
        local = in_this_row * (((nearby + 1) << 28) // (self.expected[column] + 65536)) >> 12
        odds = self.mixer.mix(
            [
                stretch[self.everywhere.at(0)],
                stretch[self.in_row.at(0)],
                stretch[self.by_fan.at(self._fan_place(column))] if self.fans else 0,
                stretch[own],
                stretch[min(max(local, 1), 60000)],
            ]
        )
        self.mixed = self.mixer.squash[odds + 4096]
        refined = self.by_estimate.refine(self.contexts[column], odds)
        refined += self.by_pattern.refine(self._sum(self.geometry.pattern[column], column), odds)
        return min(max((2 * self.mixed + refined) >> 2, 1), 65535)

    def learn(self, column: int, bit: int, free: bool) -> None:
        """free: the bit was predicted by this model, and not by its tie to the row above."""
        if free:
            self.mixer.learn((bit << 16) - self.mixed, 256)
            self.by_estimate.learn(bit)
            self.by_pattern.learn(bit)
        self.everywhere.learn(0, bit)
        self.in_row.learn(0, bit)
        if self.fans:
            self.by_fan.learn(self._fan_place(column), bit)
        self.here[column] = bit
        self.seen += bit
        self.due += self.estimates[column]

    def sign(self, coder: Coder, column: int, sign: int) -> int:
        return self.signs.code(coder, column, sign)

    def _excess(self) -> int:
        """Return how many survivors the row has for each that was expected so far, in 1/4096."""
        return ((self.seen + 10) << 28) // (self.due + 655360)

    def _fan_place(self, column: int) -> int:
        return self.fans[column] + bisect_right(self.steps, self._excess() << 4) * 8 // 12

    def _sum(self, window: list[tuple[int, int]], column: int) -> int:
        total = 0
        for at, weight in window:
            if self.here[column + at]:
                total += weight
        return total


def code_mask(coder: Coder, layer: Layer, mask: list[int], signs: list[int]) -> tuple[Array, Array]:
    """Code a mask, row by row, and its signs; return both as uint8. A decoder is given empty lists.

    Raises FormatError as soon as what was decoded cannot have as many survivors as it should.
    """
    model = _Mixed(layer) if layer.model == "mixed" else _Static(layer)
    ties, known = _Ties(), bool(mask)
    bits, found, above = bytearray(), bytearray(), bytearray()
    seen, kept = 0, np.zeros(layer.columns, np.int64)
    for row in range(layer.rows):
        model.start_row(row, kept)
        ties.start_row(layer.ordered and row > 0)
        for column in range(layer.columns):
            bit, free = mask[len(bits)] if known else 0, not ties.tied
            bit = coder.code(model.chance(column), bit) if free else ties.code(coder, above[column], bit)
            model.learn(column, bit, free)
            bits.append(bit)
            if bit:
                seen += 1
                _check(seen <= layer.kept, "has a mask with more survivors than it should")
            if bit and layer.signed:
                found.append(model.sign(coder, column, signs[len(found)] if known else 0))
        above = bits[-layer.columns :]
        kept += np.frombuffer(above, np.uint8)
        fits = layer.kept - seen <= (layer.rows - row - 1) * layer.columns
        _check(fits, "has a mask with fewer survivors than it should")
    return np.frombuffer(bits, np.uint8), np.frombuffer(found, np.uint8)


def _fan(layer: Layer) -> tuple[Array | None, list[int]]:
    """Return what the producer's rows say of each column: the factor on its density in 1/4096, and its counters."""
    if layer.fan is None:
        return None, []
    fan = np.minimum(layer.fan, 1 << 24).astype(np.int64)
    total, count = int(fan.sum()), len(fan)
    factor = ((7 * fan * count + total) << 12) // (8 * total)
    bucket = np.searchsorted(_steps(3, 24, 48), (((fan * count) << 12) // total + 1) << 4, side="right")
    each = layer.columns // count
    return np.repeat(factor, each), np.repeat(8 * bucket, each).tolist()


def code_planes(coder: Coder, planes: Array, marks: Callable[[], None]) -> Array:
    """Code bytes, plane by plane: [planes, n], the most significant of each value first; return them.

    A byte is eight bits, the highest first; each is predicted by what the plane had after the same first bits, and by
    what it had so below the same byte of the plane above. marks: called after each plane.
    """
    squash, stretch = _tables()
    above = [0] * planes.shape[1]
    found = []
    for plane in planes.tolist():
        alone, below = _Counters(256, HALF, 1), _Counters(1 << 16, HALF, 1)
        mixers = [_Mixer([32768, 32768]) for _ in range(256)]
        for place, (byte, context) in enumerate(zip(plane, above, strict=True)):
            node = 1
            for shift in range(7, -1, -1):
                index = context << 8 | node
                odds = mixers[node].mix([stretch[alone.at(node)], stretch[below.at(index)]])
                p = squash[odds + 4096]
                bit = coder.code(p, byte >> shift & 1)
                mixers[node].learn((bit << 16) - p, 256)
                alone.learn(node, bit)
                below.learn(index, bit)
                node = node << 1 | bit
            plane[place] = node & 255
        found.append(plane)
        above = plane
        marks()
    return np.array(found, np.uint8).reshape(planes.shape)


def decode_mask(data: bytes, layer: Layer) -> tuple[Array, Array]:
    """Return a mask, flat, and the signs of its survivors, both uint8; in C++ if that is built. Raises FormatError."""
    if core is None:
        decoder = Decoder(data)
        found = code_mask(decoder, layer, [], [])
        decoder.finish()
        return found
    try:
        mask, signs = core.decode_mask(data, *core_arguments(layer))
        return mask, signs
    except ValueError as error:
        raise FormatError(str(error)) from None


def core_arguments(layer: Layer) -> tuple[Any, ...]:
    """Return what the C++ functions are told of a layer."""
    fan = None if layer.fan is None else np.minimum(layer.fan, 1 << 24).astype(np.int64)
    return (
        layer.model == "mixed",
        layer.rows,
        layer.columns,
        layer.kept,
        layer.picture,
        *layer.kernel,
        fan,
        layer.ordered,
        layer.signed,
    )


def decode_planes(data: bytes, planes: int, count: int) -> Array:
    """Return uint8[planes, count], the most significant plane first. Raises FormatError."""
    if core is None:
        decoder = Decoder(data)
        found = code_planes(decoder, np.zeros((planes, count), np.uint8), lambda: None)
        decoder.finish()
        return found
    try:
        quickly: Array = core.decode_planes(data, planes, count)
        return quickly
    except ValueError as error:
        raise FormatError(str(error)) from None


def main(arguments: list[str]) -> int:
    """List the tensors of the file that is named; return the exit code."""
    if len(arguments) not in (1, 2):
        sys.stderr.write("usage: reader.py FILE [BASE]\n")
        return 2
    try:
        packed = look(arguments[0]) if len(arguments) == 1 else parse(*arguments)
    except (FormatError, InputError) as error:
        sys.stderr.write(f"{error}\n")
        return 3
    for name, one in packed.tensors.items():
        what = (
            f"alias of {one.alias_of}"
            if one.alias_of
            else f"{one.format}, {one.kept:,} kept, {one.bytes:,} bytes"
        )
        line = f"{name}  {one.dtype} {list(one.shape)}  {what}\n"
        # A name may hold what no terminal shows.
        sys.stdout.write(line.encode("ascii", "backslashreplace").decode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
