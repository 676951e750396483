"""Checkpoints of torch that hold sparse tensors (CSR, COO) or pruned ones; nothing in them is ever run.

CSR beyond two dimensions: `{"csr": tensor, "shape": [...]}`, as `compressor unpack --to torch-csr` writes it.
"""

import math
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from compressor.errors import FormatError, InputError
from compressor.files import reading
from compressor.foreign import csr
from compressor.models import checkpoint
from compressor.packed import source
from compressor.packed.item import Given
from compressor.packed.reader import MAX_RANK, Array, memory_limit
from compressor.weights import aliases

ALONE: Final = "weight"
WRAPPED: Final = frozenset(("csr", "shape"))


def givens(path: Path, lone: str) -> tuple[dict[str, Given], bool]:
    """Return the tensors of a checkpoint by name, and whether any was sparse.

    lone: the name of a tensor that is all there is; "weight" unless it is given. Raises InputError (no checkpoint or
    damaged, would run code, holds what cannot be packed) or FormatError (sparse indices that are none).
    """
    _check_zip(path)
    shapes: dict[int, list[int]] = {}
    inside = _unwrapped(checkpoint.unpickled(path), shapes)
    if isinstance(inside, torch.Tensor):
        inside = {lone or ALONE: inside}
    elif lone:
        raise InputError(f"{path}: its tensors have names; leave out --name")
    found = checkpoint.dictionary(path, inside)
    tensors = checkpoint.plain_names(found)
    same = aliases({name: one for name, one in tensors.items() if one.layout is torch.strided})
    limit = memory_limit(path.stat().st_size)
    given: dict[str, Given] = {}
    for tensor, name in zip(found.values(), tensors, strict=True):
        shape = tuple(shapes.get(id(tensor), tensor.shape))
        _check(path, name, tensor, shape)
        limit -= math.prod(shape) * (tensor.element_size() + 1)
        if limit < 0:
            raise InputError(f'{path}: "{name}" claims more memory than a file of this size may')
        load = partial(_load, path, name, tensor, shape)
        sparse = tensor.layout is not torch.strided
        given[name] = Given(name, source.NAMES[tensor.dtype], shape, sparse, load, same.get(name, ""))
    return given, any(one.sparse for one in given.values())


def _check_zip(path: Path) -> None:
    """Refuse a checkpoint whose records are deflated: torch stores them as they are, and a bomb would not."""
    with reading(path) as file:
        if file.read(2) != b"PK":
            return
        try:
            with zipfile.ZipFile(file) as archive:
                inflated = any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist())
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise FormatError(f"{path}: damaged, not whole as a torch checkpoint ({error})") from None
    if inflated:
        raise FormatError(f"{path}: holds compressed records, which torch never writes")


def _unwrapped(found: Any, shapes: dict[int, list[int]], depth: int = 0) -> Any:
    """Return what a checkpoint holds with a CSR tensor in place of each {"csr", "shape"}; note the shapes by its id."""
    if not isinstance(found, Mapping) or depth > 3:
        return found
    if found.keys() == WRAPPED and isinstance(found["csr"], torch.Tensor) and type(found["shape"]) is list:
        shapes[id(found["csr"])] = found["shape"]
        return found["csr"]
    return {key: _unwrapped(one, shapes, depth + 1) for key, one in found.items()}


def _check(path: Path, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Refuse what has no plain values: other sparse layouts, dense dimensions, batches, a shape that does not fit."""
    known = tensor.layout in (torch.strided, torch.sparse_csr, torch.sparse_coo)
    if not known or tensor.is_meta or tensor.is_quantized or tensor.dtype not in source.NAMES:
        what = f"{str(tensor.layout).removeprefix('torch.')} of {tensor.dtype}"
        raise InputError(
            f'{path}: "{name}" is {what}; packed are strided, CSR and COO tensors of a plain dtype'
        )
    if tensor.layout is torch.strided:
        return
    if tensor.dense_dim() or (tensor.layout is torch.sparse_csr and tensor.dim() != 2):
        raise InputError(f'{path}: "{name}" has dense or batch dimensions; give one sparse value a place')
    sizes = all(type(size) is int and size >= 0 for size in shape) and len(shape) <= MAX_RANK
    if not sizes or (shape != tuple(tensor.shape) and csr.flat(shape) != tuple(tensor.shape)):
        raise InputError(
            f'{path}: "{name}" has the shape {list(shape)[:MAX_RANK]}, which its CSR does not fit'
        )


def _load(path: Path, name: str, tensor: torch.Tensor, shape: tuple[int, ...]) -> tuple[Array, Array | None]:
    if tensor.layout is torch.strided:
        return source.bits(tensor), None
    try:
        if tensor.layout is torch.sparse_csr:
            starts, places = tensor.crow_indices().numpy(), tensor.col_indices().numpy()
            return csr.spread(name, *csr.flat(shape), starts, places, source.bits(tensor.values()))
        return _coo(path, name, tensor)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _coo(path: Path, name: str, tensor: torch.Tensor) -> tuple[Array, Array]:
    """Return bits and mask; values at the same place are added up, as torch does when it looks at them."""
    where = _places(tensor)
    if len(np.unique(where)) < len(where):
        try:
            tensor = tensor.coalesce()
        except RuntimeError as error:  # torch cannot add every dtype
            raise InputError(f'{path}: "{name}" has several values at one place ({error})') from None
        where = _places(tensor)
    order = np.argsort(where, kind="stable")
    return csr.scatter(name, tensor.numel(), where[order], source.bits(tensor._values())[order])


def _places(tensor: torch.Tensor) -> Array:
    """Return the flat place of every value; torch.load has checked that they are inside."""
    indices = tensor._indices().numpy()
    strides = [math.prod(tensor.shape[at + 1 :]) for at in range(tensor.dim())]
    return np.asarray(np.array(strides, np.int64) @ indices)
