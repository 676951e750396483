"""From a module or state dict to the tensors to be stored, and back. The only file here with torch."""

from collections.abc import Mapping
from functools import partial
from typing import Final

import numpy as np
import torch

from compressor.errors import InputError, unknown
from compressor.packed.item import Given
from compressor.packed.reader import DTYPES, Array, Stored
from compressor.weights import aliases

# safetensors name -> torch dtype. The sub-byte types are absent: torch can store F4 but not compute with it.
TORCH: Final = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
NAMES: Final = {dtype: name for name, dtype in TORCH.items()}
# an integer type of the same width that numpy and torch both have, to move the bits through
CARRIERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def state(source: torch.nn.Module | Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return name -> tensor in order. Raises InputError for all but ordinary tensors of a known dtype."""
    found = dict(source.state_dict() if isinstance(source, torch.nn.Module) else source)
    for name, tensor in found.items():
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f'"{name}" is a {type(tensor).__name__}; only tensors can be packed')
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            raise InputError(f'tensor "{name}" has no plain dense values; pack ordinary tensors')
        if tensor.dtype not in NAMES:
            raise InputError(f'tensor "{name}" has dtype {tensor.dtype}; packed are {", ".join(TORCH)}')
    return found


def given(
    source: torch.nn.Module | Mapping[str, torch.Tensor], mask: Mapping[str, torch.Tensor] | None
) -> list[Given]:
    """Return what is to be stored, in order. Raises InputError for what cannot be, and a mask that does not fit."""
    tensors = state(source)
    same = aliases(tensors)
    masks: dict[str, Array] = {}
    for name, one in (mask or {}).items():
        if name not in tensors:
            raise unknown("tensor in the mask", name, tensors)
        flags = _mask(name, one, tensors[name])
        earlier = masks.setdefault(same.get(name, name), flags)
        if not np.array_equal(earlier, flags):
            raise InputError(f'the mask of "{name}" differs from that of "{same[name]}", the same tensor')

    def load(name: str) -> tuple[Array, Array | None]:
        return bits(tensors[name]), masks.get(name)

    return [
        Given(
            name, NAMES[one.dtype], tuple(one.shape), name in masks, partial(load, name), same.get(name, "")
        )
        for name, one in tensors.items()
    ]


def _mask(name: str, mask: torch.Tensor, tensor: torch.Tensor) -> Array:
    if not isinstance(mask, torch.Tensor) or mask.dtype is not torch.bool:
        kind = mask.dtype if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise InputError(f'the mask of "{name}" is {kind}; give a bool tensor, True for kept (mask != 0)')
    if mask.shape != tensor.shape:
        shapes = f"{list(mask.shape)}, the tensor {list(tensor.shape)}"
        raise InputError(f'the mask of "{name}" has shape {shapes}; give the mask of this network')
    return bits(mask).view(bool)


def bits(tensor: torch.Tensor) -> Array:
    """Return the elements in row-major order as unsigned integers."""
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    size = plain.element_size()
    found: Array = plain.view(CARRIERS[size]).numpy().view(f"<u{size}")
    return (found != 0).view(np.uint8) if tensor.dtype is torch.bool else found


def tensor(stored: Stored) -> torch.Tensor:
    """Return the stored tensor in its own dtype; it owns its memory."""
    size = np.dtype(DTYPES[stored.dtype]).itemsize
    carrier = stored.data.reshape(-1).view(f"<i{size}" if size > 1 else "u1")
    return torch.from_numpy(carrier).view(TORCH[stored.dtype]).reshape(stored.shape)
