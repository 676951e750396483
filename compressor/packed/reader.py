"""Read a packed file with numpy and the standard library only; the layout is in docs/formats.md.

This is the only decoder of the project, and it stands alone: copied beside a deployment, `import reader` and
`python reader.py FILE [BASE]` work without the rest. It trusts no byte: a file gives its tensors or a FormatError.
"""

import hashlib
import math
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import numpy as np

try:
    from compressor.errors import FormatError, InputError
except ImportError:  # copied out: the two errors are all that this file takes from its package

    class FormatError(ValueError):  # type: ignore[no-redef]
        """The bytes of the file are not what the format demands."""

    class InputError(ValueError):  # type: ignore[no-redef]
        """The file cannot be read."""


MAGIC: Final = b"\x89CMP"
VERSION: Final = 1
TASK_VERSION: Final = 2  # of a task file, which takes tensors from its base file, and of no other
KINDS: Final = ("network", "start")
ROLES: Final = ("dense", "sparse", "alias")
POSITIONS: Final = ("all", "bitmask", "gaps")
VALUES: Final = ("own", "F16", "BF16", "levels", "base")
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
MAX_RANK: Final = 32
DIGEST: Final = 32
START: Final = 1024  # the safetensors header, magic, flags and header length take less
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """What the header says of one tensor; bytes: what it takes in the file, header entry and section."""

    name: str
    role: str
    dtype: str = ""
    shape: tuple[int, ...] = ()
    kept: int = 0
    positions: str = "all"
    values: str = "own"
    width: int = 0
    escapes: int = 0
    crc: int = 0
    alias_of: str = ""
    bytes: int = 0

    @property
    def total(self) -> int:
        """The number of elements of the tensor."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """The bytes of one element."""
        return np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def format(self) -> str:
        """The name of the storage format: dense, csr, bitmask, asni2 or base."""
        by_positions = {"all": "dense", "bitmask": "bitmask", "gaps": "csr"}[self.positions]
        return {"levels": "asni2", "base": "base"}.get(self.values, by_positions)

    @property
    def decoded(self) -> int:
        """The bytes that the tensor and its mask take in memory; an alias takes none, nor what the base has."""
        shared = self.role == "alias" or self.values == "base"
        return 0 if shared else self.total * (self.itemsize + (self.role == "sparse"))

    @property
    def section(self) -> int:
        """The bytes of the tensor's section; they follow from the rest of the entry."""
        if self.role == "alias":
            return 0
        stored = 0 if self.values == "base" else self.total if self.positions == "all" else self.kept
        item = 2 if self.values in ("F16", "BF16") else self.itemsize
        values = 8 + (stored + 7) // 8 if self.values == "levels" else stored * item
        bits = {"all": 0, "bitmask": self.total, "gaps": (self.kept + self.escapes) * self.width}
        return (bits[self.positions] + 7) // 8 + values


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One tensor. data: bit for bit, BF16 and the FP8s as unsigned integers; mask: bool, of role sparse only.

    levels: (low, high) of a two-level tensor. alias_of: the first name, whose data and mask an alias shares.
    values: own, F16 or BF16 (stored at lower precision), levels, or base (taken from the base file; `look` leaves
    data of zeros, and no mask, which take no memory). positions: how the mask is coded: all, bitmask or gaps. bytes:
    header entry and section.
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
class _Header:
    """What stands before the sections, which begin at `at`."""

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
    with _open(Path(path)) as file:
        return not _foreign(file)


def read(path: Path | str, base: Path | str | None = None) -> Packed:
    """Read and check a packed file; base: the file that a task file was packed with, which is read too.

    Raises FormatError (damaged, not ours), InputError (cannot be read; a base that is missing, another, or not needed).
    """
    path = Path(path)
    with _open(path) as file:
        header = _header(path, file)
        try:
            source = _base(path, header, base)
        except (FormatError, InputError):
            if header.intact:
                raise
            source = None  # what is wrong with the file itself comes first
        with _told(path):
            return _packed(file, header, source)


def look(path: Path | str) -> Packed:
    """Read and check a packed file as far as that goes without its base; a file that needs none is read whole.

    Raises FormatError, InputError.
    """
    path = Path(path)
    with _open(path) as file:
        header = _header(path, file)
        with _told(path):
            return _packed(file, header, None)


