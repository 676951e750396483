"""Names for every value of a cleaned graph, and the bare model: no weights, no annotations."""

from collections.abc import Mapping
from typing import Any, Final

import numpy.typing as npt
import onnx_ir as ir
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, defs, helper

from exporters.chains import tensor
from exporters.graph import INNER, OPSET

Array = npt.NDArray[Any]

IR_VERSION: Final = 8  # the oldest that opset 18 may have, so that older runtimes open the file


def store_constants(graph: ir.Graph, constants: Mapping[ir.Value, Array]) -> dict[ir.Value, Array]:
    """Let nodes read constants from nameless values, one for each distinct array; return these."""
    stored: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
    arrays: dict[ir.Value, Array] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for place, given in enumerate(node.inputs):
            if given is not None and given in constants:
                array = constants[given]
                value = stored.setdefault((array.dtype.str, array.shape, array.tobytes()), ir.Value())
                arrays[value] = array
                node.replace_input_with(place, value)
    return arrays


def name_values(graph: ir.Graph, constants: Mapping[ir.Value, Array], keys: set[str]) -> dict[str, Array]:
    """Name every value; return the constants that nodes still read, by name, in the order of first use."""
    taken = set(keys)
    for value in graph.inputs:
        value.name = _free((value.name or "input").lstrip(INNER), taken)
    for number, value in enumerate(graph.outputs):
        value.name = _free("output" if len(graph.outputs) == 1 else f"output_{number}", taken)
    used: dict[str, Array] = {}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        for value in node.outputs:
            if value.name and not value.is_graph_output():
                value.name = _free(INNER + value.name.lstrip(INNER), taken)
        for given in filter(None, node.inputs):
            if given in constants and given.name is None:
                given.name = _free(f"{INNER}c{len(used)}", taken)
                used[given.name] = constants[given]
    return used


def _free(name: str, taken: set[str]) -> str:
    """Return the name, or the name with a number behind it, and take it."""
    number, free = 0, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free


def separate_outputs(graph: ir.Graph, constants: Mapping[ir.Value, Array]) -> None:
    """Put an Identity before an output that is an input, a weight, a constant or an output already."""
    seen: set[ir.Value] = set()
    for place, value in enumerate(graph.outputs):
        if value in seen or value.producer() is None or value in constants:
            node = ir.node("Identity", [value], name="")
            copy = node.outputs[0]
            copy.type, copy.shape = value.type, value.shape
            graph.append(node)
            graph.outputs[place] = node.outputs[0]
        seen.add(value)


def bare(model: ir.Model, constants: Mapping[str, Array]) -> ModelProto:
    """Return the bare model: no weights, no annotations."""
    model.graph.initializers.clear()
    graph = ir.to_proto(model.graph)
    graph.name = "network"
    for kept in (graph.value_info, graph.metadata_props):
        del kept[:]
    graph.ClearField("doc_string")
    _strip(graph)
    for name, array in constants.items():
        graph.initializer.append(
            tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array)
        )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _strip(graph: GraphProto) -> None:
    """Take names, texts, metadata and defaults off the nodes, those in branches and loops included."""
    for value in (*graph.input, *graph.output):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    for node in graph.node:
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        stated = [one for one in node.attribute if not _is_default(node, one)]
        del node.attribute[:]
        node.attribute.extend(stated)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for inner in (
                (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ()
            ):
                del inner.value_info[:]
                _strip(inner)


def _is_default(node: NodeProto, attribute: AttributeProto) -> bool:
    """Whether an attribute says what the operator would do without it."""
    known = defs.get_schema(node.op_type, OPSET, node.domain).attributes[attribute.name].default_value
    same_type = known.type == attribute.type
    return same_type and bool(helper.get_attribute_value(known) == helper.get_attribute_value(attribute))
