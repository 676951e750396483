"""`compressor unpack`: a packed file as what other tools read: safetensors, CSR in npz, CSR of torch."""

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from compressor.errors import InputError, unknown
from compressor.files import write_bytes
from compressor.packed import reader, source

Array = np.ndarray[Any, np.dtype[Any]]
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip knows: equal bytes from equal tensors


def unpack_file(path: Path | str, to: str, out: Path | str, base: Path | str | None = None) -> None:
    """Write the tensors of a packed file as `to` says, bit for bit; base: what a task file was packed with.

    safetensors: dense, every alias a tensor of its own. npz-csr, torch-csr: masked tensors as CSR over
    (first dimension, the rest), a kept 0.0 stored; all others dense; aliases left out.
    Raises FormatError, InputError (also for a dtype that the target does not know) or HostError.
    """
    found = reader.read(path, base)
    if to not in TARGETS:
        raise unknown("target", to, TARGETS)
    write_bytes(out, TARGETS[to](Path(path), found))


def _safetensors(_: Path, found: reader.Packed) -> bytes:
    from safetensors.torch import save

    return save({name: source.tensor(one).clone() for name, one in found.tensors.items()})


def _npz(path: Path, found: reader.Packed) -> bytes:
    """Keys NAME.data, .indices, .indptr, .shape of a masked tensor (scipy's words), NAME of any other."""
    arrays: dict[str, Array] = {}
    for name, one in found.tensors.items():
        if one.dtype.startswith(("BF", "F8")):
            raise InputError(f'{path}: "{name}" is {one.dtype}, which numpy lacks; unpack --to safetensors')
        if one.role == "sparse":
            columns, starts = _csr(one)
            arrays[f"{name}.data"] = one.data[one.mask]
            arrays[f"{name}.indices"], arrays[f"{name}.indptr"] = columns, starts
            arrays[f"{name}.shape"] = np.array(one.shape, np.int64)
        elif one.role == "dense":
            arrays[name] = one.data
    return _zipped(arrays)


def _zipped(arrays: Mapping[str, Array]) -> bytes:
    """Return an npz; np.savez would write the time of day into it on some versions."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _EPOCH), member.getvalue())
    return buffer.getvalue()


def _torch(_: Path, found: reader.Packed) -> bytes:
    """A dict for torch.load(weights_only=True): 2-D CSR tensors, {"csr": ..., "shape": ...} beyond 2-D."""
    state: dict[str, Any] = {}
    for name, one in found.tensors.items():
        if one.role == "sparse":
            csr = _torch_csr(one, source.tensor(one))
            state[name] = csr if len(one.shape) == 2 else {"csr": csr, "shape": list(one.shape)}
        elif one.role == "dense":
            state[name] = source.tensor(one)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _torch_csr(one: reader.Stored, tensor: torch.Tensor) -> torch.Tensor:
    """Build it from indices of its own: those of to_sparse_csr() are views, and saving them doubles the file."""
    columns, starts = _csr(one)
    rows = one.shape[0] if one.shape else 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "CSR is in beta", once per process
        return torch.sparse_csr_tensor(
            torch.from_numpy(starts),
            torch.from_numpy(columns),
            tensor[torch.from_numpy(np.asarray(one.mask))],
            size=(rows, tensor.numel() // max(rows, 1)),
            check_invariants=True,
        )


def _csr(one: reader.Stored) -> tuple[Array, Array]:
    """Return column indices and row starts, int32, of a masked tensor seen as (first dimension, the rest)."""
    mask = np.asarray(one.mask).reshape(one.shape[0] if one.shape else 1, -1)
    starts = np.concatenate([[0], np.cumsum(mask.sum(1))]).astype(np.int32)
    return np.nonzero(mask)[1].astype(np.int32), starts


TARGETS: Final[Mapping[str, Callable[[Path, reader.Packed], bytes]]] = {
    "safetensors": _safetensors,
    "npz-csr": _npz,
    "torch-csr": _torch,
}
