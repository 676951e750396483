"""The packed file: `pack` writes a network, `unpack` and `load` bring it back, `sizes` says what it weighs.

Nothing here imports torch before it is needed; reading and sizes do without it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import InputError, unknown
from compressor.packed import reader, sizing
from compressor.packed.sizing import FORMATS, Sizes, TensorSize
from compressor.packed.writing import BIASES, VALUES, write

if TYPE_CHECKING:
    import torch

__all__ = [
    "BIASES",
    "FORMATS",
    "VALUES",
    "Sizes",
    "TensorSize",
    "load",
    "pack",
    "sizes",
    "unpack",
    "unpack_mask",
    "write",
]


def pack(
    source: "torch.nn.Module | Mapping[str, torch.Tensor]",
    path: Path | str,
    *,
    mask: "Mapping[str, torch.Tensor] | None" = None,
    format: str = "auto",  # noqa: A002
    values: str | None = None,
    biases: str | None = None,
    kind: str = "network",
    base: Path | str | None = None,
) -> Sizes:
    """Write a module or state dict as a packed file and return what it weighs.

    mask: state-dict key -> bool tensor of the same shape, True = kept; only these tensors are stored
    sparse, and no mask is ever guessed from zeros. format: "auto" (per tensor the smallest that keeps every
    bit) or one of FORMATS for all masked tensors. values: None (bit for bit), "float16" or "bfloat16"
    (float32 and float64 tensors are rounded; two-level tensors stay exact under "auto" and "asni2"), or "int8" (masked
    float32 and float64 tensors: code times one scale per row, that is per output channel). biases: "float16" or
    "bfloat16" for what has no mask, whatever `values` says. kind: "network" or "start". -0.0 at a pruned place counts
    as zero and is stored as +0.0. base: a packed network; of tensors whose kept weights are the base's, bit for bit,
    only the mask is stored, whatever the format, and the file can be read with that base only.
    Raises InputError: a mask that does not fit, a non-zero at a pruned place, a tensor that the format
    cannot store, a base that shares no kept weight; FormatError: a damaged base; HostError: the file cannot be
    written.
    """
    from compressor.packed import source as _source

    given = _source.given(source, mask)
    return write(path, given, format=format, values=values, biases=biases, kind=kind, base=base)


def unpack(path: Path | str, *, base: Path | str | None = None) -> "dict[str, torch.Tensor]":
    """Return the state dict, bit for bit; aliases are the same tensor. base: what a task file was packed with.

    Raises FormatError, and InputError if it cannot be read or a base is missing, another or not needed.
    """
    from compressor.packed import source as _source

    found: dict[str, torch.Tensor] = {}
    for name, stored in reader.parse(path, base).tensors.items():
        found[name] = found[stored.alias_of] if stored.alias_of else _source.tensor(stored)
    return found


def unpack_mask(path: Path | str, *, base: Path | str | None = None) -> "dict[str, torch.Tensor]":
    """Return the bool masks (True = kept) of the tensors stored under one. base and errors: as for `unpack`."""
    import torch

    packed = reader.parse(path, base).tensors
    return {name: torch.from_numpy(one.mask) for name, one in packed.items() if one.role == "sparse"}


def load(module: "torch.nn.Module", path: Path | str, *, base: Path | str | None = None) -> None:
    """Load a packed network into a module, in place; names and shapes must be the module's. base: as for `unpack`.

    Raises FormatError, and InputError if it does not fit or is a start (for compressor.load_start).
    """
    from compressor.packed import source as _source

    packed = reader.parse(path, base)
    if packed.kind != "network":
        raise InputError(f"{path}: is the start of a training; load it with compressor.load_start")
    tensors = {name: _source.tensor(stored) for name, stored in packed.tensors.items()}
    wrong = _misfit(module.state_dict(), tensors)
    if wrong:
        raise InputError(f"{path}: does not fit this network ({wrong})")
    module.load_state_dict(tensors)


def _misfit(own: "Mapping[str, torch.Tensor]", given: "Mapping[str, torch.Tensor]") -> str:
    for name in own:
        if name not in given:
            return f'it has no tensor "{name}"'
    for name, tensor in given.items():
        if name not in own:
            return str(unknown("tensor", name, own))
        if tensor.shape != own[name].shape:
            return f'"{name}" is {list(tensor.shape)} in the file, {list(own[name].shape)} in the network'
    return ""


def sizes(path: Path | str, *, base: Path | str | None = None) -> Sizes:
    """Return what a packed file weighs, measured from its bytes; of a task file also without its base.

    Raises FormatError, InputError.
    """
    found: list[sizing.Done] = []
    bits: dict[str, reader.Array] = {}
    with reader.opened(path, base, partly=True) as (head, tensors):
        plain = [entry for entry in head.entries if entry.role != "alias"]
        partly = base is None and bool(head.base)
        by_name = {entry.name: entry for entry in plain}
        small = not partly and sizing.squeezable(plain)
        for name, stored in tensors:
            if stored.alias_of is None:
                found.append(sizing.read(by_name[name], stored, whole=not partly))
                if small:
                    bits[name] = stored.data.reshape(-1)
    gzip = sizing.gzip(plain, lambda name: iter([bits[name]])) if small else None
    measured = sizing.measure(found, head.entries, head.kind, gzip)
    # A file of an older version spends other bytes on its header; what counts is what the file holds.
    each = tuple(
        replace(one, bytes=entry.bytes) for one, entry in zip(measured.tensors, head.entries, strict=True)
    )
    file = Path(path).stat().st_size
    return replace(measured, file=file, tensors=each, max_error=head.max_error, base=head.base)
