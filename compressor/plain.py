"""Plain safetensors files, single or sharded, read and written tensor by tensor with numpy alone.

Source: the README of safetensors, "Format"; what is refused beyond it stands in safetensors_header.py.
"""

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressor.errors import FormatError, InputError
from compressor.files import is_folder, reading, writing
from compressor.packed.container import Layout, plain_header
from compressor.packed.reader import DTYPES, MAX_NAME, MAX_TENSORS, Array
from compressor.safetensors_header import check, entries

log = logging.getLogger(__name__)
MAX_HEADER: Final = 1 << 24  # bytes; 131,072 tensors take that much
NAME: Final = "model.safetensors"
INDEX: Final = f"{NAME}.index.json"
PREFIXES: Final = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's


@dataclass(frozen=True, slots=True)
class Plain:
    """One tensor of a safetensors file. offset, bytes: where it stands in it; stamp: of the file when it was read."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    bytes: int
    stamp: tuple[int, int]


def tensors(path: Path | str) -> dict[str, Plain]:
    """Return name -> tensor, in the order of the data.

    path: a safetensors file, the index.json of a sharded one, or a folder with one of both. Raises FormatError
    (damaged, not safetensors), InputError (cannot be read, a dtype of less than a byte).
    """
    path = file_of(path)
    return _sharded(path) if path.suffix == ".json" else _single(path)


def load(one: Plain) -> Array:
    """Return the bits of a tensor: flat, row-major, unsigned little-endian integers of its width.

    Raises FormatError (changed since, a truth value that is none), InputError (cannot be read).
    """
    with reading(one.path) as file, _told(one.path):
        check(_stamp(file) == one.stamp, "changed while it was read")
        size = np.dtype(DTYPES[one.dtype]).itemsize
        bits = np.empty(one.bytes // size, f"<u{size}")
        file.seek(one.offset)
        check(file.readinto(bits.view(np.uint8).data) == one.bytes, "changed while it was read")
        if one.dtype == "BOOL" and bits.max(initial=0) > 1:
            raise FormatError(f'tensor "{one.name}" holds a truth value that is neither 0 nor 1')
        return bits


def short_names(names: Sequence[str]) -> list[str]:
    """Return the names without the prefixes of DataParallel and torch.compile, where all have them, and log that."""
    short = list(names)
    while prefix := next((p for p in PREFIXES if short and all(n.startswith(p) for n in short)), ""):
        short = [name[len(prefix) :] for name in short]
    if short and short[0] != names[0]:
        log.warning("all names begin with %s, which is left out", names[0].removesuffix(short[0]))
    return short


def write(path: Path | str, layout: Layout, parts: Iterable[tuple[str, Array]]) -> None:
    """Write a safetensors file tensor by tensor, the bytes that the safetensors library would write; all or nothing.

    parts: name and elements, in any order, each name once. Raises HostError.
    """
    start, places = plain_header(layout)
    with writing(path) as beside, beside.open("wb") as file:
        file.write(start)
        for name, bits in parts:
            file.seek(places.pop(name))
            file.write(np.ascontiguousarray(bits).reshape(-1).view(np.uint8).data)
            del bits  # a giant need not wait in memory for the next one
        assert not places, "a tensor of the layout was not written"


def file_of(path: Path | str) -> Path:
    """Return the path of a file, or of the one in a folder that libraries would look for. Raises InputError."""
    folder = Path(path)
    if not is_folder(folder):
        return folder
    for name in (NAME, INDEX):
        if (folder / name).exists():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise InputError(f"{folder}: holds neither {NAME} nor {INDEX}; give the path of a file")
    return found[0]


def _sharded(path: Path) -> dict[str, Plain]:
    places = _index(path)
    found: dict[str, Plain] = {}
    for shard in dict.fromkeys(places.values()):
        for name, one in _single(path.with_name(shard)).items():
            if places.get(name) != shard:
                raise FormatError(f'{path}: does not put the tensor "{name}" into {shard}, which holds one')
            found[name] = one
    missing = next((name for name in places if name not in found), None)
    if missing is not None:
        raise FormatError(
            f'{path}: puts the tensor "{missing}" into {places[missing]}, which does not hold it'
        )
    return found


def _index(path: Path) -> dict[str, str]:
    """Return tensor name -> file name, both checked."""
    with reading(path) as file, _told(path):
        data = file.read(MAX_HEADER + 1)
        check(len(data) <= MAX_HEADER, f"is no index: it has more than {MAX_HEADER:,} bytes")
        # What json would make of millions of small things takes thirty times their bytes.
        flat = data.count(b"[") + data.count(b"{") < 1000 and data.count(b",") < 2 * MAX_TENSORS
        check(flat, "is no index of shards")
        try:
            found = json.loads(data.decode(), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"is no JSON ({error})") from None
        places = found.get("weight_map") if isinstance(found, dict) else None
        if not isinstance(places, dict):
            raise FormatError("is no index of shards: it has no weight_map")
        for name, shard in places.items():
            good = isinstance(shard, str) and re.fullmatch(r"[^/\\:\x00-\x1f]+", shard)
            check(bool(good) and shard not in (".", ".."), f'puts the tensor "{name}" into no file beside it')
        return places


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:MAX_NAME]!r} stands there twice")
        found[name] = value
    return found


def _single(path: Path) -> dict[str, Plain]:
    with reading(path) as file, _told(path):
        stamp = _stamp(file)
        size = stamp[0]
        check(size >= 8, "is too short for a safetensors file")
        length = int.from_bytes(file.read(8), "little")
        check(length <= size - 8, "is not a safetensors file: its header would be longer than the file")
        check(length <= MAX_HEADER, f"has a header of {length:,} bytes; {MAX_HEADER:,} is the limit")
        header = file.read(length)
        check(len(header) == length, "changed while it was read")
        check(header.count(b'"data_offsets"') <= MAX_TENSORS, f"has more than {MAX_TENSORS:,} tensors")
        found = [
            Plain(name, dtype, shape, path, 8 + length + begin, end - begin, stamp)
            for name, dtype, shape, begin, end in entries(header)
        ]
    found.sort(key=lambda one: (one.offset, one.bytes))
    with _told(path):
        at = 8 + length
        for one in found:
            check(one.offset >= at, f'tensor "{one.name}" overlaps the one before it')
            check(one.offset <= at, f'tensor "{one.name}" has a hole before it')
            at += one.bytes
        check(at == size, "does not end where its last tensor ends")
    return {one.name: one for one in found}


def _stamp(file: BufferedReader) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Put the file's name before whatever is wrong with it."""
    try:
        yield
    except (FormatError, InputError) as error:
        raise type(error)(f"{path}: {error}") from None
    except MemoryError:
        raise FormatError(f"{path}: does not fit into memory") from None
