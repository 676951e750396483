"""Random and fixed tensors for the tests of the packed file."""

import numpy as np
import torch
from hypothesis import strategies as st

from compressor.packed.item import SIGNS
from compressor.packed.reader import DTYPES, NEVER_SPARSE
from compressor.packed.source import CARRIERS, TORCH

FLOATS = ("F16", "BF16", "F32", "F64")
FRACTIONS = {"F16": 10, "BF16": 7, "F32": 23, "F64": 52}
SHAPES = st.lists(st.integers(0, 6), max_size=6).map(tuple).filter(lambda shape: np.prod(shape) <= 1000)
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
        bits = np.where(generator.random(n) < 0.3, generator.choice(special_bits(dtype), n), bits)
    if dtype == "BOOL":
        bits = bits & 1
    bits = np.where(mask, bits, 0).astype(np.uint64)
    return tensor_of(bits, dtype, shape), torch.from_numpy(mask.reshape(shape))


def special_bits(dtype: str) -> np.ndarray:
    """0, -0.0, the smallest and the largest subnormal, infinity, NaNs with payloads, quiet and signalling."""
    size = np.dtype(DTYPES[dtype]).itemsize
    found = [0, SIGNS.get(dtype, 0), 2 ** (8 * size) - 1, 1]
    if dtype in FRACTIONS:
        fraction = FRACTIONS[dtype]
        infinite = 2 ** (8 * size - 1) - 2**fraction
        found += [2**fraction - 1, infinite, infinite + 2 ** (fraction - 1) + 1, infinite + 5]
    return np.array(found, np.uint64)


@st.composite
def layer_shapes(draw):
    """The shapes of one to three layers of which each may feed the next, or of one tensor of 0 to 5 dimensions."""
    most = draw(st.sampled_from([6, 6, 30]))
    a, b, c = (draw(st.integers(1, most)) for _ in range(3))
    wide = draw(st.integers(2, 6))
    kernel = draw(st.sampled_from([(), (1, 1), (3,), (2, 3), (3, 3), (2, 1, 2)]))
    any_shape = tuple(draw(st.lists(st.integers(0, 5), max_size=5)))
    return draw(
        st.sampled_from(
            [
                [any_shape[:4] if np.prod(any_shape) > 300 else any_shape],
                [(a, b), (c, a), (b, c)],
                [(a, wide**2), (b, a), (c, b)],
                [(a, wide**2), (b, a * 2)],
                [(a, 3, *kernel), (min(b, 9), a, *kernel), (3, min(b, 9) * 4)],
            ]
        )
    )


@st.composite
def layer_masks(draw):
    """Masks of such layers, as random as can be or with rows, columns and neighbours that differ or agree."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    found = []
    rows = np.ones(1)
    for shape in draw(layer_shapes()):
        chance = np.full(shape, draw(st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.9, 1.0])))
        if draw(st.booleans()) and len(shape) > 1:
            rows = np.resize(rows, shape[1])
            each = rows / rows.mean() if rows.any() else np.ones(shape[1])
            chance = (chance.T * (2 * generator.random(shape[0]) ** 2)).T
            chance *= (each * (1.5 + np.sin(np.arange(shape[1])))).reshape(-1, *[1] * (len(shape) - 2))
        mask = generator.random(shape) < chance
        if draw(st.booleans()) and len(shape) > 1 and mask.size:
            mask = np.array(sorted(mask.reshape(shape[0], -1).tolist(), reverse=True), bool).reshape(shape)
        if len(shape) > 1 and mask.size:
            rows = mask.reshape(shape[0], -1).mean(1)
        found.append(torch.from_numpy(np.asarray(mask)))
    return found


@st.composite
def networks(draw):
    """(state, mask): layers of one dtype or two levels, any bit patterns; a bias and an alias, perhaps."""
    masks = {f"fc{layer}.weight": one for layer, one in enumerate(draw(layer_masks()))}
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    state = {}
    always = draw(st.sampled_from(["", "", "levels", "levels", "F32"]))
    for name, mask in masks.items():
        kind = always or draw(st.sampled_from([each for each in DTYPES if each not in NEVER_SPARSE]))
        state[name] = under(mask, kind, generator)
        if draw(st.booleans()):
            state[name.replace("weight", "bias")] = under(torch.ones(5, dtype=torch.bool), "F32", generator)
    if draw(st.booleans()):
        state["tied"] = state["fc0.weight"]
    return state, masks


def under(mask: torch.Tensor, kind: str, generator: np.random.Generator) -> torch.Tensor:
    """A tensor under a mask; kind: a dtype, or levels."""
    dtype = "F32" if kind == "levels" else kind
    if kind == "levels":
        bits = as_bits(generator.choice([-0.75, 0.5], mask.numel()), "F32").astype(np.uint64)
    else:
        bits = generator.integers(
            0, 256 ** np.dtype(DTYPES[dtype]).itemsize - 1, mask.numel(), np.uint64, True
        )
        bits = np.where(
            generator.random(mask.numel()) < 0.3, generator.choice(special_bits(dtype), mask.numel()), bits
        )
    bits = (bits & 1 if dtype == "BOOL" else bits) * mask.reshape(-1).numpy()
    return tensor_of(bits, dtype, tuple(mask.shape))


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
