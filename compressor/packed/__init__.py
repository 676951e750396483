"""The packed file: `pack` writes a network, `unpack` and `load` bring it back, `sizes` says what it weighs.

Nothing here imports torch before it is needed; reading and sizes do without it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.errors import InputError, unknown
from compressor.packed import asni2, container, reader
from compressor.packed.base import in_base
from compressor.packed.item import Item, lower
from compressor.packed.sizing import FORMATS, WRITERS, Sizes, TensorSize, choose, measure, of_packed

if TYPE_CHECKING:
    import torch

__all__ = ["FORMATS", "Sizes", "TensorSize", "load", "pack", "sizes", "unpack", "unpack_mask"]

VALUES = {"float16": "F16", "bfloat16": "BF16"}


def pack(
    source: "torch.nn.Module | Mapping[str, torch.Tensor]",
    path: Path | str,
    *,
    mask: "Mapping[str, torch.Tensor] | None" = None,
    format: str = "auto",  # noqa: A002
    values: str | None = None,
    kind: str = "network",
    base: Path | str | None = None,
) -> Sizes:
    """Write a module or state dict as a packed file and return what it weighs.

    mask: state-dict key -> bool tensor of the same shape, True = kept; only these tensors are stored
    sparse, and no mask is ever guessed from zeros. format: "auto" (per tensor the smallest that keeps every
    bit) or one of FORMATS for all masked tensors. values: None (bit for bit), "float16" or "bfloat16"
    (float32 and float64 tensors are rounded; two-level tensors stay exact under "auto" and "asni2"). kind:
    "network" or "start". -0.0 at a pruned place counts as zero and is stored as +0.0. base: a packed network; of
    tensors whose kept weights are the base's, bit for bit, only the mask is stored, whatever the format, and the file
    can be read with that base only.
    Raises InputError: a mask that does not fit, a non-zero at a pruned place, a tensor that the format
    cannot store, a base that shares no kept weight; FormatError: a damaged base; HostError: the file cannot be
    written.
    """
    from compressor.packed import source as _source
    from compressor.weights import aliases

    if format != "auto" and format not in FORMATS:
        raise unknown("format", format, ["auto", *FORMATS])
    if values is not None and values not in VALUES:
        raise unknown("values", values, VALUES)
    if kind not in reader.KINDS:
        raise unknown("kind", kind, reader.KINDS)
    tensors = _source.state(source)
    same = aliases(tensors)
    items = _source.items(tensors, same, mask)
    items, sha256 = (items, "") if base is None else _from_base(items, Path(base), kind)
    if values is not None:
        items = [_lowered(item, format, VALUES[values]) for item in items]
    chosen = {item.name: choose(item, format) for item in items}
    entries = [
        replace(chosen[same[name]][0], name=name, role="alias", alias_of=same[name])
        if name in same
        else chosen[name][0]
        for name in tensors
    ]
    measured = measure(items, entries, {name: why for name, (_, why) in chosen.items()}, kind)
    container.check_limits(entries, measured.file)
    start = container.head(entries, kind, measured.max_error, bytes.fromhex(sha256))
    sections = (WRITERS[chosen[item.name][0].format].sections(item, chosen[item.name][0]) for item in items)
    container.write(path, start, sections)
    return replace(measured, base=sha256)


def _from_base(items: list[Item], path: Path, kind: str) -> tuple[list[Item], str]:
    """Return the tensors, those that the base has as tensors that are stored from it, and its SHA-256."""
    based = reader.read(path)
    if "start" in (kind, based.kind):
        raise InputError(f"{path}: a base and what is made from it are networks, not starts of a training")
    found = [in_base(item, based) for item in items]
    if not any(item.values == "base" and item.mask is not None and item.kept for item in found):
        raise InputError(
            f"{path}: no masked tensor has this file's weights, bit for bit; give the network it was masked from"
        )
    return found, based.sha256


def _lowered(item: Item, format: str, values: str) -> Item:  # noqa: A002
    """Round a tensor, unless it is the base's, or two-level and may be stored as such."""
    if item.values == "base":
        return item
    if format in ("auto", "asni2") and not isinstance(asni2.levels(item), str):
        return item
    return lower(item, values)


def unpack(path: Path | str, *, base: Path | str | None = None) -> "dict[str, torch.Tensor]":
    """Return the state dict, bit for bit; aliases are the same tensor. base: what a task file was packed with.

    Raises FormatError, and InputError if it cannot be read or a base is missing, another or not needed.
    """
    from compressor.packed import source as _source

    found: dict[str, torch.Tensor] = {}
    for name, stored in reader.read(path, base).tensors.items():
        found[name] = found[stored.alias_of] if stored.alias_of else _source.tensor(stored)
    return found


def unpack_mask(path: Path | str, *, base: Path | str | None = None) -> "dict[str, torch.Tensor]":
    """Return the bool masks (True = kept) of the tensors stored under one. base and errors: as for `unpack`."""
    import torch

    packed = reader.read(path, base).tensors
    return {name: torch.from_numpy(one.mask) for name, one in packed.items() if one.role == "sparse"}


def load(module: "torch.nn.Module", path: Path | str, *, base: Path | str | None = None) -> None:
    """Load a packed network into a module, in place; names and shapes must be the module's. base: as for `unpack`.

    Raises FormatError, and InputError if it does not fit or is a start (for compressor.load_start).
    """
    from compressor.packed import source as _source

    packed = reader.read(path, base)
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
    packed = reader.look(path) if base is None else reader.read(path, base)
    whole = base is not None or not packed.base
    return of_packed(packed, Path(path).stat().st_size, whole=whole)
