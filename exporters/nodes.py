"""Decode chains: the standard ONNX operators that rebuild sparse tensors when a session is made.

payload bits -> positions; values as they are, or sign bits -> Gather from [0, low, high]; both -> a flat row
of all weights -> Split -> Reshape -> the tensor under its state-dict key. Nothing is computed on floats, so
every bit survives, -0.0 included. Operators of opset 13 with static shapes only: onnxruntime folds the whole
chain, and run time is that of the dense file.

Never used, because some runtime does not fold it, refuses it or computes it wrongly: NonZero, Loop, Scan,
BitShift, BitwiseAnd, sparse initialisers, local functions, data-dependent shapes.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from exporters.chains import Array, Chain, Weight
from exporters.positions import Positions


def build(prefix: str, weights: Sequence[Weight], encoded: Positions) -> Chain:
    """Return the chain for `weights`, whose masks, one behind the other, are `encoded`."""
    chain = Chain(prefix, tuple(weight.name for weight in weights))
    total = sum(weight.bits.size for weight in weights)
    # without a kept weight there is no level either; the row of zeros is then as small
    signs = _signs(weights, encoded) if weights[0].levels is not None and encoded.slots.size else None
    index = _INDEX[encoded.code](chain, encoded, signs)
    values = _floats(chain, weights, encoded) if signs is None else _levels(chain, weights, encoded)
    if encoded.code == "bitmask":
        table = chain.op("Squeeze", [values, "/axis"], "table")
        row = chain.op("Gather", [table, index], "row")
    else:
        blank = _blank(chain, weights[0], total + encoded.tail)
        row = chain.op("ScatterElements", [blank, index, values], "row", axis=1)
    _share_out(chain, row, encoded.tail, weights)
    return chain


def _signs(weights: Sequence[Weight], encoded: Positions) -> npt.NDArray[np.bool_]:
    """Return the plane (1, slots) that says which kept weights have the high level."""
    high = [weight.bits[weight.mask] == weight.levels[1] for weight in weights if weight.levels is not None]
    plane = np.zeros((1, encoded.planes.shape[1]), np.bool_)
    plane[0, encoded.slots] = np.concatenate(high)
    return plane


def _unpack(chain: Chain, name: str, planes: npt.NDArray[np.bool_], output: str) -> str:
    """Return an int32 value (planes, slots) of zeros and ones: each byte looked up in the table of all bytes.

    Looked up because Div and Mod on every bit take onnxruntime ten times as long; one table serves the file.
    """
    stored = chain.constant(name, np.packbits(planes, axis=1, bitorder="little"))
    index = chain.op("Cast", [stored], name + "1", to=TensorProto.INT32)
    chain.use_table()
    looked_up = chain.op("Gather", ["/bytes", index], name + "2")
    return chain.op("Reshape", [looked_up, "/rows"], output)


def _symbols(chain: Chain, encoded: Positions, signs: npt.NDArray[np.bool_] | None) -> str:
    """Return the symbols, int32 (1, slots), the signs split off as "sign"."""
    weights = chain.constant("weights", (1 << np.arange(encoded.width, dtype=np.int32))[:, None])
    if signs is None:
        bits = _unpack(chain, "code", encoded.planes, "bits")
    else:
        bits = _unpack(chain, "code", np.concatenate([encoded.planes, signs]), "bits")
        sizes = chain.constant("planes", np.array([encoded.width, 1], np.int64))
        bits, _ = chain.ops("Split", [bits, sizes], [chain.prefix + "low", chain.prefix + "sign"], axis=0)
    weighed = chain.op("Mul", [bits, weights], "weighed")
    return chain.op("ReduceSum", [weighed, "/axis"], "symbol")


def _gap(chain: Chain, encoded: Positions, signs: npt.NDArray[np.bool_] | None) -> str:
    """Return the index of every slot, int32 (1, slots)."""
    symbol = _symbols(chain, encoded, signs)
    escape = chain.constant("escape", np.array(2**encoded.width - 1, np.int32))
    if signs is not None:
        chain.op("Equal", [symbol, escape], "escaped")
    step = chain.op("Add", [symbol, "/one"], "step")
    advance = chain.op("Min", [step, escape], "advance")
    ends = chain.op("CumSum", [advance, "/axis1"], "ends")
    return chain.op("Sub", [ends, "/one"], "index")


def _elias_fano(chain: Chain, encoded: Positions, signs: npt.NDArray[np.bool_] | None) -> str:
    """Return the index of every slot, int32 (1, slots).

    The n-th set bit of the unary part has as many zeros before it as the high part of position n: these
    counts are brought into order by a scatter along a permutation (set bits first, the others behind).
    """
    low = _symbols(chain, encoded, signs)
    slots, length = encoded.planes.shape[1], encoded.unary.size
    bits = _unpack(chain, "unary", encoded.unary[None], "marks")
    ones = chain.op("CumSum", [bits, "/axis1"], "ones")
    steps = chain.op("Sub", ["/one", bits], "steps")
    zeros = chain.op("CumSum", [steps, "/axis1"], "zeros")
    last = chain.constant("slots", np.array(slots, np.int32))
    behind = chain.op("Add", [zeros, last], "behind")
    is_set = chain.op("Equal", [bits, "/one"], "is_set")
    place = chain.op("Where", [is_set, ones, behind], "place")
    order = chain.op("Sub", [place, "/one"], "order")
    sorted_ = chain.op("ScatterElements", [zeros, order, zeros], "sorted", axis=1)
    sizes = chain.constant("highs", np.array([slots, length - slots], np.int64))
    high, _ = chain.ops("Split", [sorted_, sizes], [chain.prefix + "high", chain.prefix + "rest"], axis=1)
    factor = chain.constant("factor", np.array(2**encoded.width, np.int32))
    scaled = chain.op("Mul", [high, factor], "scaled")
    return chain.op("Add", [scaled, low], "index")


def _bitmask(chain: Chain, encoded: Positions, signs: npt.NDArray[np.bool_] | None) -> str:
    """Return the slot of every weight, int32 (1, total + tail): set bits count on, the others take slot 0."""
    if signs is not None:
        _unpack(chain, "signs", signs, "sign")
    bits = _unpack(chain, "mask", encoded.unary[None], "marks")
    count = chain.op("CumSum", [bits, "/axis1"], "count")
    return chain.op("Mul", [count, bits], "slot")


_INDEX: Final = {"gap": _gap, "elias-fano": _elias_fano, "bitmask": _bitmask}


def _floats(chain: Chain, weights: Sequence[Weight], encoded: Positions) -> str:
    """Return the values of the slots, (1, slots), as they are; slots of no weight hold +0.0."""
    values = np.concatenate([weight.bits[weight.mask] for weight in weights])
    row = np.zeros((1, encoded.planes.shape[1]), values.dtype)
    row[0, encoded.slots] = values
    return chain.constant("values", row, weights[0].dtype)


def _levels(chain: Chain, weights: Sequence[Weight], encoded: Positions) -> str:
    """Return the values of the slots, (1, slots): each tensor's stretch looked up in its [0, low, high].

    The look-up is done on the kept weights, before they are spread: on all weights it took 4/5 of the load.
    """
    level = chain.op("Add", [chain.prefix + "sign", "/one"], "level")
    if encoded.code == "gap":
        level = chain.op("Where", [chain.prefix + "escaped", "/zero", level], "update")
    tables, ends = _tables(weights, encoded)
    stretches = [level]
    if len(tables) > 1:
        sizes = chain.constant("stretches", np.diff(ends, prepend=0).astype(np.int64))
        names = [f"{chain.prefix}{number}l" for number in range(len(tables))]
        stretches = chain.ops("Split", [level, sizes], names, axis=1)
    found = []
    for number, (table, stretch) in enumerate(zip(tables, stretches, strict=True)):
        stored = chain.constant(f"{number}t", table, weights[0].dtype)
        found.append(chain.op("Gather", [stored, stretch], f"{number}v"))
    return chain.op("Concat", found, "values", axis=1) if len(found) > 1 else found[0]


def _tables(weights: Sequence[Weight], encoded: Positions) -> tuple[list[Array], list[int]]:
    """Return the tables and where among the slots their stretches end; an empty tensor has none."""
    tables, ends, kept = [], [], 0
    if encoded.code == "bitmask":  # slot 0
        tables.append(np.zeros(3, weights[0].bits.dtype))
        ends.append(1)
    for weight in weights:
        count = int(weight.mask.sum())
        kept += count
        if count and weight.levels is not None:
            tables.append(np.concatenate([np.zeros(1, weight.bits.dtype), weight.levels]))
            ends.append(int(encoded.slots[kept - 1]) + 1)
    ends[-1] = encoded.planes.shape[1]
    return tables, ends


def _blank(chain: Chain, weight: Weight, length: int) -> str:
    shape = chain.constant("length", np.array([1, length], np.int64))
    zero = TensorProto(data_type=weight.dtype, dims=[1], raw_data=bytes(weight.bits.itemsize))
    return chain.op("ConstantOfShape", [shape], "blank", value=zero)


def _share_out(chain: Chain, row: str, tail: int, weights: Sequence[Weight]) -> None:
    """Cut the row into the tensors and give them their shapes and names."""
    parts = [f"{chain.prefix}{number}" for number in range(len(weights))]
    sizes = [weight.bits.size for weight in weights]
    counts = chain.constant("counts", np.array([*sizes, tail], np.int64))
    chain.ops("Split", [row, counts], [*parts, chain.prefix + "tail"], axis=1)
    for part, weight in zip(parts, weights, strict=True):
        shape = chain.constant(part + "s", np.array(weight.shape, np.int64))
        chain.ops("Reshape", [part, shape], [weight.name])
