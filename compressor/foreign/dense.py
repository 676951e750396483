"""Plain safetensors into a packed file, single or sharded, tensor by tensor and without torch."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compressor import plain
from compressor.errors import InputError, unknown
from compressor.files import check_out, is_folder, kind_of
from compressor.packed import Sizes, reader, write
from compressor.packed.item import SIGNS, Given
from compressor.packed.reader import NEVER_SPARSE, Array, pieces
from compressor.plain import Plain


def is_plain(path: Path) -> bool:
    """Whether a path looks like safetensors of other people's: a folder, an index.json, or a file that is not packed.

    Raises InputError if it cannot be read.
    """
    if is_folder(path) or path.suffix == ".json":
        return True
    return kind_of(path) == "safetensors" and not reader.is_packed(path)


def pack_plain(
    path: Path,
    out: Path,
    packing: Mapping[str, Any],
    *,
    mask: Path | None = None,
    from_zeros: bool = False,
    base: Path | None = None,
) -> Sizes:
    """Pack a safetensors file, an index.json or a folder; prefixes that all names share are dropped.

    mask: a safetensors file of BOOL tensors; from_zeros: every floating tensor of two or more dimensions is masked,
    and what is 0 in it pruned (as `compressor.find_mask` does). packing: options of `compressor.pack`, whose errors
    are raised, and InputError (cannot be read) or FormatError (damaged) for either file.
    """
    found = plain.tensors(path)
    check_out(out, plain.file_of(path), *{one.path for one in found.values()})
    tensors = named(found)
    if mask is not None:
        masks = _masks(mask, tensors)
        tensors = {n: _under(one, masks[n]) if n in masks else one for n, one in tensors.items()}
    elif from_zeros:
        tensors = {name: _nonzero(one) for name, one in tensors.items()}
    else:
        raise InputError(
            f"{path}: which weights are pruned? give --mask FILE, or --mask-from-zeros if its zeros are"
        )
    return write(out, list(tensors.values()), base=base, **packing)


def named(tensors: Mapping[str, Plain]) -> dict[str, Given]:
    """Return the tensors as they are, without the prefixes of DataParallel and torch.compile."""
    names = plain.short_names(list(tensors))
    return {name: given(name, one) for name, one in zip(names, tensors.values(), strict=True)}


def given(name: str, one: Plain) -> Given:
    """Return a tensor of a safetensors file under a name, without a mask."""
    return Given(name, one.dtype, one.shape, False, partial(_whole, one))


def _whole(one: Plain) -> tuple[Array, None]:
    return plain.load(one), None


def _masks(path: Path, tensors: Mapping[str, Given]) -> dict[str, Plain]:
    """Return the masks in a file, each of which fits a tensor."""
    masks = plain.tensors(path)
    for name, one in masks.items():
        if one.dtype != "BOOL":
            raise InputError(f'{path}: mask "{name}": not a bool tensor; True means kept')
        if name not in tensors:
            raise unknown("tensor in the mask", name, tensors)
        if one.shape != tensors[name].shape:
            shapes = f"{list(one.shape)}, the tensor {list(tensors[name].shape)}"
            raise InputError(f'the mask of "{name}" has shape {shapes}; give the mask of this network')
    return masks


def _under(one: Given, mask: Plain) -> Given:
    def load() -> tuple[Array, Array]:
        return one.load()[0], plain.load(mask).view(bool)

    return replace(one, sparse=True, load=load)


def _nonzero(one: Given) -> Given:
    floating = one.dtype.startswith(("F", "BF")) and one.dtype not in NEVER_SPARSE
    if not floating or len(one.shape) < 2:
        return one

    def load() -> tuple[Array, Array]:
        bits = one.load()[0]
        return bits, _numbers(bits, one.dtype)

    return replace(one, sparse=True, load=load)


def _numbers(bits: Array, dtype: str) -> Array:
    """Return which elements are neither +0.0 nor -0.0; in blocks, as a copy of the tensor is too much."""
    magnitude = bits.dtype.type(~SIGNS.get(dtype, 0) & (1 << 8 * bits.itemsize) - 1)
    found = np.empty(len(bits), bool)
    for part in pieces(len(bits)):
        np.not_equal(bits[part] & magnitude, 0, out=found[part])
    return found
