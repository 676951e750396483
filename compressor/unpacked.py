"""`compressor unpack`: a packed file as what other tools read: safetensors, CSR in npz, CSR of torch."""

import math
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from compressor import plain
from compressor.errors import HostError, InputError, unknown
from compressor.files import writing
from compressor.foreign.npz import PARTS
from compressor.packed import reader
from compressor.packed.reader import Array

if TYPE_CHECKING:
    import torch

Header = Mapping[str, reader.Entry]
Tensors = Iterator[tuple[str, reader.Stored]]
_OUTSIDE: Final = re.compile(r"[/\\]|[A-Za-z]:|(.*[/\\])?\.\.[/\\]")  # what unzipping might put elsewhere
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip knows: equal bytes from equal tensors


def unpack_file(path: Path | str, to: str, out: Path | str, base: Path | str | None = None) -> None:
    """Write the tensors of a packed file as `to` says, bit for bit; base: what a task file was packed with.

    safetensors: dense, every alias a tensor of its own. npz-csr, torch-csr: masked tensors as CSR over
    (first dimension, the rest), a kept 0.0 stored; all others dense; aliases left out.
    Raises FormatError, InputError (also for a dtype that the target does not know) or HostError.
    """
    path, out = Path(path), Path(out)
    if to not in TARGETS:
        raise unknown("target", to, TARGETS)
    with reader.opened(path, base) as (header, tensors):
        TARGETS[to](path, {entry.name: entry for entry in header.entries}, tensors, out)


def _safetensors(_: Path, header: Header, tensors: Tensors, out: Path) -> None:
    layout = {name: (entry.dtype, entry.shape) for name, entry in header.items()}
    plain.write(out, layout, map(_dense, tensors))


def _dense(named: tuple[str, reader.Stored]) -> tuple[str, Array]:
    return named[0], named[1].data


def _npz(path: Path, header: Header, tensors: Tensors, out: Path) -> None:
    """Keys NAME.data, .indices, .indptr, .shape of a masked tensor (scipy's words), NAME of any other."""
    for name, entry in header.items():
        if entry.dtype.startswith(("BF", "F8")):
            raise InputError(f'{path}: "{name}" is {entry.dtype}, which numpy lacks; unpack --to safetensors')
    _check_arrays(path, header)
    with writing(out) as beside, zipfile.ZipFile(beside, "w") as archive:
        for name, one in tensors:
            if one.role == "sparse":
                columns, starts = _csr(one)
                arrays = [one.data[one.mask], columns, starts, np.array(one.shape, np.int64)]
                for part, array in zip(PARTS, arrays, strict=True):
                    _add(archive, f"{name}.{part}", array)
                del arrays, columns, array
            elif one.role == "dense":
                _add(archive, name, one.data)
            del one  # a giant need not wait in memory for the next one


def _check_arrays(path: Path, header: Header) -> None:
    """Refuse names that a zip cannot take: two arrays of one name, or a path that leads out of its folder."""
    owners: dict[str, str] = {}
    for name, entry in header.items():
        parts = {"sparse": [f"{name}.{part}" for part in PARTS], "dense": [name]}.get(entry.role, [])
        for key in parts:
            if _OUTSIDE.match(key):
                raise InputError(f'{path}: "{name}" is a path out of an npz; unpack --to safetensors')
            if key in owners:
                raise InputError(
                    f'{path}: "{owners[key]}" and "{name}" both have the array "{key}"; unpack --to safetensors'
                )
            owners[key] = name


def _add(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    """Add an array; np.savez would write the time of day into it on some versions."""
    info = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
    with archive.open(info, "w", force_zip64=array.nbytes >> 30 > 0) as member:
        np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def _torch(_: Path, __: Header, tensors: Tensors, out: Path) -> None:
    """A dict for torch.load(weights_only=True): 2-D CSR tensors, {"csr": ..., "shape": ...} beyond 2-D."""
    import torch

    from compressor.packed import source

    state: dict[str, Any] = {}
    for name, one in tensors:
        if one.role == "sparse":
            csr = _torch_csr(one, source.tensor(one))
            state[name] = csr if len(one.shape) == 2 else {"csr": csr, "shape": list(one.shape)}
        elif one.role == "dense":
            state[name] = source.tensor(one)
    with writing(out) as beside, beside.open("wb") as file:  # to a path, torch would write its name into it
        try:
            torch.save(state, file)
        except RuntimeError as error:  # what torch makes of an OSError
            raise HostError(f"{out}: cannot be written (the disk may be full)") from error


def _torch_csr(one: reader.Stored, tensor: "torch.Tensor") -> "torch.Tensor":
    """Build it from indices of its own: those of to_sparse_csr() are views, and saving them doubles the file."""
    import torch

    columns, starts = _csr(one)
    rows = one.shape[0] if one.shape else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "CSR is in beta", once per process
        return torch.sparse_csr_tensor(
            torch.from_numpy(starts),
            torch.from_numpy(columns),
            tensor[torch.from_numpy(np.asarray(one.mask))],
            size=(rows, math.prod(one.shape[1:])),
            check_invariants=True,
        )


def _csr(one: reader.Stored) -> tuple[Array, Array]:
    """Return column indices and row starts of a masked tensor seen as (first dimension, the rest).

    int32 where that holds them, as scipy has it; int64 beyond.
    """
    rows = one.shape[0] if one.shape else 1
    mask = np.asarray(one.mask).reshape(rows, math.prod(one.shape[1:]))
    width = np.int32 if max(one.kept, mask.shape[1]) < 1 << 31 else np.int64
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(width)
    step = max(reader.BLOCK // max(mask.shape[1], 1), 1)
    parts = [np.nonzero(mask[row : row + step])[1].astype(width) for row in range(0, rows, step)]
    return np.concatenate([np.zeros(0, width), *parts]), starts


TARGETS: Final[Mapping[str, Callable[[Path, Header, Tensors, Path], None]]] = {
    "safetensors": _safetensors,
    "npz-csr": _npz,
    "torch-csr": _torch,
}
