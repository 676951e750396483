"""Read an ONNX file that this project wrote: what is in it, and every tensor's bits. No torch.

Names decide what a value is: inner values of the graph start with "/", everything else that is not an input
or output is a tensor under its state-dict key, either an initialiser or the last output of a decode chain.
The file ends in the metadata entry `compressor.digest`: the SHA-256 of all bytes before it, which are the
model without that entry. No bit is free to change, whatever protobuf would tolerate.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError as ProtobufError  # type: ignore[import-untyped]
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    StringStringEntryProto,
    TensorProto,
    ValueInfoProto,
)

from compressor.errors import FormatError
from compressor.files import read_bytes
from exporters.operators import OPERATORS, TYPES, DecodeError, stored

Array = npt.NDArray[Any]

OPSET: Final = 18
INNER: Final = "/"  # first character of every name that is not a tensor's, an input's or an output's
DIGEST: Final = "compressor.digest"
ENCODINGS: Final = ("compact", "dense")


@dataclass(frozen=True, slots=True)
class Graph:
    """What an ONNX file of ours holds.

    tensors: state-dict key -> (dtype as safetensors names it, shape); a shared tensor under its first name
    chains: the keys that a decode chain rebuilds; the others are ordinary initialisers
    inputs, outputs: name -> shape, a named axis such as "batch" as a string
    digest_ok: the bytes are the ones that were written
    """

    metadata: dict[str, str]
    encoding: str
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    chains: tuple[str, ...]
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    digest_ok: bool


def digest_entry(body: bytes) -> bytes:
    """Return the bytes of the metadata entry that closes a file whose other bytes are `body`."""
    entry = StringStringEntryProto(key=DIGEST, value=hashlib.sha256(body).hexdigest())
    return bytes(ModelProto(metadata_props=[entry]).SerializeToString())


def read(path: Path | str) -> Graph:
    """Return what is in the file, from its structure alone; nothing is decoded.

    Raises InputError (unreadable) or FormatError (damaged, or not written by this project).
    """
    model, data = open_model(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    tail = len(digest_entry(b""))
    made = chain_nodes(path, model.graph)
    keys = made_keys(model.graph)
    tensors = {
        i.name: (TYPES[i.data_type][0], tuple(i.dims)) for i in model.graph.initializer if is_key(i.name)
    }
    tensors |= {key: declared(path, model.graph, made, key) for key in keys}
    return Graph(
        metadata=metadata,
        encoding=metadata["compressor.encoding"],
        tensors=tensors,
        chains=keys,
        inputs={value.name: _axes(value) for value in model.graph.input},
        outputs={value.name: _axes(value) for value in model.graph.output},
        digest_ok=data[-tail:] == digest_entry(data[:-tail]),
    )


def open_model(path: Path | str) -> tuple[ModelProto, bytes]:
    """Return the model and the bytes of a file. Raises InputError, FormatError."""
    data = read_bytes(path)
    try:
        model = ModelProto.FromString(data)
    except ProtobufError as error:
        raise FormatError(f"{path}: not an ONNX file, or damaged") from error
    if not all(isinstance(text, str) for text in _texts(model)):  # bytes where protobuf found no UTF-8
        raise FormatError(f"{path}: holds a name that is not UTF-8; the file is damaged")
    graph = model.graph
    if model.functions or model.training_info or graph.sparse_initializer or graph.quantization_annotation:
        raise FormatError(f"{path}: holds parts that this project never writes; export the network again")
    if [(opset.domain, opset.version) for opset in model.opset_import] != [("", OPSET)]:
        raise FormatError(f"{path}: not of opset {OPSET} alone; export the network again")
    names = [i.name for i in graph.initializer] + [v.name for v in graph.input]
    names += [name for node in graph.node for name in node.output if name]
    if len(names) != len(set(names)):
        raise FormatError(f"{path}: two values have the same name; the file is damaged")
    for initialiser in graph.initializer:
        array_of(path, initialiser)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if metadata.get("compressor.encoding") not in ENCODINGS or len(metadata) != len(model.metadata_props):
        raise FormatError(f"{path}: not an ONNX file of compressor, or damaged; export the network with it")
    return model, data


def _texts(model: ModelProto) -> Iterator[object]:
    """Yield every string that the readers look at."""
    for entry in model.metadata_props:
        yield from (entry.key, entry.value)
    for opset in model.opset_import:
        yield opset.domain
    for named in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        yield named.name
    for value in (*model.graph.input, *model.graph.output):
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
    for node in model.graph.node:
        yield from (node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def is_key(name: str) -> bool:
    """Whether a value that is no input or output is a tensor of the state dict."""
    return not name.startswith(INNER)


def made_keys(graph: GraphProto) -> tuple[str, ...]:
    """Return the state-dict keys that are outputs of nodes, in graph order."""
    outputs = {value.name for value in graph.output}
    return tuple(n for node in graph.node for n in node.output if n and is_key(n) and n not in outputs)


def chain_nodes(path: Path | str, graph: GraphProto) -> list[NodeProto]:
    """Return the nodes that the chain-made tensors come from, in graph order."""
    needed = set(made_keys(graph))
    nodes: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            if node.op_type not in OPERATORS or node.domain:
                raise FormatError(
                    f"{path}: no decode chain of ours has a node {node.op_type}; the file is damaged"
                )
            needed.update(node.input)
            nodes.append(node)
    return nodes[::-1]


def declared(
    path: Path | str, graph: GraphProto, nodes: Iterable[NodeProto], key: str
) -> tuple[str, tuple[int, ...]]:
    """Return type and shape of a chain-made tensor as the last nodes of its chain state them."""
    makers = {name: node for node in nodes for name in node.output}
    constants = {i.name: i for i in graph.initializer}
    try:
        sizes = array_of(path, constants[makers[key].input[1]])
        name = key
        for _ in makers:  # a damaged graph may run in a circle
            maker = makers.get(name)
            if maker is None or maker.op_type == "ConstantOfShape":
                break
            name = maker.input[0]
        dtype = maker.attribute[0].t.data_type if maker else constants[name].data_type
        if sizes.dtype == np.int64 and sizes.ndim == 1:
            return TYPES[dtype][0], tuple(sizes.tolist())
    except (KeyError, IndexError):
        pass
    raise FormatError(f"{path}: {key}: not the end of a decode chain; the file is damaged")


def _axes(value: ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def array_of(path: Path | str, initialiser: TensorProto) -> Array:
    """Return the values of an initialiser. Raises FormatError unless its bytes are all in the file, raw."""
    try:
        return stored(initialiser)
    except DecodeError as error:
        raise FormatError(f"{path}: {initialiser.name}: {error}; the file is damaged") from error
