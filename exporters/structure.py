"""Checks 1 and 2: the ONNX holds the tensors of the packed file, and holds them bit for bit. No torch."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from compressor.errors import FormatError
from compressor.files import sha256
from compressor.packed.reader import Packed, Stored
from exporters.graph import Graph, open_model
from exporters.onnx import chains_model, decode, read
from exporters.runtimes import ort_cpu
from exporters.runtimes.ort_session import open_session
from exporters.runtimes.session import KernelError
from exporters.verdict import Check
from exporters.wiring import posing, unread

Array = npt.NDArray[Any]


def structure(
    packed: Packed, packed_path: Path, onnx: Path
) -> tuple[list[Check], Graph | None, dict[str, Array]]:
    """Return the findings of check 1, the graph, and its tensors as our own decoder rebuilds them.

    Tensors that the graph does not have are not judged here (see `missing`). Raises InputError if the ONNX
    file cannot be read at all; damage is a finding.
    """
    try:
        graph = read(onnx)
        if not graph.digest_ok:
            return (
                [_failed("", f"{onnx.name}: its bytes are not those its digest was made of; damaged")],
                None,
                {},
            )
        decoded = decode(onnx)
        unused = unread(open_model(onnx)[0].graph)
    except FormatError as error:
        return [_failed("", str(error))], None, {}
    stale = _stale(graph, packed_path, onnx)
    own = {name: stored for name, stored in packed.tensors.items() if stored.alias_of is None}
    found = [_failed("", stale)] if stale else []
    found += [_failed(name, "in the ONNX, but not in the packed file") for name in decoded if name not in own]
    found += [_failed(name, "in the ONNX, but its network does not use it") for name in unused if name in own]
    for name, stored in own.items():
        if name in decoded:
            wrong = _misfit(stored, *graph.tensors[name]) or _zeros(stored, decoded[name])
            found += [_failed(name, wrong)] if wrong else []
    if not found:
        aliases = [f"{n} = {s.alias_of}" for n, s in packed.tensors.items() if s.alias_of is not None]
        text = f"{len(decoded)} tensors, same names, shapes and zeros; digest right"
        text += (
            "" if "compressor.packed_sha256" in graph.metadata else "; packed file not recorded in the ONNX"
        )
        text += f"; aliases: {', '.join(aliases)}" if aliases else ""
        found = [Check("structure", "", "", True, len(decoded), None, text)]
    return found, graph, decoded


def foreign(onnx: Path, known: Callable[[], set[bytes]] | None) -> list[Check]:
    """Judge the constants that stand where weights stand: only the model's own code may have put them there.

    known: the bytes of all constants in a fresh export of the model; None: no model.
    """
    graph = open_model(onnx)[0].graph
    names = posing(graph)
    if not names:
        return []
    ours = known() if known else set()
    why = "the model's own export has no such constant" if known else "no model shows that its code has it"
    return [
        _failed(i.name, f"a constant in the place of a weight, in no packed file, and {why}")
        for i in graph.initializer
        if i.name in names and i.raw_data not in ours
    ]


def missing(packed: Packed, graph: Graph) -> list[str]:
    """Return the names of the packed file that the graph does not have, aliases left out."""
    return [n for n, stored in packed.tensors.items() if stored.alias_of is None and n not in graph.tensors]


def absent(packed: Packed, graph: Graph, unused: Mapping[str, bool] | None) -> list[Check]:
    """Judge the missing tensors. unused: whether the float64 reference does without each; None: no reference.

    Without a reference only integers may be missing: they are counters like num_batches_tracked, and those
    that the network reads (indices, positions) the exporter keeps as it keeps every tensor that a node reads.
    """
    names = missing(packed, graph)
    if unused is None:
        fine = [name for name in names if packed.tensors[name].dtype[0] in "IU"]
        allowed, wrong = (
            "integers; no reference",
            "no reference shows that the network does without it; give the model",
        )
    else:
        fine = [name for name in names if unused[name]]
        allowed, wrong = (
            "the float64 reference does not depend on them",
            "the float64 reference depends on it",
        )
    found = [_failed(name, f"not in the ONNX, and {wrong}") for name in names if name not in fine]
    if fine:
        text = f"{len(fine)} tensors not in the ONNX ({allowed}): {', '.join(fine)}"
        found.append(Check("structure", "", "", True, len(fine), None, text))
    return found


def bits(packed: Packed, graph: Graph, decoded: Mapping[str, Array], onnx: Path) -> list[Check]:
    """Return the findings of check 2: by our own decoder, then by the decode chains alone in onnxruntime."""
    found = _compared(packed, decoded, "", "our own decoder")
    if not graph.chains:
        text = "no decode chains: ordinary initialisers"
        return [*found, Check("bits", "ort_cpu", "", True, 0, None, text)]
    try:
        session = open_session(chains_model(onnx), ort_cpu.PROVIDER, {})
        rebuilt = dict(zip(graph.chains, session.run(None, {}), strict=True))
    except Exception as error:  # whatever a runtime raises is the finding
        lacking = isinstance(error, KernelError) and holds_bfloat16(packed)
        text = f"cannot run the decode chains ({error})"
        return [*found, Check("bits", "ort_cpu", "", lacking, None, None, text, ran=not lacking)]
    return found + _compared(packed, rebuilt, "ort_cpu", "the graph's decode chains in onnxruntime")


def holds_bfloat16(packed: Packed) -> bool:
    """Whether runtimes may lack kernels for this network; asked of the packed file, not of the ONNX."""
    return any(stored.dtype == "BF16" for stored in packed.tensors.values())


def _compared(packed: Packed, tensors: Mapping[str, Array], runtime: str, decoder: str) -> list[Check]:
    found = []
    for name, array in tensors.items():
        stored = packed.tensors[name]
        ours, theirs = _raw(stored.data), _raw(array)
        if ours.size != theirs.size or ours.dtype != theirs.dtype:
            text = f"{decoder} makes {array.dtype} {list(array.shape)} of it, packed is {stored.dtype} {stored.shape}"
            found.append(Check("bits", runtime, name, False, None, 0, text))
        elif count := int(np.count_nonzero(ours != theirs)):
            at = int(np.flatnonzero(ours != theirs)[0])
            values = f"{stored.data.reshape(-1)[at]} packed, {array.reshape(-1)[at]} here"
            text = f"{count} of {ours.size} values differ by {decoder}, the first at {_place(at, stored)}: {values}"
            found.append(Check("bits", runtime, name, False, count, 0, text))
    text = f"{len(tensors)} tensors bit-identical by {decoder}"
    return found or [Check("bits", runtime, "", True, len(tensors), None, text)]


def _raw(array: Array) -> Array:
    """Return the elements, flat, as unsigned integers of their width."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(f"u{flat.dtype.itemsize}")


