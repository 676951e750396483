"""The clean-up behind torch's ONNX exporter: names of the state dict, few nodes, nothing but the graph.

The exporter's own optimiser is off: it folds normalisation into convolutions and transposes weights, after
which names and bits of the state dict are gone. What it leaves undone is done here, on values by identity
and not by name (a buffer called `mean` and a node output of that name are two values: pytorch #168211):

1. initialisers get the first of their state-dict keys; what is in no state dict becomes a constant
2. a convolution's bias that is Expand(CastLike(0)) goes: onnxruntime does not fuse Conv + BN over it (2.7x)
3. nodes that depend on constants alone are folded, never one that touches a tensor of the state dict
4. a Reshape to [batch, n] becomes one to [-1, n], without the nodes that compute the batch
5. dead nodes, type annotations and metadata (source paths!) go; inner names start with "/"
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator

from exporters.graph import OPSET
from exporters.naming import bare, name_values, separate_outputs, store_constants

Array = npt.NDArray[Any]

# Exact in numpy, so that the bytes are the same on every machine (Exp, Pow and their like are not).
_FOLDED: Final = frozenset(
    {
        "Add",
        "Cast",
        "CastLike",
        "Concat",
        "Div",
        "Equal",
        "Expand",
        "Gather",
        "Identity",
        "Mul",
        "Neg",
        "Range",
        "Reshape",
        "Shape",
        "Slice",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    }
)
_FOLD_LIMIT: Final = 4096  # elements; a larger constant stays the node that makes it
_BIASED: Final = ("Conv", "ConvTranspose")


def clean(model: ir.Model, names: Mapping[str, str]) -> ModelProto:
    """Return the cleaned graph; tensors of the state dict are named in it but not stored.

    names: every state-dict key -> its first name.
    """
    graph = model.graph
    _merge_shared(graph, names)
    constants = _constants(graph, names)
    _drop_zero_biases(graph, constants)
    _fold(graph, constants)
    _infer_batch(graph, constants)
    separate_outputs(graph, constants)
    stored = store_constants(graph, constants)
    _remove_dead(graph)
    return bare(model, name_values(graph, stored, set(names)))


def _merge_shared(graph: ir.Graph, names: Mapping[str, str]) -> None:
    """Rename state-dict initialisers to their first name; two of one tensor become one."""
    firsts: dict[str, ir.Value] = {}
    for value in list(graph.initializers.values()):
        first = names.get(value.name or "")
        if first is not None and firsts.setdefault(first, value) is not value:
            value.replace_all_uses_with(firsts[first], replace_graph_outputs=True)
    values = [value for value in graph.initializers.values() if value.name not in names]
    graph.initializers.clear()
    for first, value in firsts.items():
        value.name = first
    for value in [*values, *firsts.values()]:
        value.metadata_props.clear()
        graph.register_initializer(value)


def _constants(graph: ir.Graph, names: Mapping[str, str]) -> dict[ir.Value, Array]:
    """Return the values of Constant nodes and of initialisers that are in no state dict."""
    constants = {
        value: value.const_value.numpy()
        for value in graph.initializers.values()
        if value.name not in names and value.const_value is not None
    }
    for node in graph:
        if node.op_type == "Constant" and node.domain == "":
            stored = ir.convenience.get_const_tensor(node.outputs[0])
            if stored is not None:
                constants[node.outputs[0]] = stored.numpy()
    return constants


def _drop_zero_biases(graph: ir.Graph, constants: Mapping[ir.Value, Array]) -> None:
    for node in graph:
        if node.op_type in _BIASED and len(node.inputs) == 3 and _is_zero(node.inputs[2], constants):
            node.resize_inputs(2)


def _is_zero(value: ir.Value | None, constants: Mapping[ir.Value, Array]) -> bool:
    while value is not None and value not in constants:
        node = value.producer()
        if node is None or node.op_type not in {"Expand", "CastLike", "Cast"}:
            return False
        value = node.inputs[0]
    return value is not None and not constants[value].any()


def _fold(graph: ir.Graph, constants: dict[ir.Value, Array]) -> None:
    for node in graph:
        if node.op_type not in _FOLDED or node.domain or len(node.outputs) != 1:
            continue
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type == "CastLike" and inputs[0] in constants and inputs[1].dtype is not None:
            constants[node.outputs[0]] = constants[inputs[0]].astype(inputs[1].dtype.numpy())
        elif inputs and all(value in constants for value in inputs):
            folded = _evaluate(node, [constants.get(value) if value else None for value in node.inputs])
            if folded.size <= max(_FOLD_LIMIT, *(constants[value].size for value in inputs)):
                constants[node.outputs[0]] = folded


def _evaluate(node: ir.Node, inputs: list[Array | None]) -> Array:
    attributes = [ir.to_proto(attribute) for attribute in node.attributes.values()]
    names = [f"i{number}" if array is not None else "" for number, array in enumerate(inputs)]
    proto = helper.make_node(node.op_type, names, ["out"])
    proto.attribute.extend(attributes)
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if name}
    outputs: Any = ReferenceEvaluator(proto, opsets={"": OPSET}).run(None, feeds)
    return np.asarray(outputs[0])


def _infer_batch(graph: ir.Graph, constants: dict[ir.Value, Array]) -> None:
    """Let Reshape infer the one size of its target that is computed at run time."""
    for node in graph:
        target = node.inputs[1] if node.op_type == "Reshape" else None
        maker = target.producer() if target is not None and target not in constants else None
        if maker is None or maker.op_type != "Concat" or not all(maker.inputs):
            continue
        parts = [constants.get(part, _one_size(part)) for part in maker.inputs if part]
        known = [part for part in parts if part is not None]
        if len(known) == len(parts) and sum(int((part <= 0).sum()) for part in known) == 1:
            sizes = ir.Value(name="sizes")
            constants[sizes] = np.concatenate(known)
            node.replace_input_with(1, sizes)


def _one_size(value: ir.Value) -> Array | None:
    """Return [-1] for a computed scalar that was reshaped to one element, the exporter's form of a size."""
    node = value.producer()
    if node is None or node.op_type != "Reshape" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    scalar = node.inputs[0].shape.rank() == 0
    return np.array([-1], np.int64) if scalar else None


def _remove_dead(graph: ir.Graph) -> None:
    """Remove nodes whose outputs nobody reads."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
