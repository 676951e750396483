"""CSR in npz files: one matrix of scipy.sparse.save_npz, or the named ones of `compressor unpack --to npz-csr`.

Source: scipy/sparse/_matrix_io.py. Nothing is unpickled, and no array takes memory before its size has been held
against the size of the file.
"""

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressor.errors import FormatError, InputError
from compressor.files import reading
from compressor.foreign import csr
from compressor.packed.item import Given
from compressor.packed.reader import MAX_RANK, MAX_TENSORS, Array, memory_limit

MAX_LIST: Final = 1 << 24  # bytes of the list of arrays at the end of the zip
BLOCK: Final = 1 << 20
PARTS: Final = ("data", "indices", "indptr", "shape")
# kind and width of a numpy type -> safetensors name
DTYPES: Final = {
    "b1": "BOOL", "u1": "U8", "i1": "I8", "u2": "U16", "i2": "I16", "f2": "F16", "u4": "U32", "i4": "I32",
    "f4": "F32", "u8": "U64", "i8": "I64", "f8": "F64", "c8": "C64",
}  # fmt: skip
MAX_NPY: Final = 10_000
_NPY: Final = re.compile(
    rb"\{'descr': '([<>|][a-zA-Z]\d{0,4})', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n"
)
# what zipfile, zlib and numpy raise on what is no zip of arrays
DAMAGED: Final = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, TypeError, LookupError, EOFError, RuntimeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """An array of an npz that has not been read yet."""

    path: Path
    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def name(self) -> str:
        """What numpy calls the array."""
        return self.info.filename.removesuffix(".npy")


def givens(path: Path, name: str, stack: ExitStack) -> list[Given]:
    """Return the tensors of an npz, read from a file that the stack keeps open.

    name: of the one matrix that scipy has saved; "weight" unless it is given. Raises FormatError (damaged), InputError
    (no CSR in it, a name for what has names).
    """
    members = _members(path, stack.enter_context(reading(path)), stack)
    if "format" in members:
        return [_scipy(path, members, name or "weight")]
    if name:
        raise InputError(f"{path}: its tensors have names; leave out --name")
    stems = [key.removesuffix(".indptr") for key in members if key.endswith(".indptr")]
    if not stems:
        raise InputError(f"{path}: holds no CSR matrix, neither scipy's nor those of unpack --to npz-csr")
    owners = {f"{stem}.{part}": stem for stem in stems for part in PARTS}
    found: dict[str, Given] = {}
    for key, one in members.items():
        stem = owners.get(key)
        if stem is not None and stem in members:
            raise FormatError(f'{path}: has the tensor "{stem}" twice, as CSR and dense')
        if stem is None:
            found[key] = Given(key, _dtype(one), one.shape, False, partial(_dense, one))
        elif stem not in found:
            found[stem] = _masked(path, members, stem, stem)
    return list(found.values())


def _scipy(path: Path, members: Mapping[str, Member], name: str) -> Given:
    kind = members["format"]
    if kind.shape != () or kind.dtype.kind not in "SU" or kind.dtype.itemsize > 64:
        raise FormatError(f"{path}: names no format of scipy.sparse")
    text = _array(kind).item()
    format = text.decode("latin-1") if isinstance(text, bytes) else str(text)  # noqa: A001
    if format != "csr":
        raise InputError(f"{path}: is a scipy matrix of format {format!r}; save it as CSR (matrix.tocsr())")
    if more := members.keys() - {"format", "_is_array", *PARTS}:
        raise FormatError(f'{path}: holds "{min(more)[:80]}" beside its matrix')
    return _masked(path, members, "", name)


def _masked(path: Path, members: Mapping[str, Member], stem: str, name: str) -> Given:
    keys = {part: f"{stem}.{part}" if stem else part for part in PARTS}
    if missing := [key for key in keys.values() if key not in members]:
        raise FormatError(f"{path}: has no {', '.join(missing)}; CSR needs {', '.join(keys.values())}")
    parts = {part: members[key] for part, key in keys.items()}
    dtype = _dtype(parts["data"])
    told = parts["shape"]
    if told.dtype.kind not in "iu" or len(told.shape) != 1 or told.shape[0] > MAX_RANK:
        raise FormatError(f'{path}: tensor "{name}" has a shape that is no list of sizes')
    shape = tuple(int(size) for size in _array(told))
    total = math.prod(max(size, 1) for size in shape)
    limit = memory_limit(path.stat().st_size)
    if min(shape, default=0) < 0 or total * (parts["data"].dtype.itemsize + 1) > limit:
        raise FormatError(f'{path}: tensor "{name}" claims the shape {list(shape)}, too much for this file')
    rows, columns = csr.flat(shape)
    if not stem and len(shape) == 1:  # scipy's vectors are one row
        rows, columns = 1, shape[0]
    kept = parts["data"].shape
    if (
        len(kept) != 1
        or kept[0] > total
        or parts["indices"].shape != kept
        or parts["indptr"].shape != (rows + 1,)
    ):
        shapes = ", ".join(f"{part} {list(parts[part].shape)}" for part in PARTS[:3])
        raise FormatError(f'{path}: tensor "{name}" of {rows:,} rows and {columns:,} columns has {shapes}')
    return Given(name, dtype, shape, True, partial(_spread, path, name, rows, columns, parts))