def _place(index: int, stored: Stored) -> str:
    return str([int(i) for i in np.unravel_index(index, stored.shape)])


def _failed(name: str, text: str) -> Check:
    return Check("structure", "", name, False, None, None, text)


def _stale(graph: Graph, packed_path: Path, onnx: Path) -> str:
    recorded = graph.metadata.get("compressor.packed_sha256")
    now = sha256(packed_path)
    if recorded in (None, now):
        return ""
    return (
        f"{packed_path.name} is not the packed file that {onnx.name} was exported from "
        f"(SHA-256 {now[:12]}, exported from {str(recorded)[:12]}): one of the two is stale; export again"
    )


def _misfit(stored: Stored, dtype: str, shape: tuple[int, ...]) -> str:
    if (stored.dtype, stored.shape) == (dtype, shape):
        return ""
    return f"{dtype} {list(shape)} in the ONNX, {stored.dtype} {list(stored.shape)} in the packed file"


def _zeros(stored: Stored, array: Array) -> str:
    """Return what differs in the pattern of zeros, or ""."""
    ours, theirs = stored.data.reshape(-1) == 0, array.reshape(-1) == 0
    if ours.shape == theirs.shape and np.array_equal(ours, theirs):
        return ""
    revived, lost = np.flatnonzero(ours & ~theirs), np.flatnonzero(~ours & theirs)
    text = f"{revived.size} zeros of the packed file are not zero in the ONNX, {lost.size} non-zeros are"
    return f"{text}; the first at {_place(int((*revived, *lost)[0]), stored)}"
