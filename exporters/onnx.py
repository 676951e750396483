"""ONNX files, dense and compact: every tensor of the state dict under its key, with its exact bits.

compact: sparse tensors are small initialisers and standard operators that rebuild them when a session loads.
The bytes depend on the network, the mask and the versions of torch and this package, on nothing else.
"""

import copy
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx

from compressor.errors import InputError, unknown
from compressor.files import sha256, writing
from exporters.chains import Array, tensor
from exporters.decoder import chains_model, decode
from exporters.encodings import chains, weight
from exporters.graph import ENCODINGS, INNER, Graph, digest_entry, read
from exporters.wiring import names_read

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Graph", "chains_model", "decode", "export", "read"]

_PROTOBUF_LIMIT: Final = 2**31 - 1  # bytes of one file; beyond it ONNX wants external data, which hubs break

_TYPES: Final = {  # torch -> ONNX
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "float64": onnx.TensorProto.DOUBLE,
    "float8_e4m3fn": onnx.TensorProto.FLOAT8E4M3FN,
    "float8_e5m2": onnx.TensorProto.FLOAT8E5M2,
    "bool": onnx.TensorProto.BOOL,
    "int8": onnx.TensorProto.INT8,
    "int16": onnx.TensorProto.INT16,
    "int32": onnx.TensorProto.INT32,
    "int64": onnx.TensorProto.INT64,
    "uint8": onnx.TensorProto.UINT8,
    "uint16": onnx.TensorProto.UINT16,
    "uint32": onnx.TensorProto.UINT32,
    "uint64": onnx.TensorProto.UINT64,
    "complex64": onnx.TensorProto.COMPLEX64,
}


def export(
    model: "nn.Module",
    path: Path | str,
    example: "Tensor | tuple[Tensor, ...]",
    *,
    mask: "Mapping[str, Tensor] | None" = None,
    encoding: str = "compact",
    packed: Path | None = None,
) -> None:
    """Write a module in eval mode as one ONNX file, opset 18, with a dynamic axis "batch".

    The module itself is not changed.

    example: one input (batch, ...) or a tuple of them, of any batch size; only shapes and types matter.
    mask: state-dict key -> bool, True = kept; without it the mask of the file `packed` counts, without both
    nothing is sparse. encoding: "compact" or "dense" (the same tensors as ordinary initialisers).
    packed: the packed file that this ONNX belongs to; its SHA-256 is recorded.
    Raises InputError (unknown encoding, NaN or infinity in a weight, a mask that does not fit, a module that
    torch cannot trace, an example it does not take, more than 2 GiB), FormatError (`packed` is damaged),
    HostError (`path` cannot be written).
    """
    if encoding not in ENCODINGS:
        raise unknown("encoding", encoding, ENCODINGS)
    if mask is None and packed is not None:
        from compressor.packed import unpack_mask

        mask = unpack_mask(packed)
    state, names = _state(model)
    masks = _fitting(mask or {}, state, names)
    traced = _trace(model, example, names)
    _add_tensors(traced, state, masks, encoding)
    metadata = {"compressor.version": version("compressor"), "compressor.encoding": encoding}
    if mask is not None:
        kept, total = sum(int(m.sum()) for m in masks.values()), sum(m.size for m in masks.values())
        metadata["compressor.density"] = repr(kept / total if total else 1.0)
    if packed is not None:
        metadata["compressor.packed_sha256"] = sha256(packed)
    _write(traced, metadata, Path(path), type(model).__name__)


