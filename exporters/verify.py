"""The proof that an ONNX file is the packed network: structure, bits, outputs, decisions.

Source: DESIGN §9. Each check stands on the one before; after a failed one the others are not made, and no
runtime ever touches a file whose structure is wrong.
"""

import copy
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressor.errors import InputError, unknown
from compressor.packed import load, reader
from compressor.packed.reader import Packed
from compressor.packed.source import TORCH
from exporters.graph import Graph, open_model
from exporters.onnx import export
from exporters.prove import Samples, prove
from exporters.rounding import Reference
from exporters.runtimes import RUNTIMES
from exporters.runtimes.session import Network
from exporters.samples import Inputs, chunks, example, random_inputs
from exporters.structure import absent, bits, foreign, holds_bfloat16, missing, structure
from exporters.verdict import Check, Verdict

if TYPE_CHECKING:
    from torch import nn


def verify(
    packed: Path | str,
    onnx: Path | str,
    *,
    model: "nn.Module | None" = None,
    data: Any = None,
    dense: Path | str | None = None,
    samples: int | str = 256,
    runtimes: Sequence[str] | None = None,
) -> Verdict:
    """Hold an ONNX file against the packed file it should hold, in every runtime that is here.

    model: the architecture; its weights are replaced, in a copy, by the packed ones. Without it there is no
    reference: runtimes are held against each other. data: (x, y), or an iterable of such batches; several
    inputs as ((x1, x2), y); without data, random inputs. samples: how many are held against float64, or
    "all". dense: an ONNX of the dense network, for its time. runtimes: names of RUNTIMES, all by default.
    The digest in the file finds damage and is no signature: who rewrites the file can make a new one. Without
    a model only structure, bits and the runtimes' agreement are proven, not that the graph is the network.
    A failed check is in the verdict and raises nothing. Raises InputError (a file that cannot be read, a
    model that the packed file does not fit, data it does not take), FormatError (the packed file is damaged).
    """
    names, packed, onnx = _asked(runtimes, samples, dense), Path(packed), Path(onnx)
    content = reader.parse(packed)
    if content.kind != "network":
        raise InputError(f"{packed}: is the start of a training; verify the network that came of it")
    module = None if model is None else _twin(model, packed)
    found, graph, decoded = structure(content, packed, onnx)
    found += [] if graph is None else _of_model(model, module, content, onnx)
    if graph is None or not all(check.passed for check in found):
        return Verdict(tuple(found))
    origin, first = _samples(data, onnx, graph, module, None if samples == "all" else int(samples))
    found += absent(content, graph, _unused(missing(content, graph), module, first))
    if all(check.passed for check in found):
        found += bits(content, graph, decoded, onnx) + _drawn(module, first)
    if not all(check.passed for check in found):
        return Verdict(tuple(found))
    network = Network(onnx, module, _masks(content), Path(dense) if dense else None, holds_bfloat16(content))
    more, rows = prove(names, network, tuple(graph.outputs), origin)
    return Verdict((*found, *more), rows)


def _asked(runtimes: Sequence[str] | None, samples: int | str, dense: Path | str | None) -> tuple[str, ...]:
    """Return the names of the runtimes, each once. Raises InputError for what cannot be asked."""
    for name in runtimes or ():
        if name not in RUNTIMES:
            raise unknown("runtime", name, RUNTIMES)
    if samples != "all" and (not isinstance(samples, int) or samples < 1):
        raise InputError(f'samples is {samples!r}; give a number of at least 1, or "all"')
    if dense is not None and not Path(dense).is_file():
        raise InputError(f"{dense}: there is no such file; leave dense out, or export the dense network")
    return tuple(RUNTIMES if runtimes is None else dict.fromkeys(runtimes))


def _twin(model: "nn.Module", packed: Path) -> "nn.Module":
    """Return a copy of the module on the CPU, in evaluation mode, with the packed weights."""
    try:
        twin = copy.deepcopy(model).cpu().eval()
    except Exception as error:  # whatever a foreign module raises in there
        raise InputError(
            f"{type(model).__name__}: cannot be copied for the verification ({error})"
        ) from error
    load(twin, packed)
    return twin