def _base(task: Path, header: _Header, path: Path | str | None) -> Packed | None:
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
        found = _header(path, file)
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
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _foreign(file: BufferedReader) -> str:
    """Return why this is no file for this reader, or ""."""
    start = file.read(START)
    if start[8:48] != outer(0)[8:48]:
        return "is not a packed file (compressor pack writes them)"
    at = 8 + int.from_bytes(start[:8], "little")
    if start[at : at + 4] == MAGIC and start[at + 4 : at + 5] not in (
        b"",
        b"%c" % VERSION,
        b"%c" % TASK_VERSION,
    ):
        return f"has another version of the format than {VERSION} and {TASK_VERSION}; update compressor"
    return ""


def _header(path: Path, file: BufferedReader) -> _Header:
    with _told(path):
        foreign = _foreign(file)
        if not foreign:
            return _parsed(file)
    raise FormatError(f"{path}: {foreign}")


def _parsed(file: BufferedReader) -> _Header:
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
    _check(
        (version == TASK_VERSION) == bool(flags & 4),
        "needs a base in a version that has none, or the reverse",
    )
    _check(flags & 5 != 5, "is a start that needs a base")
    max_error = float(np.frombuffer(cursor.take(8), "<f8")[0]) if flags & 2 else 0.0
    base = cursor.take(DIGEST).hex() if flags & 4 else ""
    length = cursor.number()
    _check(length <= size - DIGEST - cursor.at, "has a header that is longer than the file")
    intact, sha256 = _digests(file, size)
    file.seek(cursor.at)
    entries = _entries(_Cursor(file.read(length), 0), memory_limit(size))
    sections = sum(entry.section for entry in entries)
    _check(cursor.at + length + sections + DIGEST == size, "is not as long as its tensors are")
    values = {entry.values for entry in entries}
    _check(
        bool(values & {"F16", "BF16"}) == bool(flags & 2),
        "declares an error but no rounded tensor, or the reverse",
    )
    _check(("base" in values) == bool(flags & 4), "names a base that no tensor is in, or the reverse")
    _check(0 <= max_error < math.inf and not np.signbit(max_error), "declares an error that cannot be")
    return _Header(KINDS[flags & 1], version, entries, max_error, sha256, base, intact, cursor.at + length)


def _packed(file: BufferedReader, header: _Header, base: Packed | None) -> Packed:
    file.seek(header.at)
    # With a wrong digest too: the CRC-32 gives the damaged tensor a name.
    tensors = _tensors(file, header.entries, base)
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


def _entries(cursor: _Cursor, limit: int) -> list[Entry]:
    """Parse the header; what the tensors take once decoded must stay below `limit` bytes."""
    count = cursor.number()
    _check(count <= MAX_TENSORS, f"claims {count:,} tensors; {MAX_TENSORS:,} is the limit")
    entries: list[Entry] = []
    names: set[str] = set()
    previous = b""
    for _ in range(count):
        begin = cursor.at
        previous = _name(cursor, previous)
        try:
            name = previous.decode()
        except UnicodeDecodeError:
            raise FormatError("has a name that is not UTF-8") from None
        _check(name not in names, f'has two tensors of the name "{name}"')
        names.add(name)
        try:
            entry = _entry(cursor, name, entries)
        except FormatError as error:
            raise FormatError(f'tensor "{name}" {error}') from None
        limit -= entry.decoded
        _check(limit >= 0, f'tensor "{name}" claims more memory than a file of this size may')
        entries.append(replace(entry, bytes=cursor.at - begin + entry.section))
    _check(cursor.at == len(cursor.data), "has a header with something behind its last tensor")
    return entries


def _name(cursor: _Cursor, previous: bytes) -> bytes:
    shared, length = cursor.number(), cursor.number()
    _check(shared <= len(previous) and 0 < shared + length <= MAX_NAME, "has a name of a wrong length")
    rest = cursor.take(length)
    _check(rest[:1] != previous[shared : shared + 1] or not rest, "has a name that shares more than it says")
    _check(min(previous[:shared] + rest) >= 32, "has a control character in a name")
    return previous[:shared] + rest