def _spread(
    path: Path, name: str, rows: int, columns: int, parts: Mapping[str, Member]
) -> tuple[Array, Array]:
    starts, places, values = _array(parts["indptr"]), _array(parts["indices"]), _bits(parts["data"])
    with _told(path):
        return csr.spread(name, rows, columns, starts, places, values)


def _dense(one: Member) -> tuple[Array, None]:
    return _bits(one), None


def _dtype(one: Member) -> str:
    code = f"{one.dtype.kind}{one.dtype.itemsize}"
    if code not in DTYPES:
        raise InputError(f'{one.path}: "{one.name}" is {one.dtype}; packed are {", ".join(DTYPES.values())}')
    return DTYPES[code]


def _bits(one: Member) -> Array:
    """Return the elements, flat and row-major, as unsigned little-endian integers."""
    found = np.ascontiguousarray(_array(one), one.dtype.newbyteorder("<"))
    bits = found.reshape(-1).view(f"<u{one.dtype.itemsize}")
    if one.dtype.kind == "b" and bits.max(initial=0) > 1:
        raise FormatError(f'{one.path}: "{one.name}" holds a truth value that is neither 0 nor 1')
    return bits


def _members(path: Path, file: BufferedReader, stack: ExitStack) -> dict[str, Member]:
    """Return the arrays of an npz by name; what they take is bounded by the size of the file."""
    with _told(path):
        size = file.seek(0, 2)
        if _list_size(file, size) > MAX_LIST:
            raise FormatError("lists more arrays than a network has tensors")
        archive = stack.enter_context(zipfile.ZipFile(file))
        infos = archive.infolist()
        if len(infos) > 4 * MAX_TENSORS or sum(info.file_size for info in infos) > memory_limit(size):
            raise FormatError("claims more memory than a file of this size may")
        found: dict[str, Member] = {}
        for info in infos:
            one = _member(path, archive, info)
            if one.name in found:
                raise FormatError(f'has two arrays of the name "{one.name}"')
            found[one.name] = one
        return found


def _list_size(file: BufferedReader, size: int) -> int:
    """Return the bytes of the list of members, which numpy leaves at the very end."""
    file.seek(max(size - 98, 0))
    last = file.read(98)
    if last[-22:-18] != b"PK\5\6":
        raise FormatError("has something behind its end, or no end")
    if last[-10:-6] == b"\xff" * 4 and last[:4] == b"PK\6\6":  # zip64
        return int.from_bytes(last[40:48], "little")
    return int.from_bytes(last[-10:-6], "little")


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    if not info.filename.endswith(".npy"):
        raise FormatError(f'holds "{info.filename[:80]}", which is no array')
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(
            f'holds "{info.filename[:80]}" encrypted or compressed in a way numpy does not write'
        )
    with archive.open(info) as stream:
        magic = stream.read(8)
        width = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4, b"\x93NUMPY\3\0": 4}.get(magic, 0)
        length = int.from_bytes(stream.read(width), "little")
        match = _NPY.fullmatch(stream.read(min(length, MAX_NPY)))
    if match is None:
        raise FormatError(f'holds "{info.filename[:80]}", which is no plain array as numpy writes it')
    dtype = np.dtype(match[1].decode())  # a TypeError if there is none
    shape = tuple(int(size) for size in match[3].replace(b",", b" ").split())
    if dtype.hasobject:
        raise FormatError(f'holds Python objects in "{info.filename[:80]}", which are never read')
    offset = len(magic) + width + length
    if len(shape) > MAX_RANK or math.prod(shape) * dtype.itemsize != info.file_size - offset:
        raise FormatError(f'"{info.filename[:80]}" is not as long as its shape {list(shape[:MAX_RANK])} says')
    return Member(path, archive, info, dtype, shape, match[2] == b"True", offset)


def _array(one: Member) -> Array:
    """Read an array. The zip's own CRC-32 is checked at the end of it."""
    with _told(one.path), one.archive.open(one.info) as stream:
        stream.read(one.offset)
        data = np.empty(one.info.file_size - one.offset, np.uint8)
        for at in range(0, len(data), BLOCK):
            block = data[at : at + BLOCK]
            block[:] = np.frombuffer(stream.read(len(block)), np.uint8)  # a ValueError if it ends before
        stream.read(1)
        order = "F" if one.fortran else "C"
        return data.view(one.dtype).reshape(one.shape, order=order)  # type: ignore[call-overload, no-any-return]


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Put the file's name before whatever is wrong with it."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    except MemoryError:
        raise FormatError(f"{path}: does not fit into memory") from None
    except DAMAGED as error:
        raise FormatError(f"{path}: damaged, not whole as an npz of arrays ({error})") from None
