"""Files appear whole or not at all, and every OSError becomes one of ours."""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from compressor.errors import HostError, InputError


def is_folder(path: Path | str) -> bool:
    """Whether a path names a folder; one that can name nothing, as it is too long, does not."""
    return os.path.isdir(path)


@contextmanager
def reading(path: Path | str) -> Iterator[BufferedReader]:
    """Open a regular file for the block.

    Raises InputError if it is missing, unreadable or not a regular file (a FIFO would block for ever), and for every
    OSError of the block.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file; give the path of a file")
        try:
            file = path.open("rb")
        except ValueError as error:  # a NUL in it, or what is no text
            raise InputError(f"{str(path)!r}: cannot be read ({error}); give the path of a file") from None
        with file:
            yield file
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_bytes(path: Path | str) -> bytes:
    """Return the bytes of a regular file. Raises InputError as `reading` does."""
    with reading(path) as file:
        return file.read()


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file in hexadecimal, read in blocks. Raises InputError as `reading` does."""
    with reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(path: Path | str) -> None:
    """Raise HostError if a path is no name for a file, or names what is there and is no regular file."""
    path = Path(path)
    if "\0" in str(path):
        raise HostError(f"{str(path)!r}: cannot be written (it has a NUL in it); give the path of a file")
    try:
        if not path.name or path.is_dir():
            raise HostError(f"{path}: cannot be written (it is a folder); give the path of a file")
        if path.exists() and not path.is_file():
            raise HostError(f"{path}: cannot be written (not a regular file); give the path of a file")
    except OSError as error:
        raise HostError(f"{path}: cannot be written ({error.strerror or error})") from error


def check_out(out: Path, *inputs: Path | None) -> None:
    """Refuse a file to write that is one of the inputs, or none that can be written, before any work.

    Raises InputError, HostError.
    """
    check_target(out)
    for path in inputs:
        if path is not None and os.path.exists(path) and out.exists() and out.samefile(path):
            raise InputError(f"{out}: is the file that is read; give another --out")


def kind_of(path: Path | str) -> str:
    """Return what a file looks like from its first bytes: empty, safetensors (a packed file is one), onnx,
    npz, checkpoint (of torch) or other. Raises InputError as `reading` does.
    """
    with reading(path) as file:
        head = file.read(4096)  # the first name of a zip and more
    if not head:
        return "empty"
    if head[8:9] == b"{":  # a length of 8 bytes, then JSON
        return "safetensors"
    if head[:2] == b"PK":
        return (
            "npz" if head[30 : 30 + int.from_bytes(head[26:28], "little")][-4:] == b".npy" else "checkpoint"
        )
    if head[:1] == b"\x80":  # a plain pickle
        return "checkpoint"
    return "onnx" if head[:1] == b"\x08" else "other"  # field 1 of a ModelProto, ir_version, as a varint


@contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed, on failure removed.

    Raises HostError for every OSError, those raised by the block included, and as `check_target` does.
    """
    path = Path(path)
    check_target(path)
    beside = path.with_name(f".{secrets.token_hex(8)}.part")  # no longer than what is allowed for any name
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise HostError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            beside.unlink()


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a whole file or nothing. Raises HostError."""
    with writing(path) as beside:
        beside.write_bytes(data)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable; without it a power cut may bring the old name back."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
