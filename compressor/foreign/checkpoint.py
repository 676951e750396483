"""Checkpoints of torch that hold sparse tensors (CSR, COO) or pruned ones; nothing in them is ever run.

CSR beyond two dimensions: `{"csr": tensor, "shape": [...]}`, as `compressor unpack --to torch-csr` writes it.
"""

import math
import zipfile
from collections.abc import Callable, Mapping
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
    held, alone = checkpoint.unpickled(path), lone or ALONE
    inside = _unwrapped(held, alone, lambda _, one: one["csr"])
    shaped = _unwrapped(held, alone, partial(_shaped, path))
    if isinstance(inside, torch.Tensor):
        inside, shaped = {alone: inside}, {alone: shaped}
    elif lone:
        raise InputError(f"{path}: its tensors have names; leave out --name")
    found = checkpoint.dictionary(path, inside)
    tensors = checkpoint.plain_names(found)
    same = aliases({name: one for name, one in tensors.items() if one.layout is torch.strided})
    limit = memory_limit(path.stat().st_size)
    given: dict[str, Given] = {}
    shapes = [tuple(one.shape) for one in checkpoint.dictionary(path, shaped).values()]
    for name, tensor, shape in zip(tensors, found.values(), shapes, strict=True):
        _check(path, name, tensor)
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


def _unwrapped(
    found: Any, name: str, tensor: Callable[[str, Mapping[str, Any]], torch.Tensor], depth: int = 0
) -> Any:
    """Return what a checkpoint holds with tensor(name, wrapper) in place of each {"csr", "shape"}."""
    if not isinstance(found, Mapping) or depth > 3:
        return found
    if (
        found.keys() == WRAPPED
        and isinstance(found["csr"], torch.Tensor)
        and isinstance(found["shape"], list | tuple)
    ):
        return tensor(name, found)
    return {key: _unwrapped(one, str(key), tensor, depth + 1) for key, one in found.items()}


def _shaped(path: Path, name: str, wrapper: Mapping[str, Any]) -> torch.Tensor:
    """Return a tensor without values of the shape that goes with a CSR tensor, once the two fit. Raises InputError."""
    tensor, shape = wrapper["csr"], wrapper["shape"]
    sizes = len(shape) <= MAX_RANK and all(type(size) is int and size >= 0 for size in shape)
    small = sizes and math.prod(max(size, 1) for size in shape) < 1 << 48  # torch cannot hold every product
    if tensor.layout is not torch.sparse_csr or not small or csr.flat(shape) != tuple(tensor.shape):
        layout = str(tensor.layout).removeprefix("torch.")
        raise InputError(
            f'{path}: "{name}" has the shape {list(shape)[:MAX_RANK]}, which its CSR does not fit '
            f"({layout} {list(tensor.shape)})"
        )
    return torch.empty(shape, device="meta")


def _check(path: Path, name: str, tensor: torch.Tensor) -> None:
    """Refuse what has no plain values: other sparse layouts, dense dimensions, batches."""
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