def _state(model: "nn.Module") -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Return the tensors by first name, and the first name of every key."""
    import torch

    from compressor.weights import aliases

    others = aliases(model)
    tensors = {key: t.detach() for key, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    for key, one in tensors.items():
        if key.startswith(INNER):
            raise InputError(
                f'"{key}": a tensor whose name starts with "{INNER}" cannot be exported; rename it'
            )
        if one.is_floating_point() and not bool(torch.isfinite(one).all()):
            raise InputError(f'"{key}" holds NaN or infinity; such a network cannot be exported')
    names = {key: others.get(key, key) for key in tensors}
    return {key: one for key, one in tensors.items() if names[key] == key}, names


def _fitting(
    mask: "Mapping[str, Tensor]", state: "Mapping[str, Tensor]", names: Mapping[str, str]
) -> dict[str, Array]:
    """Return the masks, flat, by first name. Raises InputError for what does not fit."""
    masks: dict[str, Array] = {}
    for key, kept in mask.items():
        if key not in names:
            raise unknown("weight in mask", key, names)
        weights = state[names[key]]
        if kept.shape != weights.shape:
            shapes = f"{tuple(kept.shape)} does not fit the weight's {tuple(weights.shape)}"
            raise InputError(f'mask "{key}": shape {shapes}')
        if bool((weights[~kept.to(weights.device)] != 0).any()):
            raise InputError(
                f'"{key}": holds a weight that the mask prunes and that is not zero; apply the mask first'
            )
        masks[names[key]] = kept.detach().cpu().reshape(-1).numpy()
    return masks


def _trace(
    model: "nn.Module", example: "Tensor | tuple[Tensor, ...]", names: Mapping[str, str]
) -> onnx.ModelProto:
    """Trace a copy, in eval mode on the CPU, with a batch of 2: torch.export takes 0 and 1 for constants."""
    from exporters.cleanup import clean
    from exporters.tracing import trace

    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or not inputs[0].ndim or not len(inputs[0]):
        raise InputError("the example holds no sample; give one input of shape (batch, ...)")
    batch = len(inputs[0])
    pairs = tuple(
        one.detach().cpu()[[0, min(1, batch - 1)]] if one.ndim and len(one) == batch else one.detach().cpu()
        for one in inputs
    )
    try:
        twin = copy.deepcopy(model)
    except Exception as error:  # whatever a foreign module raises in there
        raise InputError(f"{type(model).__name__}: cannot be copied for the export ({error})") from error
    return clean(trace(twin.cpu().eval(), pairs), names)


def _add_tensors(
    traced: onnx.ModelProto, state: "Mapping[str, Tensor]", masks: Mapping[str, Array], encoding: str
) -> None:
    """Put the tensors that the graph uses into it, in the order of the state dict."""
    used = names_read(traced.graph.node)
    stored = {key: (*_bits(one), tuple(one.shape)) for key, one in state.items() if key in used}
    for key, kept in masks.items():
        if key in stored:
            # a mask multiply leaves -0.0 behind: pruned places are +0.0 in every file
            dtype, bits, shape = stored[key]
            stored[key] = (dtype, bits * kept, shape)
    made = []
    if encoding == "compact":
        sparse = [key for key in stored if key in masks]
        made = chains([weight(k, stored[k][0], stored[k][2], stored[k][1], masks[k]) for k in sparse])
    compact = {key for chain in made for key in chain.names}
    dense = {key: one for key, one in stored.items() if key not in compact}
    if sum(chain.size for chain in made) + sum(one[1].nbytes for one in dense.values()) > _PROTOBUF_LIMIT:
        raise InputError("the network is larger than 2 GiB as ONNX; one file cannot hold it")
    parts = {name: part for chain in made for name, part in chain.initialisers.items()}
    traced.graph.initializer.extend(parts.values())
    traced.graph.initializer.extend(tensor(key, one[0], one[2], one[1]) for key, one in dense.items())
    nodes = [*(node for chain in made for node in chain.nodes), *traced.graph.node]
    del traced.graph.node[:]
    traced.graph.node.extend(nodes)


def _bits(one: "Tensor") -> tuple[int, Array]:
    """Return the ONNX type and the bits, flat, as unsigned integers of the tensor's width."""
    import torch

    types = {getattr(torch, name): number for name, number in _TYPES.items()}
    if one.layout != torch.strided or one.dtype not in types:
        raise InputError(f"a tensor of {one.dtype}, {one.layout} cannot be exported; convert it first")
    flat = one.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    width = one.element_size()
    return types[one.dtype], flat.view(f"<u{width}")


def _write(traced: onnx.ModelProto, metadata: Mapping[str, str], path: Path, name: str) -> None:
    traced.producer_name = "compressor"
    for key, value in metadata.items():
        traced.metadata_props.add(key=key, value=value)
    body = traced.SerializeToString()
    with writing(path) as beside:
        beside.write_bytes(body + digest_entry(body))
        try:
            onnx.checker.check_model(str(beside), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            cause = str(error).strip().splitlines()[0]
            raise InputError(
                f"{name}: torch exports it to a graph that is not valid ONNX ({cause})"
            ) from error
