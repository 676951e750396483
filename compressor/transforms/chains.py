"""Which layers feed which: from the weight of a producer over operators that keep units apart to its consumers.

A chain is proved from the traced graph: every use of the producer's result is followed to its end. Where one use is
not understood, the producer is tied, with the reason; nothing is done to what is not proved.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from torch import fx

from compressor.transforms.operators import Units, follow
from compressor.transforms.trace import CHECKS, Traced, op_name, shape_of

_LAYERS: Final = {"linear": 0, "conv1d": 1, "conv2d": 2, "conv3d": 3}  # axes behind the channels


@dataclass(frozen=True, slots=True)
class Norm:
    """A batch norm on the way, by the keys of its tensors ("": it has none); factor: its channels per unit."""

    weight: str
    bias: str
    mean: str
    var: str
    eps: float
    factor: int

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the tensors that it has."""
        return tuple(key for key in (self.weight, self.bias, self.mean, self.var) if key)


@dataclass(frozen=True, slots=True)
class Consumer:
    """A weight that reads the units: unit u is its input columns u * factor to (u + 1) * factor.

    node: where it is read. taker: the key of the tensor that can take constants ("": none), `sign` times: its bias
    (+1) or the running mean of the batch norm right behind it (-1). axis: of the units in what it reads.
    """

    weight: str
    factor: int
    axis: int
    padded: bool
    taker: str
    sign: int
    node: fx.Node


@dataclass(frozen=True, slots=True)
class Chain:
    """A weight whose rows are units that may be exchanged; bias: its key, "" for none."""

    weight: str
    bias: str
    units: int
    norms: tuple[Norm, ...]
    consumers: tuple[Consumer, ...]

    def tensors(self) -> list[tuple[str, int]]:
        """Return (key, places per unit) of every tensor that has its units along the first axis."""
        found = [(self.weight, 1), *([(self.bias, 1)] if self.bias else [])]
        return found + [(key, norm.factor) for norm in self.norms for key in norm.keys]


@dataclass(slots=True)
class _Way:
    norms: list[Norm] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Network:
    """The chains, producers before their consumers, and why the other weights' units are tied: {key: reason}."""

    chains: tuple[Chain, ...]
    tied: Mapping[str, str]


def find(traced: Traced) -> Network:
    """Return the chains of a traced network."""
    chains: list[Chain] = []
    tied: dict[str, str] = {}
    for node in traced.nodes:
        if not _is_layer(node):
            continue
        weight = traced.owned(node.args[1])
        if not weight:
            continue
        way = _Way()
        count = shape_of(node.args[1])[0]  # type: ignore[arg-type]
        why = _unfit(traced, node) or _walk(traced, node, Units(count, _axis(node)), way)
        if not why and not way.consumers:
            why = "nothing reads its units"
        if why:
            tied[weight] = why
        else:
            chains.append(
                Chain(weight, traced.owned(_bias(node)), count, tuple(way.norms), tuple(way.consumers))
            )
    return Network(tuple(chains), tied)


def _unfit(traced: Traced, node: fx.Node) -> str:
    if _groups(node) != 1:
        return "its channels are grouped"
    return "its bias is used elsewhere too" if _bias(node) is not None and not _own_bias(traced, node) else ""


def _walk(traced: Traced, node: fx.Node, at: Units, way: _Way) -> str:
    """Follow every use of a result; return why the units are tied, "" where all uses are understood."""
    for user in node.users:
        if user.op == "output":
            return "its units are an output of the network"
        if op_name(user) in CHECKS or (op_name(user) == "getitem" and not user.users):
            continue
        if _is_layer(user):
            why = _consumed(traced, user, node, at, way)
        elif op_name(user) == "batch_norm":
            norm = _norm(traced, user, node, at)
            way.norms += [norm] if norm else []
            why = (
                _walk(traced, user, at, way)
                if norm
                else "a batch norm behind it is not fixed, or used elsewhere too"
            )
        else:
            after = follow(user, node, at)
            why = _walk(traced, user, after, way) if after else _mixed(user)
        if why:
            return why
    return ""


def _mixed(node: fx.Node) -> str:
    tensors = [one for one in node.all_input_nodes if one.op != "placeholder"]
    if len(tensors) > 1:
        return f"its units meet another tensor ({op_name(node)})"
    return f"{op_name(node)} behind it is not known to keep its units apart"


def _consumed(traced: Traced, user: fx.Node, source: fx.Node, at: Units, way: _Way) -> str:
    weight = traced.owned(user.args[1])
    if user.args[0] is not source or source in user.args[1:]:
        return "its units are used as weights"
    if not weight:
        return "it feeds a weight that is computed, or used elsewhere too"
    if _groups(user) != 1:
        return f"it feeds {weight}, whose channels are grouped"
    if at.axis != _axis(user):
        return f"it feeds {weight}, which does not read unit by unit"
    taker, sign = _taker(traced, user)
    way.consumers.append(Consumer(weight, at.factor, at.axis, _is_padded(user), taker, sign, user))
    return ""


def _taker(traced: Traced, node: fx.Node) -> tuple[str, int]:
    """Return which tensor behind a layer takes a constant: its bias, or the mean of the norm that alone reads it."""
    if _bias(node) is not None:
        return (traced.owned(_bias(node)), 1)
    behind = [user for user in node.users if op_name(user) not in CHECKS]
    if len(behind) == 1 and op_name(behind[0]) == "batch_norm":
        norm = _norm(traced, behind[0], node, Units(shape_of(node)[_axis(node)], _axis(node)))
        return (norm.mean, -1) if norm else ("", 1)
    return ("", 1)


def _norm(traced: Traced, node: fx.Node, source: fx.Node, at: Units) -> Norm | None:
    """Return a batch norm with fixed statistics that nothing else uses; None for any other."""
    operand, *tensors, training, _, eps, _ = node.args
    keys = ["" if one is None else traced.owned(one) for one in tensors]
    unknown = any(one is not None and not key for one, key in zip(tensors, keys, strict=True))
    if operand is not source or at.axis != 1 or training or unknown or not (keys[2] and keys[3]):
        return None
    assert isinstance(eps, float)
    weight, bias, mean, var = keys
    return Norm(weight, bias, mean, var, eps, at.factor)


def _is_layer(node: fx.Node) -> bool:
    return node.op == "call_function" and op_name(node) in _LAYERS and isinstance(node.args[1], fx.Node)


def _axis(node: fx.Node) -> int:
    return len(shape_of(node)) - 1 - _LAYERS[op_name(node)]


def _bias(node: fx.Node) -> object:
    return node.args[2] if len(node.args) > 2 else None


def _own_bias(traced: Traced, node: fx.Node) -> bool:
    return bool(traced.owned(_bias(node)))


def _groups(node: fx.Node) -> object:
    return node.args[6] if len(node.args) > 6 else 1


def _is_padded(node: fx.Node) -> bool:
    """Whether a convolution reads zeros around its input; "same" may."""
    padding = node.args[4] if len(node.args) > 4 else 0
    if isinstance(padding, list | tuple):
        return any(padding)
    return padding not in (0, "valid")
