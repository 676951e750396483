"""A decode chain as data: its nodes, its initialisers, and the tensors that it rebuilds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

Array = npt.NDArray[Any]

_SHARED: Final[dict[str, Array]] = {  # constants of all chains; decoders compute in int32, as OpenVINO does
    "/all": np.array([256, 1], np.int64),
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
    """The nodes and initialisers that rebuild the tensors `names`; inner names start with `prefix`.

    table: nodes that all chains of a file share, to be written once, before them.
    """

    prefix: str
    names: tuple[str, ...]
    table: list[NodeProto] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    initialisers: dict[str, TensorProto] = field(default_factory=dict)

    def use_table(self) -> None:
        """Have the nodes in the file that compute "/bytes", int32 (256, 8): the bits of every byte."""
        one = TensorProto(data_type=TensorProto.INT32, dims=[1], raw_data=(1).to_bytes(4, "little"))
        table = Chain(self.prefix, ())
        table.op("ConstantOfShape", ["/all"], "/ones", value=one)
        table.op("CumSum", ["/ones", "/zero"], "/numbers", exclusive=1)
        table.op("Div", ["/numbers", "/powers"], "/halves")
        table.op("Mod", ["/halves", "/two"], "/bytes")
        self.table = table.nodes
        self.initialisers |= table.initialisers

    @property
    def size(self) -> int:
        """Bytes in the file, the names in the graph's lists included."""
        nodes = sum(node.ByteSize() + 3 for node in (*self.table, *self.nodes))
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
