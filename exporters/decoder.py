"""Every tensor of an ONNX file of ours, decoded here in numpy, and as a model for a runtime. No torch."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy.typing as npt
from onnx import GraphProto, ModelProto, helper

from compressor.errors import FormatError
from exporters.graph import array_of, chain_nodes, declared, is_key, made_keys, open_model
from exporters.operators import TYPES, DecodeError, run

Array = npt.NDArray[Any]


def decode(path: Path | str) -> dict[str, Array]:
    """Return every tensor of the file, bit for bit, by an interpreter of our own for the decode chains.

    Types that numpy does not have (BF16, F8) come as unsigned integers of the same width.
    Raises InputError (unreadable) or FormatError (damaged, or not written by this project).
    """
    model = open_model(path)[0]
    keys = set(made_keys(model.graph))
    values = {i.name: array_of(path, i) for i in model.graph.initializer}
    tensors = {name: array for name, array in values.items() if is_key(name)}
    nodes = chain_nodes(path, model.graph)
    uses = Counter(name for node in nodes for name in node.input)
    for node in nodes:
        try:
            outputs = run(node, [values[name] for name in node.input])
        except KeyError as error:
            raise FormatError(f"{path}: {error} is read before it is made; the file is damaged") from error
        except DecodeError as error:
            raise FormatError(
                f"{path}: {node.op_type} {node.output[0]}: {error}; the file is damaged"
            ) from error
        values.update(zip(node.output, outputs, strict=True))
        tensors.update({name: values[name] for name in node.output if name in keys})
        for name in node.input:
            uses[name] -= 1
            if not uses[name]:
                del values[name]
    return tensors


def chains_model(path: Path | str) -> bytes:
    """Return an ONNX model without inputs whose outputs, in order, are the tensors `Graph.chains`.

    It holds the file's own chain nodes and initialisers, nothing else; run it in a runtime to see what that
    runtime makes of them. Raises as `decode`, and FormatError when the file has no chain.
    """
    model = open_model(path)[0]
    nodes = chain_nodes(path, model.graph)
    keys = made_keys(model.graph)
    if not keys:
        raise FormatError(f"{path}: has no decode chain; its weights are ordinary initialisers")
    needed = {name for node in nodes for name in node.input}
    graph = GraphProto(name="chains", node=nodes)
    graph.initializer.extend(i for i in model.graph.initializer if i.name in needed)
    types = {name: number for number, (name, _) in TYPES.items()}
    for key in keys:
        dtype, shape = declared(path, model.graph, nodes, key)
        graph.output.append(helper.make_tensor_value_info(key, types[dtype], shape))
    cut = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    return bytes(cut.SerializeToString())
