"""Which sparse tensors become compact, in which groups, by which code: what is smaller, by counting."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from onnx import TensorProto, helper

from exporters.chains import Array, Chain, Weight
from exporters.nodes import build
from exporters.positions import Code, cheapest

# Above, one chain costs load time and memory (25 M weights: 2 s and 830 MB, instead of 0.4 s and 370 MB).
ONE_CHAIN: Final = 2**20
# Densities above which a bitmask is smaller than a gap code (4 bits per weight and more).
BITMASK_ABOVE: Final = 0.25
CHAIN_BYTES: Final = 500  # nodes and constants of one more chain, measured: 340 to 680
COMPACT_TYPES: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def weight(name: str, dtype: int, shape: tuple[int, ...], bits: Array, mask: Array) -> Weight:
    """Return the record of a sparse tensor; `bits` and `mask` are flat."""
    return Weight(name, dtype, shape, bits, mask, _levels(bits[mask], dtype))


def chains(weights: Sequence[Weight]) -> list[Chain]:
    """Return the chains for those weights that become smaller by them; the others are to stay dense.

    The order of `weights` decides all others, so that the bytes are reproducible.
    """
    made: list[Chain] = []
    for group in _groups([_plain(one, weights) for one in weights]):
        for part in _split(group):
            found = _cheapest(part)
            if found is None:
                continue
            chain = build(f"/{len(made)}/", part, found[1])
            if chain.size < sum(one.bits.nbytes for one in part):
                made.append(chain)
    return made


def _plain(one: Weight, others: Sequence[Weight]) -> Weight:
    """In a network of float values, let a tensor of one or two kept weights share its neighbours' chain."""
    few = int(one.mask.sum()) <= 2
    if few and any(other.levels is None and other.dtype == one.dtype for other in others):
        return replace(one, levels=None)
    return one


def _groups(weights: Sequence[Weight]) -> list[list[Weight]]:
    """Put small weights of one kind together, ONE_CHAIN in a group; leave out what is smaller dense."""
    groups: list[tuple[tuple[int, bool], list[Weight]]] = []
    for one in weights:
        if one.dtype not in COMPACT_TYPES or not one.shape:
            continue
        found = _cheapest([one])
        if found is None or found[0] >= 8 * one.bits.nbytes:
            continue
        kind = (one.dtype, one.levels is not None)
        for other, group in groups:
            if other == kind and sum(member.bits.size for member in group) + one.bits.size <= ONE_CHAIN:
                group.append(one)
                break
        else:
            groups.append((kind, [one]))
    return [group for _, group in groups]


def _split(group: list[Weight]) -> list[list[Weight]]:
    """Give the densely kept tensors of a group a bitmask of their own where that pays for its nodes."""
    dense = [one for one in group if one.mask.mean() > BITMASK_ABOVE]
    sparse = [one for one in group if one.mask.mean() <= BITMASK_ABOVE]
    if not dense or not sparse:
        return [group]
    one, other, both = _cheapest(sparse), _cheapest(dense), _cheapest(group)
    if one and other and both and one[0] + other[0] + 8 * CHAIN_BYTES >= both[0]:
        return [group]
    return [sparse, dense]


def _cheapest(group: list[Weight]) -> tuple[int, Code] | None:
    """Return (bits, code) for all tensors of a group, one behind the other."""
    mask = np.concatenate([one.mask for one in group])
    bits = 8 * group[0].bits.itemsize
    return cheapest(np.flatnonzero(mask), mask.size, bits, group[0].levels is not None)


def _levels(kept: Array, dtype: int) -> Array | None:
    """Return the bits of (low, high) if the kept weights have no third value."""
    if not len(kept):
        return np.zeros(2, kept.dtype)
    others = kept[kept != kept[0]]
    if len(others) and bool((others != others[0]).any()):
        return None
    pair = np.array([kept[0], others[0] if len(others) else kept[0]], kept.dtype)
    floats = pair.view(helper.tensor_dtype_to_np_dtype(dtype))
    return pair[np.argsort(floats, kind="stable")]
