"""The ONNX operators of the decode chains, in numpy: the second, independent way to the weights.

Only what exporters/chains.py writes: an operator with other types, ranks or attributes is a fault. Sizes are
checked before memory is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto

Array = npt.NDArray[Any]
Operator = Callable[[NodeProto, Sequence[Array]], Sequence[Array]]

# ONNX type -> (safetensors name, numpy type or, where numpy has none, unsigned integers of the same width)
TYPES: Final[dict[int, tuple[str, str]]] = {
    TensorProto.FLOAT: ("F32", "<f4"),
    TensorProto.FLOAT16: ("F16", "<f2"),
    TensorProto.DOUBLE: ("F64", "<f8"),
    TensorProto.BFLOAT16: ("BF16", "<u2"),
    TensorProto.FLOAT8E4M3FN: ("F8_E4M3", "|u1"),
    TensorProto.FLOAT8E5M2: ("F8_E5M2", "|u1"),
    TensorProto.BOOL: ("BOOL", "|b1"),
    TensorProto.INT8: ("I8", "|i1"),
    TensorProto.INT16: ("I16", "<i2"),
    TensorProto.INT32: ("I32", "<i4"),
    TensorProto.INT64: ("I64", "<i8"),
    TensorProto.UINT8: ("U8", "|u1"),
    TensorProto.UINT16: ("U16", "<u2"),
    TensorProto.UINT32: ("U32", "<u4"),
    TensorProto.UINT64: ("U64", "<u8"),
    TensorProto.COMPLEX64: ("C64", "<c8"),
}

_LARGEST: Final = 2**28  # elements of one value; onnxruntime would not fold more


class DecodeError(ValueError):
    """A node does not do what a decode chain does."""


def _demand(condition: bool, fault: str) -> None:
    if not condition:
        raise DecodeError(fault)


def run(node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
    """Return the outputs of one node. Raises DecodeError if it is none that a decode chain has."""
    _demand(node.op_type in OPERATORS and not node.domain, "not an operator of a decode chain")
    function, count, attribute = OPERATORS[node.op_type]
    named = [one.name for one in node.attribute] == [attribute] * bool(attribute)
    _demand(
        len(inputs) == (count or max(len(inputs), 1)) and named,
        f"needs {count} inputs and the attributes [{attribute}]",
    )
    outputs = function(node, inputs)
    _demand(len(outputs) == len(node.output), f"has {len(outputs)} outputs, not {len(node.output)}")
    return outputs


def stored(initialiser: TensorProto) -> Array:
    """Return the values of an initialiser. Raises DecodeError unless its bytes are all there, raw."""
    inside = not initialiser.external_data and not initialiser.data_location
    _demand(inside and initialiser.data_type in TYPES, "a type or an external file that is never written")
    dtype = np.dtype(TYPES[initialiser.data_type][1])
    shape = tuple(initialiser.dims)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    sane = len(shape) <= 16 and min(shape, default=0) >= 0 and max(shape, default=0) < 2**31
    fits = sane and size == len(initialiser.raw_data)
    _demand(fits, f"its bytes do not fill its shape {shape}")
    return np.frombuffer(initialiser.raw_data, dtype).reshape(shape)


def _small(shape: Sequence[int]) -> None:
    size = int(np.prod(shape, dtype=object))
    _demand(0 <= size <= _LARGEST and min(shape, default=0) >= 0, f"a value of shape {tuple(shape)}")


def _binary(function: Callable[[Array, Array], Array]) -> Operator:
    def apply(_node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
        a, b = inputs
        _demand(a.dtype == b.dtype == np.int32, "computes on int32 only")
        _broadcast(a, b)
        return [function(a, b)]

    return apply


def _broadcast(*arrays: Array) -> None:
    try:
        _small(np.broadcast_shapes(*(array.shape for array in arrays)))
    except ValueError as error:
        raise DecodeError("shapes that do not fit") from error


def _divide(a: Array, b: Array) -> Array:
    _demand(bool((a >= 0).all() and (b > 0).all()), "divides only positive numbers")
    return np.asarray(a // b)


def _modulo(a: Array, b: Array) -> Array:
    _demand(bool((a >= 0).all() and (b > 0).all()), "divides only positive numbers")
    return np.asarray(a % b)


def _cast(node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
    to_int = node.attribute[0].i == TensorProto.INT32
    _demand(to_int and inputs[0].dtype in (np.uint8, np.uint16), "casts words to int32 only")
    return [inputs[0].astype(np.int32)]


def _reshape(_node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
    array, target = inputs
    _demand(target.dtype == np.int64 and target.ndim == 1, "needs a list of int64")
    sizes = [array.shape[i] if size == 0 and i < array.ndim else int(size) for i, size in enumerate(target)]
    try:
        return [array.reshape(sizes)]
    except ValueError as error:
        raise DecodeError(f"{array.size} values do not fill {sizes}") from error


def _split(node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
    array, sizes = inputs
    lists = array.ndim == sizes.ndim == 1 and sizes.dtype == np.int64
    _demand(lists, "cuts a row by a list of sizes only")
    fits = len(sizes) == len(node.output) and bool((sizes >= 0).all())
    _demand(fits and sum(int(size) for size in sizes) == len(array), "sizes that do not fit")
    return np.split(array, np.cumsum(sizes)[:-1])


def _cumulate(_node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
    array, axis = inputs
    _demand(array.dtype == np.int32 and array.ndim == 1 and axis.tolist() == 0, "sums rows of int32 only")
    return [array.cumsum(dtype=np.int32)]


def _fill(node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
    value = stored(node.attribute[0].t)
    shape = inputs[0]
    _demand(
        shape.dtype == np.int64 and shape.ndim == 1 and value.shape == (1,), "needs a shape and one value"
    )
    _small(shape.tolist())
    return [np.full(shape.tolist(), value[0], value.dtype)]


def _scatter(_node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
    data, index, updates = inputs
    rows = all(one.ndim == 1 for one in inputs)
    _demand(rows and index.shape == updates.shape and data.dtype == updates.dtype, "inputs that do not fit")
    _in_range(index, len(data))
    seen = np.zeros(len(data), np.bool_)
    seen[index] = True
    _demand(int(seen.sum()) == index.size, "writes twice to one place")
    row = data.copy()
    row[index] = updates
    return [row]


def _gather(_node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
    _demand(inputs[0].ndim == inputs[1].ndim == 1 and inputs[0].size > 0, "looks up a table only")
    _in_range(inputs[1], len(inputs[0]))
    return [inputs[0][inputs[1]]]


def _in_range(index: Array, size: int) -> None:
    inside = index.dtype == np.int32 and bool(((index >= 0) & (index < size)).all())
    _demand(inside, f"an index outside 0 .. {size - 1}")


def _concatenate(node: NodeProto, inputs: Sequence[Array]) -> Sequence[Array]:
    rows = all(one.ndim == 1 and one.dtype == inputs[0].dtype for one in inputs)
    _demand(node.attribute[0].i == 0 and rows, "joins rows of one type only")
    _small([sum(len(one) for one in inputs)])
    return [np.concatenate(inputs)]


# function, number of inputs (0: one or more), the one attribute it has
OPERATORS: Final[Mapping[str, tuple[Operator, int, str]]] = {
    "Add": (_binary(np.add), 2, ""),
    "Cast": (_cast, 1, "to"),
    "Concat": (_concatenate, 0, "axis"),
    "ConstantOfShape": (_fill, 1, "value"),
    "CumSum": (_cumulate, 2, ""),
    "Div": (_binary(_divide), 2, ""),
    "Gather": (_gather, 2, ""),
    "Mod": (_binary(_modulo), 2, ""),
    "Mul": (_binary(np.multiply), 2, ""),
    "Reshape": (_reshape, 2, ""),
    "ScatterElements": (_scatter, 3, ""),
    "Split": (_split, 2, ""),
}
