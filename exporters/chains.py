"""Decode chains: the standard ONNX operators that rebuild sparse tensors when a session is made.

payload bits -> positions -> a flat row in which each kept weight has its value (float values) or 1 / 2 (two
levels: low / high) -> Split -> Reshape -> (two levels: Gather from [0, low, high]) -> the tensor under its
state-dict key. Nothing is computed on floats, so every bit survives, -0.0 included. Operators of opset 13
with static shapes only: onnxruntime folds the whole chain, run time is that of the dense file.

Never used, because some runtime does not fold it, refuses it or computes it wrongly: NonZero, Loop, Scan,
BitShift, BitwiseAnd, sparse initialisers, local functions, data-dependent shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from exporters.positions import Positions

Array = npt.NDArray[Any]

_SHARED: Final[dict[str, Array]] = {  # constants of all chains; decoders compute in int32, as OpenVINO does
    "/powers": np.array([1, 2, 4, 8, 16, 32, 64, 128], np.int32),
    "/rows": np.array([0, -1], np.int64),
    "/axis": np.array([0], np.int64),
    "/axis1": np.array(1, np.int32),
    "/zero": np.array(0, np.int32),
    "/one": np.array(1, np.int32),
    "/two": np.array(2, np.int32),
}


@dataclass(frozen=True, slots=True)
class Weight:
    """One sparse tensor: its bits as unsigned integers and its mask, both flat in row-major order.

    levels: the bits of (low, high) when the kept weights have at most two values, else None.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    bits: Array
    mask: npt.NDArray[np.bool_]
    levels: Array | None


@dataclass(slots=True)
class Chain:
    """The nodes and initialisers that rebuild the tensors `names`; inner names start with `prefix`."""

    prefix: str
    names: tuple[str, ...]
    nodes: list[NodeProto] = field(default_factory=list)
    initialisers: dict[str, TensorProto] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes in the file, the names in the graph's lists included."""
        nodes = sum(node.ByteSize() + 3 for node in self.nodes)
        return int(nodes + sum(one.ByteSize() + 4 for one in self.initialisers.values()))

    def constant(self, name: str, array: Array, dtype: int | None = None) -> str:
        """Add an initialiser; `dtype` where `array` holds the bits of another type."""
        kind = helper.np_dtype_to_tensor_dtype(array.dtype) if dtype is None else dtype
        name = self._full(name)
        self.initialisers[name] = tensor(name, kind, array.shape, array)
        return name

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.ops(kind, inputs, [self._full(output)], **attributes)[0]

    def ops(self, kind: str, inputs: Sequence[str], outputs: list[str], **attributes: Any) -> list[str]:
        """Add a node with outputs of the given full names."""
        for name in inputs:
            if name in _SHARED:
                self.constant(name, _SHARED[name])
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def _full(self, name: str) -> str:
        return name if name.startswith("/") else self.prefix + name


def tensor(name: str, dtype: int, shape: Sequence[int], array: Array) -> TensorProto:
    """Return an initialiser that holds the bytes of `array` as they are (little-endian machines only)."""
    return TensorProto(name=name, data_type=dtype, dims=list(shape), raw_data=array.tobytes())


def build(prefix: str, weights: Sequence[Weight], encoded: Positions) -> Chain:
    """Return the chain for `weights`, whose masks, one behind the other, are `encoded`."""
    chain = Chain(prefix, tuple(weight.name for weight in weights))
    total = sum(weight.bits.size for weight in weights)
    levels = weights[0].levels is not None
    if levels:
        values = np.concatenate([_is_high(weight) for weight in weights])
    else:
        values = np.concatenate([weight.bits[weight.mask] for weight in weights])
    if encoded.code == "bitmask":
        row = _masked(chain, encoded, values, weights[0].dtype)
    else:
        index = _gap(chain, encoded, values) if encoded.code == "gap" else _elias_fano(chain, encoded, values)
        row = _scatter(chain, encoded, index, values, (weights[0].dtype, total))
    _share_out(chain, row, encoded.tail, weights)
    return chain


def _is_high(weight: Weight) -> npt.NDArray[np.bool_]:
    assert weight.levels is not None  # a chain is of one kind
    return np.asarray(weight.bits[weight.mask] == weight.levels[1])


def _unpack(chain: Chain, name: str, planes: npt.NDArray[np.bool_]) -> str:
    """Return an int32 value (planes, slots) of zeros and ones."""
    payload = np.packbits(planes, axis=1, bitorder="little")[:, :, None]
    stored = chain.constant(name, payload)
    wide = chain.op("Cast", [stored], name + "_wide", to=TensorProto.INT32)
    shifted = chain.op("Div", [wide, "/powers"], name + "_shifted")
    low = chain.op("Mod", [shifted, "/two"], name + "_low")
    return chain.op("Reshape", [low, "/rows"], name + "_bits")