def _drawn(module: "nn.Module | None", inputs: Inputs | None) -> list[Check]:
    """Find a network that draws random numbers: sigma would take its whims for rounding."""
    if module is None or inputs is None:
        return []
    reference, few = Reference(module), tuple(one[:2] for one in inputs)
    try:
        pairs = list(zip(reference.run(few), reference.run(few), strict=True))
    except Exception:  # inputs that it does not take are told where the data are surveyed
        return []
    if all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs):
        return []
    text = "two runs on the same inputs differ: it draws random numbers (dropout without training=self.training?)"
    return [Check("outputs", "torch_cpu", "", False, None, None, f"{type(module).__name__}: {text}")]


def _masks(content: Packed) -> dict[str, Tensor]:
    return {name: torch.from_numpy(one.mask) for name, one in content.tensors.items() if one.mask is not None}


def _of_model(
    model: "nn.Module | None", module: "nn.Module | None", content: Packed, onnx: Path
) -> list[Check]:
    """Return the findings of check 1 that the model decides: its types, and the constants of its code."""
    known = None if module is None else partial(_constants, module, onnx)
    return foreign(onnx, known) + ([] if model is None else _narrowed(model, content))


def _narrowed(model: "nn.Module", content: Packed) -> list[Check]:
    """Find the tensors that the module would compute with in another type than they are packed in."""
    return [
        Check(
            "structure",
            "torch_cpu",
            name,
            False,
            None,
            None,
            f"the model holds it in {tensor.dtype}, packed is {stored.dtype}",
        )
        for name, tensor in model.state_dict().items()
        for stored in [content.tensors[name]]
        if tensor.dtype != TORCH[content.tensors[stored.alias_of or name].dtype]
    ]


def _constants(module: "nn.Module", onnx: Path) -> set[bytes]:
    """Return the constants of a fresh export of the module, made for the inputs that the file declares."""
    with TemporaryDirectory() as folder:
        fresh = Path(folder, "fresh.onnx")
        try:
            export(module, fresh, example(onnx), encoding="dense")
        except InputError:  # a module that torch cannot trace here shows nothing
            return set()
        return {i.raw_data for i in open_model(fresh)[0].graph.initializer}


def _samples(
    data: Any, onnx: Path, graph: Graph, module: "nn.Module | None", referenced: int | None
) -> tuple[Samples, Inputs | None]:
    """Return what to verify on, and its first inputs."""
    if data is None:
        made = random_inputs(onnx, graph)
        if isinstance(made, str):
            return Samples(None, made, "", None), None
        return Samples([(made, None)], "", "random inputs", None), made
    floats = (
        (p.dtype for p in module.parameters() if p.is_floating_point()) if module is not None else iter(())
    )
    batches = chunks(data, referenced, next(floats, torch.float32))
    first = next(batches)
    return Samples(chain([first], batches), "", "", referenced), first[0]


def _unused(
    names: Sequence[str], module: "nn.Module | None", inputs: Inputs | None
) -> dict[str, bool] | None:
    """Return for each tensor whether the float64 reference does without it: it is filled with NaN."""
    if module is None or inputs is None or not names:
        return None
    before = Reference(module).run(inputs)

    def same_without(spoilt: Sequence[str]) -> bool:
        reference = Reference(module)
        for name, tensor in reference.module.state_dict().items():
            if name in spoilt:
                _spoil(tensor)
        try:
            after = reference.run(inputs)
        except (RuntimeError, IndexError, ValueError):  # an index that now points nowhere: it was used
            return False
        return all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True))

    if same_without(names):
        return dict.fromkeys(names, True)
    return {name: same_without([name]) for name in names}


def _spoil(tensor: Tensor) -> None:
    """Overwrite a tensor: NaN where there is one, otherwise any other value."""
    if tensor.is_floating_point() or tensor.is_complex():
        tensor.fill_(float("nan"))
    elif tensor.dtype is torch.bool:
        tensor.logical_not_()
    else:
        tensor.add_(1)


class _Callable(ModuleType):
    """Importing this module binds it as `exporters.verify`, over the function: either can be called."""

    def __call__(self, *args: Any, **kwargs: Any) -> Verdict:
        return verify(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
