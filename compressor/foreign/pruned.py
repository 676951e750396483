"""Masks of torch.nn.utils.prune: `X_orig` and `X_mask` are the weights before pruning and the mask of one tensor X.

Source: torch/nn/utils/prune.py, BasePruningMethod.apply: weight = weight_orig * weight_mask at every forward pass.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from compressor.errors import InputError
from compressor.packed.item import SIGNS, Given
from compressor.packed.reader import NEVER_SPARSE, Array

ORIG: Final = "_orig"
MASK: Final = "_mask"
# exponent bits: a number with all of them set is an infinity or a NaN
HUGE: Final = {
    "F8_E5M2": 0x7C,
    "F8_E4M3": 0x7F,
    "F16": 0x7C00,
    "BF16": 0x7F80,
    "F32": 0x7F800000,
    "F64": 0x7FF << 52,
}
ONES: Final = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 1, "I16": 1, "U32": 1, "I32": 1, "U64": 1, "I64": 1, "F16": 0x3C00,
    "BF16": 0x3F80, "F32": 0x3F800000, "F64": 0x3FF << 52,
}  # fmt: skip


def is_pruned(names: Iterable[str]) -> bool:
    """Whether any tensor is there as weights and mask."""
    known = set(names)
    return any(name.removesuffix(ORIG) + MASK in known for name in known if name.endswith(ORIG))


def joined(path: Path, tensors: Mapping[str, Given]) -> list[Given]:
    """Return the tensors, every X_orig and X_mask as one masked X. Raises InputError for a pair that does not fit."""
    masks = {
        name: tensors[mask]
        for name in tensors
        if name.endswith(ORIG) and (mask := name.removesuffix(ORIG) + MASK) in tensors
    }
    paired = {*masks, *(mask.name for mask in masks.values())}
    found = []
    for name, one in tensors.items():
        if name in masks:
            found.append(_joined(path, tensors, one, masks[name]))
        elif name not in paired:
            found.append(replace(one, alias_of="") if one.alias_of in paired else one)
    return found


def _joined(path: Path, tensors: Mapping[str, Given], one: Given, mask: Given) -> Given:
    name = one.name.removesuffix(ORIG)
    if name in tensors:
        raise InputError(f'{path}: has "{name}" twice, as it is and as {one.name} with its mask')
    if mask.shape != one.shape:
        raise InputError(
            f'{path}: "{mask.name}" has shape {list(mask.shape)}, "{one.name}" {list(one.shape)}'
        )
    if mask.dtype not in ONES or one.dtype in NEVER_SPARSE or mask.sparse or one.sparse:
        what = f'"{one.name}" is {one.dtype}, its mask {mask.dtype}'
        raise InputError(f"{path}: {what}; that is no mask of torch")
    return replace(one, name=name, sparse=True, load=partial(_product, path, one, mask), alias_of="")


def _product(path: Path, one: Given, mask: Given) -> tuple[Array, Array]:
    """Return the weights under their mask: orig where it is 1, +0.0 where it is 0."""
    flags = mask.load()[0]
    kept = flags == ONES[mask.dtype]
    if not (kept | (flags & ~flags.dtype.type(SIGNS.get(mask.dtype, 0)) == 0)).all():
        raise InputError(f'{path}: "{mask.name}" holds other numbers than 0 and 1, so it is no mask')
    bits = one.load()[0]
    huge = bits.dtype.type(HUGE.get(one.dtype, 0))
    if huge and ((bits & huge == huge) & ~kept).any():
        raise InputError(
            f'{path}: "{one.name}" holds NaN or infinity where its mask prunes; torch computes NaN there'
        )
    return np.where(kept, bits, bits.dtype.type(0)), kept
