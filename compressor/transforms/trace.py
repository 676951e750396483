"""A network as a graph of ATen operators, and the float64 values on its edges."""

import io
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_map

from compressor.batches import collected, example_inputs
from compressor.copies import copied, first_line
from compressor.errors import InputError
from compressor.weights import aliases
from exporters.rounding import UNIT, open_layers

Inputs = tuple[Tensor, ...]

CHECKS: Final = frozenset({"_assert_tensor_metadata", "_assert_async", "_assert_scalar"})


@dataclass(frozen=True, slots=True)
class Traced:
    """The graph of a module in eval mode. names: placeholder -> state-dict key of a parameter or buffer.

    A tensor that lies under several keys is in no names: what is done to it is done in several places.
    """

    program: ExportedProgram
    inputs: Inputs
    names: Mapping[str, str]

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """The operators, in the order in which they run."""
        return tuple(self.program.graph.nodes)

    def owned(self, node: object) -> str:
        """Return the key of a parameter or buffer that one operator alone reads; "" for anything else."""
        alone = isinstance(node, fx.Node) and len(node.users) == 1
        return self.names.get(node.name, "") if alone and isinstance(node, fx.Node) else ""


def inputs_of(model: nn.Module, data: Any) -> list[Inputs]:
    """Return all batches of `data` without labels, on the CPU, floating ones in the dtype of the network.

    data: as for `prune`. Raises InputError for anything else.
    """
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    held = collected(data, whole=True)
    items = [data] if held is data else [tuple(one) if isinstance(one, list) else one for one in held]
    if not items:
        raise InputError("data: the iterable is empty; the transform is proved on at least one batch")
    return [
        tuple(x.detach().cpu().to(dtype if x.is_floating_point() else x.dtype) for x in example_inputs(item))
        for item in items
    ]


def traced(model: nn.Module, inputs: Inputs) -> Traced:
    """Return the graph of a module, made on two samples, or on all where the network insists on its batch.

    Raises InputError if torch cannot trace it.
    """
    twin = copied(model).cpu()
    count = len(inputs[0]) if inputs[0].dim() else 0
    small = tuple(x[:2] if x.dim() and len(x) == count else x for x in inputs)
    failure: Exception | None = None
    for example in (small, inputs):
        try:
            with torch.no_grad(), _quiet(), open_layers():
                program = torch.export.export(twin, example)
        except Exception as error:  # whatever a foreign module raises in there
            failure = failure or error
            continue
        same = aliases(twin)
        shared = set(same) | set(same.values())
        names = {
            spec.arg.name: spec.target
            for spec in program.graph_signature.input_specs
            if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER) and spec.target not in shared
        }
        return Traced(program, example, {name: key for name, key in names.items() if key is not None})
    assert failure is not None
    raise InputError(
        f"{type(model).__name__}: torch.export cannot trace it, so nothing about its units can be proved "
        f"({first_line(failure)})"
    ) from failure


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch says while it traces; its errors still come as exceptions."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        # torch prints the graph that it gives up.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def op_name(node: fx.Node) -> str:
    """Return the name of a node's operator, of an in-place one that of the other: relu for aten.relu_.default."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).removesuffix("_")


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's result, () for what is not one tensor."""
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, Tensor) else ()


def values_at(
    found: Traced, tensors: Mapping[str, Tensor], readers: Collection[fx.Node]
) -> dict[str, Tensor]:
    """Return {reader: its first operand} in float64, computed by running the whole graph with these tensors.

    tensors: state-dict key -> float64 parameter or buffer; none is changed. Raises InputError if that fails.
    """
    run = _InFloat64(found.program.graph_module, {node.name for node in readers})
    given = iter(found.inputs)
    arguments = []
    for spec in found.program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT:
            arguments.append(next(given))
        else:
            stored = found.program.constants.get(spec.target)
            arguments.append(tensors.get(str(spec.target), stored))
    try:
        with torch.no_grad(), _quiet(), open_layers():
            run.run(*(_wide(one.clone()) if isinstance(one, Tensor) else one for one in arguments))
    except Exception as error:  # operators without a float64 kernel
        raise InputError(f"the traced network does not run in float64 ({first_line(error)})") from error
    return run.found


class _InFloat64(fx.Interpreter):
    """Runs a graph in float64, whatever it casts to, and keeps the first operand of some nodes."""

    def __init__(self, module: fx.GraphModule, wanted: Collection[str]) -> None:
        super().__init__(module)
        self.wanted, self.found = wanted, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        """Keep what a wanted node is about to read: in-place operators before it have had their effect."""
        if n.name in self.wanted:
            operand = self.env[n.args[0]]  # type: ignore[index]
            self.found[n.name] = operand.clone()
        return super().run_node(n)

    def call_function(self, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run one operator; the tracer's notes on types are of the network as it is, not of this run."""
        if getattr(getattr(target, "overloadpacket", None), "__name__", "") in CHECKS:
            return None
        wide, options = tree_map(_wide, tuple(args)), tree_map(_wide, kwargs)
        return super().call_function(target, wide, options)


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype in UNIT else value
    return torch.float64 if isinstance(value, torch.dtype) and value in UNIT else value