def _entry(cursor: _Cursor, name: str, before: list[Entry]) -> Entry:
    code = cursor.byte()
    role = cursor.choice("role", ROLES, code & 3)
    if role == "alias":
        _check(code == 2, "is an alias with a format")
        target = cursor.number()
        _check(target < len(before), "is an alias of a tensor that does not come before it")
        first = before[target]
        _check(first.role != "alias", "is an alias of an alias")
        return replace(first, name=name, role=role, alias_of=first.name)
    positions = cursor.choice("position coding", POSITIONS, code >> 2 & 7)
    values = cursor.choice("value coding", VALUES, code >> 5)
    dtype = cursor.choice("dtype", tuple(DTYPES))
    rank = cursor.number()
    _check(rank <= MAX_RANK, f"claims {rank:,} dimensions; {MAX_RANK} is the limit")
    shape = tuple(cursor.number() for _ in range(rank))
    total = math.prod(shape)
    _check(max(shape, default=0) < 1 << 48 and total < 1 << 48, "claims a shape beyond every limit")
    kept = cursor.number() if role == "sparse" else total
    width = cursor.byte() if positions == "gaps" else 0
    escapes = cursor.number() if positions == "gaps" else 0
    crc = int.from_bytes(cursor.take(4), "little")
    _check(kept <= total, f"claims {kept:,} kept of {total:,} weights")
    _check(role == "sparse" or (positions == "all" and values != "levels"), "is dense with a sparse format")
    _check(role == "dense" or dtype not in NEVER_SPARSE, f"is sparse with dtype {dtype}, which has no zero")
    _check(values != "levels" or dtype in LEVEL_DTYPES, f"has levels with dtype {dtype}")
    _check(values != "levels" or positions != "all" or kept == total, "has levels without positions")
    _check(
        values not in ("F16", "BF16") or dtype in LOWERED_DTYPES, f"has {values} values with dtype {dtype}"
    )
    if positions == "gaps":
        _check(1 <= width <= 32, f"has gaps of {width} bits")
        _check(escapes * ((1 << width) - 1) <= total - kept, "has more escapes than its shape allows")
    return Entry(name, role, dtype, shape, kept, positions, values, width, escapes, crc)


def _tensors(file: BufferedReader, entries: list[Entry], base: Packed | None) -> dict[str, Stored]:
    tensors: dict[str, Stored] = {}
    for entry in entries:
        if entry.role == "alias":
            first = tensors[entry.alias_of]
            tensors[entry.name] = replace(first, role="alias", alias_of=entry.alias_of, bytes=entry.bytes)
            continue
        section = np.empty(entry.section, np.uint8)
        _check(file.readinto(section.data) == len(section), "changed while it was read")
        try:
            tensors[entry.name] = _decode(entry, section, base)
        except FormatError as error:
            raise FormatError(f'tensor "{entry.name}" {error}') from None
    return tensors


def _decode(entry: Entry, section: Array, base: Packed | None) -> Stored:
    dtype = np.dtype(DTYPES[entry.dtype])
    raw = np.dtype(f"<u{dtype.itemsize}")
    if entry.values == "base" and base is None:
        _look_at_mask(entry, section)
        return _stored(entry, None, np.broadcast_to(np.zeros((), dtype), entry.shape), None)
    first = _in_base(entry, base) if base is not None and entry.values == "base" else None
    mask, at = _mask(entry, section)
    if first is None:
        values, levels = _values(entry, section[at:], raw)
    else:
        mask, values, levels = *_shared(entry, mask, first, raw), None
    bits = values
    if mask is not None:
        _same_count(entry, mask)
        bits = np.zeros(entry.total, raw)
        bits[mask] = values
    elif entry.role == "sparse":  # every weight in its place: the kept ones are those that are not +0.0
        mask = np.ones(entry.total, bool) if entry.kept == entry.total else bits != 0
        _same_count(entry, mask)
    _check(zlib.crc32(bits.view(np.uint8).data) == entry.crc, "is damaged (its CRC-32 does not match)")
    _check(entry.dtype != "BOOL" or not (bits > 1).any(), "holds a truth value that is neither 0 nor 1")
    return _stored(entry, mask, bits.view(dtype), levels)