def _symbols(chain: Chain, encoded: Positions, values: Array) -> str:
    """Return the symbols, int32 (1, slots), the sign plane split off as "sign" where there are levels."""
    planes = encoded.planes
    weights = chain.constant("weights", (1 << np.arange(encoded.width, dtype=np.int32))[:, None])
    if values.dtype == np.bool_:
        sign = np.zeros((1, planes.shape[1]), np.bool_)
        sign[0, encoded.slots] = values
        bits = _unpack(chain, "code", np.concatenate([planes, sign]))
        sizes = chain.constant("planes", np.array([encoded.width, 1], np.int64))
        bits, _ = chain.ops("Split", [bits, sizes], [chain.prefix + "low", chain.prefix + "sign"], axis=0)
    else:
        bits = _unpack(chain, "code", planes)
    weighed = chain.op("Mul", [bits, weights], "weighed")
    return chain.op("ReduceSum", [weighed, "/axis"], "symbol")


def _gap(chain: Chain, encoded: Positions, values: Array) -> str:
    """Return the index of every slot, int32 (1, slots)."""
    symbol = _symbols(chain, encoded, values)
    escape = chain.constant("escape", np.array(2**encoded.width - 1, np.int32))
    if values.dtype == np.bool_:
        chain.op("Equal", [symbol, escape], "escaped")
    step = chain.op("Add", [symbol, "/one"], "step")
    advance = chain.op("Min", [step, escape], "advance")
    ends = chain.op("CumSum", [advance, "/axis1"], "ends")
    return chain.op("Sub", [ends, "/one"], "index")


def _elias_fano(chain: Chain, encoded: Positions, values: Array) -> str:
    """Return the index of every slot, int32 (1, slots).

    The n-th set bit of the unary part has as many zeros before it as the high part of position n: these
    counts are brought into order by a scatter along a permutation (set bits first, the others behind).
    """
    low = _symbols(chain, encoded, values)
    slots, length = encoded.planes.shape[1], encoded.unary.size
    bits = _unpack(chain, "unary", encoded.unary[None])
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


def _scatter(chain: Chain, encoded: Positions, index: str, values: Array, kind: tuple[int, int]) -> str:
    """Return the flat row (1, total + tail): values, or 0 / 1 / 2 for pruned / low / high."""
    slots, (dtype, total) = encoded.planes.shape[1], kind
    if values.dtype == np.bool_:
        dtype = TensorProto.INT32
        updates = chain.op("Add", [chain.prefix + "sign", "/one"], "level")
        if encoded.code == "gap":
            updates = chain.op("Where", [chain.prefix + "escaped", "/zero", updates], "update")
    else:
        row = np.zeros((1, slots), values.dtype)
        row[0, encoded.slots] = values
        updates = chain.constant("values", row, dtype)
    shape = chain.constant("length", np.array([1, total + encoded.tail], np.int64))
    width = 4 if values.dtype == np.bool_ else values.itemsize
    zero = TensorProto(data_type=dtype, dims=[1], raw_data=bytes(width))
    blank = chain.op("ConstantOfShape", [shape], "blank", value=zero)
    return chain.op("ScatterElements", [blank, index, updates], "row", axis=1)


def _masked(chain: Chain, encoded: Positions, values: Array, dtype: int) -> str:
    """Return the flat row of a bitmask: each set bit takes the next value, slot 0 is +0.0."""
    bits = _unpack(chain, "mask", encoded.unary[None])
    count = chain.op("CumSum", [bits, "/axis1"], "count")
    slot = chain.op("Mul", [count, bits], "slot")
    slots = encoded.planes.shape[1]
    if values.dtype != np.bool_:
        table = np.zeros(slots, values.dtype)
        table[encoded.slots] = values
        return chain.op("Gather", [chain.constant("values", table, dtype), slot], "row")
    sign = np.zeros((1, slots), np.bool_)
    sign[0, encoded.slots] = values
    flat = chain.op("Squeeze", [_unpack(chain, "sign", sign), "/axis"], "signs")
    level = chain.op("Add", [chain.op("Gather", [flat, slot], "high"), "/one"], "level")
    return chain.op("Mul", [level, bits], "row")


def _share_out(chain: Chain, row: str, tail: int, weights: Sequence[Weight]) -> None:
    """Cut the row into the tensors and give them their shapes, levels and names."""
    parts = [f"{chain.prefix}{number}" for number in range(len(weights))]
    sizes = [weight.bits.size for weight in weights]
    counts = chain.constant("counts", np.array([*sizes, tail], np.int64))
    chain.ops("Split", [row, counts], [*parts, chain.prefix + "tail"], axis=1)
    for part, weight in zip(parts, weights, strict=True):
        shape = chain.constant(part + "s", np.array(weight.shape, np.int64))
        if weight.levels is None:
            chain.ops("Reshape", [part, shape], [weight.name])
            continue
        shaped = chain.op("Reshape", [part, shape], part + "r")
        table = np.concatenate([np.zeros(1, weight.bits.dtype), weight.levels])
        chain.ops("Gather", [chain.constant(part + "t", table, weight.dtype), shaped], [weight.name])
