"""Random and fixed tensors for the tests of the packed file."""

import numpy as np
import torch
from hypothesis import strategies as st

from compressor.packed.item import SIGNS
from compressor.packed.reader import DTYPES, NEVER_SPARSE
from compressor.packed.source import CARRIERS, TORCH

FLOATS = ("F16", "BF16", "F32", "F64")
SHAPES = st.lists(st.integers(0, 6), min_size=0, max_size=6).map(tuple)
DENSITIES = st.sampled_from([0.0, "one", 0.02, 0.1, 0.5, 0.99, 1.0])


def tensor_of(bits: np.ndarray, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """bits: unsigned integers of the dtype's width."""
    size = np.dtype(DTYPES[dtype]).itemsize
    signed = bits.astype(f"<u{size}").view(f"<i{size}" if size > 1 else "u1")
    return torch.from_numpy(signed.copy()).view(TORCH[dtype]).reshape(shape)


def bits_of(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor; NaNs compare too."""
    return tensor.contiguous().reshape(-1).view(CARRIERS[tensor.element_size()]).numpy().tobytes()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Same names in the same order, dtypes, shapes and bits."""
    return list(one) == list(other) and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and bits_of(one[name]) == bits_of(other[name])
        for name in one
    )


def kept_zeros(tensor: torch.Tensor, mask: torch.Tensor) -> bool:
    """Whether a kept element is all zero bits."""
    bits = tensor.reshape(-1).view(CARRIERS[tensor.element_size()])
    return bool(((bits == 0) & mask.reshape(-1)).any())


@st.composite
def masked(draw, dtypes=tuple(d for d in DTYPES if d not in NEVER_SPARSE), values="any"):
    """(tensor, mask): any bit patterns under the mask, +0.0 beside it."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(SHAPES)
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = int(np.prod(shape, dtype=np.int64))
    density = draw(DENSITIES)
    survivor = generator.integers(n) if n else 0
    mask = np.arange(n) == survivor if density == "one" else generator.random(n) < density
    size = np.dtype(DTYPES[dtype]).itemsize
    if values == "levels":
        pool = generator.choice(np.array([-2.5, -1.0, -0.125, 0.5, 3.0]), 2, replace=False)
        bits = as_bits(generator.choice(pool, n), dtype)
    else:
        bits = generator.integers(0, 2 ** (8 * size) - 1, n, dtype=np.uint64, endpoint=True)
        special = np.array([0, SIGNS.get(dtype, 0), 2 ** (8 * size) - 1, 1], np.uint64)
        bits = np.where(generator.random(n) < 0.3, generator.choice(special, n), bits)
    if dtype == "BOOL":
        bits = bits & 1
    bits = np.where(mask, bits, 0).astype(np.uint64)
    return tensor_of(bits, dtype, shape), torch.from_numpy(mask.reshape(shape))


def as_bits(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 numbers as the bits of a float dtype, all exact."""
    if dtype == "BF16":
        return values.astype("<f4").view("<u4") >> 16
    wide = np.dtype(DTYPES[dtype])
    return values.astype(wide).view(f"<u{wide.itemsize}")


def lenet(counts: tuple[int, int, int], *, two_level: bool = False):
    """(state, mask) of a LeNet-300-100 with these kept weights per layer; fixed."""
    generator = np.random.default_rng(0)
    state, mask = {}, {}
    for layer, (shape, kept) in enumerate(zip([(300, 784), (100, 300), (10, 100)], counts, strict=True), 1):
        n = shape[0] * shape[1]
        keep = np.zeros(n, bool)
        keep[generator.choice(n, kept, replace=False)] = True
        values = generator.standard_normal(n).astype(np.float32)
        if two_level:
            values = np.where(values > 0, np.float32(0.3), np.float32(-0.2))
        values[~keep] = 0
        state[f"fc{layer}.weight"] = torch.from_numpy(values.reshape(shape))
        state[f"fc{layer}.bias"] = torch.from_numpy(generator.standard_normal(shape[0]).astype(np.float32))
        mask[f"fc{layer}.weight"] = torch.from_numpy(keep.reshape(shape))
    return state, mask
