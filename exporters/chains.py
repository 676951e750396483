"""A decode chain as data: its nodes, its initialisers, and the tensors that it rebuilds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

Array = npt.NDArray[Any]


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

    Constants whose names start with "//", as no name of a traced network does, serve all chains of a file.
    """

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
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs

    def _full(self, name: str) -> str:
        return name if name.startswith("//") else self.prefix + name


def tensor(name: str, dtype: int, shape: Sequence[int], array: Array) -> TensorProto:
    """Return an initialiser that holds the bytes of `array` as they are (little-endian machines only)."""
    return TensorProto(name=name, data_type=dtype, dims=list(shape), raw_data=array.tobytes())
