"""The rounding noise of each ATen operator, in units of u/sqrt(3).

Variances are in units of u^2/3. A sum of m products w x: (m/2) sum((w x)^2), whatever the order and the
grouping of the sum; every operation that rounds once: the square of its result.
Source: exporters/rounding.py.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from exporters.noise_planes import INTERPOLATIONS, NORMS, of_interpolation, of_norm

TINY: Final = 2.0**-102  # 2^-126 in units of 2^-24: what is smaller some runtimes flush to zero

PRODUCTS: Final = frozenset({"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "_trilinear"})
SUMS: Final = frozenset({"sum", "nansum", "cumsum"})
MEANS: Final = frozenset(
    {"mean", "avg_pool1d", "avg_pool2d", "avg_pool3d"}
    | {"adaptive_avg_pool1d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"}
)
# Runtimes compute these as 0.5 + an odd function: the error is relative to the gate's 0.5, not to the result.
GATES: Final = frozenset({"sigmoid", "hardsigmoid"})
GATED: Final = frozenset({"silu", "hardswish", "gelu"})
# Runtimes compute these as exp(x) - 1 and log(sigmoid(x)): the error is relative to the 1.
LESS_ONE: Final = frozenset({"elu", "celu", "expm1", "log_sigmoid_forward"})
# These move, choose or copy numbers and round nothing.
EXACT: Final = frozenset({
    "abs", "adaptive_max_pool2d", "amax", "amin", "arange", "argmax", "argmin", "as_strided", "cat", "ceil",
    "channel_shuffle", "clamp", "clamp_max", "clamp_min", "clone", "constant_pad_nd", "copy", "copysign",
    "detach", "embedding", "empty", "empty_like", "expand_copy", "fill", "flip", "floor", "full", "full_like",
    "gather", "hardtanh", "index", "index_put", "index_select", "lift_fresh", "lift_fresh_copy", "masked_fill",
    "max", "max_pool2d_with_indices", "max_pool3d_with_indices", "max_unpool2d", "maximum", "min", "minimum",
    "native_channel_shuffle", "native_dropout", "neg", "new_empty", "new_full", "new_ones", "new_zeros", "ones",
    "ones_like", "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "relu", "repeat",
    "replication_pad2d", "roll", "round", "scalar_tensor", "scatter", "select_scatter", "sign", "slice_scatter",
    "sort", "stack", "topk", "tril", "triu", "trunc", "unfold", "im2col", "unsafe_split",
    "unsafe_split_with_sizes", "upsample_nearest2d", "where", "zero", "zeros", "zeros_like", "_copy_from",
    "_to_copy", "_unsafe_view", "_reshape_copy",
})  # fmt: skip


def rounds(func: Any) -> bool:
    """Whether an operator rounds: views and mere copies do not."""
    view = any(
        value.alias_info is not None and not value.alias_info.is_write for value in func._schema.returns
    )
    return not view and name_of(func) not in EXACT


def name_of(func: Any) -> str:
    """Return an operator's name without overload, the in-place ones under the name of the other."""
    return str(func.overloadpacket.__name__).removesuffix("_")