def _stored(entry: Entry, mask: Array | None, data: Array, levels: tuple[float, float] | None) -> Stored:
    return Stored(
        dtype=entry.dtype,
        shape=entry.shape,
        role=entry.role,
        format=entry.format,
        kept=entry.kept,
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


def _shared(
    entry: Entry, mask: Array | None, first: Stored, raw: np.dtype[Any]
) -> tuple[Array | None, Array]:
    """Return the mask of a tensor of the base, and its values: under the mask, or all."""
    if entry.role == "sparse" and mask is None:
        mask = np.ones(entry.total, bool) if first.mask is None else first.mask.reshape(-1).copy()
    bits = first.data.reshape(-1).view(raw)
    return mask, bits.copy() if mask is None else bits[mask]


def _same_count(entry: Entry, mask: Array) -> None:
    found = int(np.count_nonzero(mask))
    _check(found == entry.kept, f"claims {entry.kept:,} kept weights, its mask holds {found:,}")


def _bits(packed: Array, count: int) -> Array:
    """Return `count` bits, the least significant of each byte first; those behind them must be 0."""
    if count % 8:
        _check(int(packed[-1]) >> count % 8 == 0, "has padding bits that are not 0")
    return np.unpackbits(packed, count=count, bitorder="little")


def _look_at_mask(entry: Entry, section: Array) -> None:
    """Check the positions of a tensor without taking memory for its shape, of which only the base is a witness."""
    if entry.positions == "bitmask":
        _same_count(entry, _bits(section, entry.total))
    elif entry.positions == "gaps":
        _where(entry, section)


def _mask(entry: Entry, section: Array) -> tuple[Array | None, int]:
    """Return which weights are kept, flat (None: all are in their place), and where the values begin."""
    if entry.positions == "all":
        return None, 0
    if entry.positions == "bitmask":
        size = (entry.total + 7) // 8
        return _bits(section[:size], entry.total).view(bool), size
    where, size = _where(entry, section)
    mask = np.zeros(entry.total, bool)
    mask[where] = True
    return mask, size


def _where(entry: Entry, section: Array) -> tuple[Array, int]:
    """Return the flat places of the kept weights from their gaps, and where the values begin."""
    count = (entry.kept + entry.escapes) * entry.width
    size = (count + 7) // 8
    digits = np.zeros(entry.kept + entry.escapes, np.int64)
    for place, column in enumerate(_bits(section[:size], count).reshape(-1, entry.width).T):
        digits |= column.astype(np.int64) << place
    (ends,) = np.nonzero(digits != (1 << entry.width) - 1)
    _check(len(ends) == entry.kept and ends.max(initial=-1) == len(digits) - 1, "has gaps that do not end")
    where = np.cumsum(digits)[ends] + np.arange(entry.kept)
    inside = not entry.kept or (where.min() >= 0 and where.max() < entry.total)
    _check(inside, "has gaps that lead past its end")
    return where, size


def _values(entry: Entry, section: Array, raw: np.dtype[Any]) -> tuple[Array, tuple[float, float] | None]:
    """Return the stored values as unsigned integers, and the two levels if there are."""
    if entry.values == "own":
        return section.view(raw), None
    wide = np.dtype(DTYPES[entry.dtype])
    if entry.values == "F16":
        return section.view("<f2").astype(wide).view(raw), None
    if entry.values == "BF16":
        return (section.view("<u2").astype("<u4") << 16).view("<f4").astype(wide).view(raw), None
    low, high = section[:8].view("<f4")
    signs = _bits(section[8:], entry.kept).view(bool)
    _check(bool(np.isfinite([low, high]).all()), "has a level that is not finite")
    _check(entry.kept == 0 or low < high, "has levels that are not in the order low, high")
    for level, used in ((low, not signs.all()), (high, signs.any())):
        _check(bool(used) or level == 0, "has a level that no weight takes")
        _check(level != 0 or not np.signbit(level), "has a level of -0.0")
    return np.where(signs, level_bits(high, entry.dtype), level_bits(low, entry.dtype)), (
        float(low),
        float(high),
    )


def level_bits(level: np.float32, dtype: str) -> Any:
    """Return the bits of a level in the tensor's dtype. Raises FormatError if the dtype cannot hold it."""
    if dtype == "BF16":
        bits = int(level.view(np.uint32))
        _check(bits & 0xFFFF == 0, "has a level that BF16 cannot hold")
        return np.uint16(bits >> 16)
    wide = np.dtype(DTYPES[dtype])
    with np.errstate(over="ignore"):
        value = level.astype(wide)
    _check(value.astype(np.float32) == level, f"has a level that {dtype} cannot hold")
    return value.view(f"<u{wide.itemsize}")


def main(arguments: list[str]) -> int:
    """List the tensors of the file that is named; return the exit code."""
    if len(arguments) not in (1, 2):
        sys.stderr.write("usage: reader.py FILE [BASE]\n")
        return 2
    try:
        packed = look(arguments[0]) if len(arguments) == 1 else read(*arguments)
    except (FormatError, InputError) as error:
        sys.stderr.write(f"{error}\n")
        return 3
    for name, one in packed.tensors.items():
        what = (
            f"alias of {one.alias_of}"
            if one.alias_of
            else f"{one.format}, {one.kept:,} kept, {one.bytes:,} bytes"
        )
        sys.stdout.write(f"{name}  {one.dtype} {list(one.shape)}  {what}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
