"""Which tensors of an ONNX file its network reads, and which constants stand where weights stand. No torch."""

from collections.abc import Iterable
from typing import Final

from onnx import GraphProto, NodeProto

from exporters.graph import is_key, made_keys

# operator -> the inputs that may be a weight
_WEIGHTED: Final = {"Gemm": (0, 1), "MatMul": (0, 1), "Conv": (1,), "ConvTranspose": (1,)}
_SIZES: Final = frozenset({"Shape", "Size"})  # what they give depends on no value


def names_read(nodes: Iterable[NodeProto]) -> set[str]:
    """Return the names that nodes read, those in branches and loops included."""
    names: set[str] = set()
    for node in nodes:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                names |= names_read(inner.node) | {value.name for value in inner.output}
    return names


def unread(graph: GraphProto) -> list[str]:
    """Return the state-dict keys in the file that no output of the network comes from."""
    needed = {value.name for value in graph.output}
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed |= names_read([node])
    keys = [i.name for i in graph.initializer if is_key(i.name)]
    return [key for key in (*keys, *made_keys(graph)) if key not in needed]


def posing(graph: GraphProto) -> list[str]:
    """Return the constants that are in no state dict and that products take where a weight stands.

    A product of constants alone, and a constant of one element, is none.
    """
    varying = {value.name for value in graph.input}
    varying |= {i.name for i in graph.initializer if is_key(i.name)}
    varying.update(made_keys(graph))
    makers: dict[str, NodeProto] = {}
    found: set[str] = set()
    for node in graph.node:
        makers |= dict.fromkeys(node.output, node)
        if node.op_type not in _SIZES and varying.intersection(names_read([node])):
            varying.update(node.output)
            places = _WEIGHTED.get(node.op_type, ())
            operands = [name for i, name in enumerate(node.input) if i in places and name not in varying]
            for name in operands:
                found |= _sources(name, makers)
    return [i.name for i in graph.initializer if i.name in found and max(i.dims, default=1) > 1]


def _sources(name: str, makers: dict[str, NodeProto]) -> set[str]:
    """Return the names that a value is computed from and that no node makes."""
    sources: set[str] = set()
    open_ends, seen = [name], {name}
    while open_ends:
        one = open_ends.pop()
        if one not in makers:
            sources.add(one)
            continue
        read = names_read([makers[one]]) - seen
        seen |= read
        open_ends.extend(read)
    return sources
