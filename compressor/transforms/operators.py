"""Which operators keep the units of a layer apart, and where the units lie behind each.

An operator is on a list only if every unit of its result depends on the same unit of its operand and on nothing else,
by the same function for all units: then units may be exchanged before it or behind it, and a unit that is constant
before it is constant behind it. None makes an infinity of 0, which a pruned weight would turn into NaN. What is on
no list ties the units.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from torch import fx

from compressor.transforms.trace import op_name, shape_of


@dataclass(frozen=True, slots=True)
class Units:
    """Where `count` units lie in a tensor: unit u is the places u * factor to (u + 1) * factor of `axis`."""

    count: int
    axis: int
    factor: int = 1


ELEMENTWISE: Final = frozenset({
    "abs", "add", "alias", "celu", "clamp", "clamp_max", "clamp_min", "clone", "contiguous", "detach", "elu",
    "exp", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "lift_fresh_copy",
    "log_sigmoid", "mish", "mul", "neg", "relu", "relu6", "rsub", "selu", "sigmoid", "silu",
    "softplus", "softshrink", "sqrt", "square", "sub", "tanh", "threshold", "to", "_to_copy",
})  # fmt: skip
DROPOUTS: Final = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
RESHAPES: Final = frozenset({
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
})  # fmt: skip
REDUCTIONS: Final = frozenset({"mean", "amax"})
POOLS: Final = {
    f"{kind}{axes}d{end}": axes
    for axes in (1, 2, 3)
    for kind, end in (
        ("max_pool", ""),
        ("max_pool", "_with_indices"),
        ("avg_pool", ""),
        ("adaptive_avg_pool", ""),
        ("adaptive_max_pool", ""),
    )
}


def follow(node: fx.Node, source: fx.Node, at: Units) -> Units | None:
    """Return where the units of `source` lie in the result of `node`, None where they are not kept apart."""
    name = op_name(node)
    if name == "prelu":
        slope = node.args[1]
        return at if isinstance(slope, fx.Node) and math.prod(shape_of(slope)) == 1 else None
    if set(node.all_input_nodes) != {source}:
        return None  # another tensor takes part
    if name in DROPOUTS:
        return None if node.args[2] else at
    for names, rule in _RULES.items():
        if name in names:
            return rule(node, source, at)
    return None


def _elementwise(node: fx.Node, source: fx.Node, at: Units) -> Units | None:
    return at if shape_of(node) == shape_of(source) and node.meta["val"].is_floating_point() else None


def _divided(node: fx.Node, source: fx.Node, at: Units) -> Units | None:
    """By a number, not by the unit, which may become 0."""
    return None if node.args[1] is source else _elementwise(node, source, at)


def _pooled(node: fx.Node, source: fx.Node, at: Units) -> Units | None:
    """Pooling over the last axes, those of the units not among them."""
    return at if at.axis < len(shape_of(source)) - POOLS[op_name(node)] else None


def _powered(node: fx.Node, source: fx.Node, at: Units) -> Units | None:
    """A power with a fixed exponent of 0 or more: a unit that is set to 0 must not become infinite."""
    exponent = node.args[1]
    fits = node.args[0] is source and isinstance(exponent, int | float) and exponent >= 0
    return at if fits else None


def _padded(node: fx.Node, source: fx.Node, at: Units) -> Units | None:
    pads = node.args[1]
    axes = len(pads) // 2 if isinstance(pads, list | tuple) else math.inf
    return at if at.axis < len(shape_of(source)) - axes else None


def _picked(node: fx.Node, source: fx.Node, at: Units) -> Units | None:
    """The values of a pooling that gives values and places."""
    known = source.op == "call_function" and op_name(source) in POOLS
    return at if known and node.args[1] == 0 else None


def _reduced(node: fx.Node, source: fx.Node, at: Units) -> Units | None:
    rank, given = len(shape_of(source)), node.args[1] if len(node.args) > 1 else None
    if not isinstance(given, list | tuple) or not given:
        return None  # over all axes
    axes = {int(axis) % rank for axis in given if isinstance(axis, int)}
    if at.axis in axes:
        return None
    gone = 0 if len(shape_of(node)) == rank else sum(axis < at.axis for axis in axes)
    return Units(at.count, at.axis - gone, at.factor)


def _reshaped(node: fx.Node, source: fx.Node, at: Units) -> Units | None:
    """Find the axis whose places are still unit by unit: row-major order leaves a unit's values together."""
    old, new = shape_of(source), shape_of(node)
    before = math.prod(old[: at.axis])
    for axis, places in enumerate(new):
        if math.prod(new[:axis]) == before and places >= at.count and places % at.count == 0:
            return Units(at.count, axis, places // at.count)
    return None


_RULES: Final[Mapping[frozenset[str], Callable[[fx.Node, fx.Node, Units], Units | None]]] = {
    ELEMENTWISE: _elementwise,
    frozenset({"div"}): _divided,
    frozenset(POOLS): _pooled,
    frozenset({"pow"}): _powered,
    frozenset({"pad", "constant_pad_nd"}): _padded,
    frozenset({"getitem"}): _picked,
    REDUCTIONS: _reduced,
    RESHAPES: _reshaped,
}