def noise(
    func: Any,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    out: Any,
    ones: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Return rounding noise for an operator's first result, in units of u/sqrt(3), float64.

    ones: a tensor -> 1 where it takes part in products, 0 where its zeros are pruned weights.
    """
    name = name_of(func)
    result: Tensor = out[0] if isinstance(out, tuple | list) else out
    if name == "convolution":
        return _of_convolution(func, args, result, ones, generator)
    if name in NORMS:
        squares, common = of_norm(name, args, out, generator)
        return _scattered(squares, result, generator).add_(common)
    if name in INTERPOLATIONS:
        squares, common = of_interpolation(args, result, generator)
        return _scattered(squares, result, generator).add_(common)
    if name in PRODUCTS:
        squares = _of_product(func, args, kwargs, ones)
    elif name in SUMS or name in MEANS:
        squares = func(args[0].square(), *args[1:], **kwargs)
        squares.mul_(1 if name in MEANS else _terms(name, args, result) / 2 + 1)
    else:
        squares = _of_function(name, args, func, result)
    return _scattered(squares, result, generator)


def _scattered(squares: Tensor, result: Tensor, generator: torch.Generator) -> Tensor:
    """Return noise of these variances that is a function of the result: equal values are rounded alike.

    The planes that pruning leaves constant err by the same amount everywhere, and averaging does not help.
    """
    seed = torch.randint(2**62, (), generator=generator)
    mixed = (
        result.float().view(torch.int32).long() + seed
    ) * -7046029254386353131  # Steele et al. 2014, SplitMix64
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 27)) * -7723592293110705685
    uniform = (mixed >> 11).double().mul_(3**0.5 / 2.0**52)
    # An exact 0 stays one: code may compare with it.
    return torch.where(squares > 0, squares.sqrt() + TINY, squares).mul_(uniform)


def _of_function(name: str, args: Sequence[Any], func: Any, result: Tensor) -> Tensor:
    """Return the squares of an elementwise operator: those of its result, and of what it went through."""
    if name == "_softmax":  # exp(x - max): the difference is rounded before it is raised
        return result.square() * result.clamp(min=1e-30).log_().square_().add_(2)
    if name in GATES:
        return result.abs().clamp_(min=0.5).square_()
    if name in LESS_ONE:
        return _of_less_one(name, args, result)
    if name in GATED and func._schema.returns[0].alias_info is None:
        return torch.maximum(result.abs(), args[0].abs() / 2).square_()
    return result.square()


def _of_less_one(name: str, args: Sequence[Any], result: Tensor) -> Tensor:
    """Return the squares of exp(x) - 1 and of the logarithm of a number that was rounded beside 1."""
    if name == "expm1":
        return result.abs().clamp_(min=1).square_()
    if name == "log_sigmoid_forward":
        sigmoid = result.exp().clamp_(min=2.0**-126)
        return torch.maximum(result.abs(), sigmoid.clamp(min=0.5) / sigmoid).square_()
    one = abs(math.prod(float(factor) for factor in args[1:3]))  # elu(x, alpha, scale)
    return torch.where(result < 0, result.abs().clamp_(min=one), result).square_()


def _terms(name: str, args: Sequence[Any], result: Tensor) -> float:
    """Return how many terms a sum has, at most."""
    if name == "cumsum":
        return float(args[0].shape[args[1]]) if args[0].ndim else 1.0
    return float(args[0].numel() / max(1, result.numel()))


def _of_product(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any], ones: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return (m/2) sum((w x)^2) of a product of matrices: it is the same product of squares, and of ones."""
    factors = {key: value * value for key, value in kwargs.items()}
    sums: Tensor = func(*_over(args, torch.square), **factors)
    products: Tensor = func(*_over(args, ones))
    return sums.mul_(products.add_(1).div_(2))


def _over(args: Sequence[Any], change: Callable[[Tensor], Tensor]) -> list[Any]:
    return [change(value) if isinstance(value, Tensor) else value for value in args]


def _of_convolution(
    func: Any,
    args: Sequence[Any],
    result: Tensor,
    ones: Callable[[Tensor], Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Return noise of variance (m/2)(W^2 x^2 + b^2), and that of weights which were rounded once.

    Runtimes fold a norm into the weights before it; that error is the same at every position.
    In float32, scaled so that nothing overflows: noise needs no more, and float64 costs five times that.
    """
    inputs, weight, bias, *rest = args
    scales = [float(value.abs().amax()) if value.numel() else 0.0 for value in (inputs, weight)]
    scaled = [(v / (s or 1)).square_().float() for v, s in zip((inputs, weight), scales, strict=True)]
    sums: Tensor = func(*scaled, None, *rest).double().mul_((scales[0] * scales[1]) ** 2)
    if bias is not None:
        sums += bias.square().reshape(-1, *[1] * (sums.ndim - 2))
    # All samples have the same number of products: one is counted.
    products: Tensor = func(ones(inputs[:1]).float(), ones(weight).float(), None, *rest).double()
    scattered = _scattered(sums.mul_(products.add_(1).div_(2)), result, generator)
    folded = (weight / (scales[1] or 1)).float()
    folded *= torch.randn(folded.shape, generator=generator)
    common: Tensor = func((inputs / (scales[0] or 1)).float(), folded, None, *rest)
    return scattered.add_(common.double().mul_(scales[0] * scales[1]))
