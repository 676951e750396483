"""The rounding noise of normalisations and interpolations, in units of u/sqrt(3): part of it is common.

What all elements of a plane share (a mean, a scale, a source coordinate) errs for all of them alike, and no
average over the plane takes that away. Source: exporters/rounding.py.
"""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

FIXED_NORMS: Final = frozenset({"_native_batch_norm_legit_no_training", "cudnn_batch_norm"})
NORMS: Final = FIXED_NORMS | {
    "native_batch_norm",
    "_native_batch_norm_legit",
    "native_layer_norm",
    "native_group_norm",
}
INTERPOLATIONS: Final = frozenset(
    {"upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d"}
    | {"_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"}
)
LANES: Final = 8  # partial sums that a vector unit keeps of a long sum, at the least


def systematic(rows: Tensor) -> Tensor:
    """Return the relative error, in units of u/sqrt(3), that equal addends give the sum of each row: (N, 1).

    A partial sum rounds the same addend the same way every time, by up to u times itself; it grows evenly,
    so n additions leave up to n/2 u in all, and not sqrt(n) u. Only elements count that differ from the next
    one in their lane by less than what the partial sum cannot hold. rows: (N, elements).
    """
    length = rows.shape[1]
    if length <= LANES:
        return rows.new_zeros(len(rows), 1)
    size = rows.abs().mean(dim=1, keepdim=True)
    same = (rows[:, LANES:] - rows[:, :-LANES]).abs_() <= size * (length / LANES * 2.0**-24)
    same &= rows[:, LANES:] != 0
    return same.sum(dim=1, keepdim=True).to(rows.dtype).div_(2 * LANES)


def of_norm(
    name: str, args: Sequence[Any], out: Sequence[Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return variance and common noise of y = (x - mean) r w + b.

    Where the mean is large beside the spread, x r w and mean r w cancel; and r from a variance computed as
    E[x^2] - mean^2, as some runtimes do, is off by the square of that. r is the same at many positions.
    """
    result = out[0]
    fixed = name in FIXED_NORMS or (name == "native_batch_norm" and not args[5])
    mean, rstd, weight, bias, channels = _statistics(name, args, out, fixed)
    scale = result.new_ones(()) if weight is None else weight.reshape(channels)
    shift = result.new_zeros(()) if bias is None else bias.reshape(channels)
    off = (mean * rstd).square_()
    squares = result.square() + shift.square() + scale.square() * off
    if not fixed:
        squares += ((result - shift) * (1 + off) / 2).square_()
    common = torch.randn((2, *rstd.shape), generator=generator, dtype=rstd.dtype)
    same = (result - shift) * common[0] + (scale * mean * rstd + shift) * common[1]
    if not fixed:
        of_mean, of_rstd = _of_statistics(name, args, rstd, generator)
        same += (result - shift) * of_rstd - scale * rstd * of_mean
    return squares, same


def _statistics(
    name: str, args: Sequence[Any], out: Sequence[Tensor], fixed: bool
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, list[int]]:
    """Return mean, 1 / spread, weight, bias, and the shape in which the last two fit the result."""
    spread = [1] * (out[0].ndim - 2)
    if name == "native_layer_norm":
        return out[1], out[2], args[2], args[3], list(args[1])
    if name == "native_group_norm":
        batch, number, groups = args[3], args[4], args[6]
        mean, rstd = (
            value.reshape(batch, groups, 1).expand(-1, -1, number // groups).reshape(batch, number, *spread)
            for value in out[1:3]
        )
        return mean, rstd, args[1], args[2], [number, *spread]
    mean, rstd = (args[3], (args[4] + args[-1]).rsqrt()) if fixed else (out[1], out[2])
    channels = [-1, *spread]
    return mean.reshape(channels), rstd.reshape(channels), args[1], args[2], channels


def _of_statistics(
    name: str, args: Sequence[Any], rstd: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return what sums over (nearly) equal elements add to the mean, and to 1 / spread relative to itself."""
    inputs = args[0]
    if name == "native_layer_norm":
        rows = inputs.reshape(rstd.numel(), -1)
    elif name == "native_group_norm":
        rows = inputs.reshape(args[3] * args[6], -1)
    else:
        rows = inputs.transpose(0, 1).reshape(inputs.shape[1], -1)
    drift = systematic(rows) * torch.randn((2, len(rows), 1), generator=generator, dtype=rows.dtype)
    of_mean = drift[0] * rows.abs().mean(dim=1, keepdim=True)
    of_rstd = drift[1] / 2
    if name == "native_group_norm":
        count = args[4] // args[6]
        of_mean, of_rstd = of_mean.expand(-1, count), of_rstd.expand(-1, count)
    return of_mean.reshape(rstd.shape), of_rstd.reshape(rstd.shape)


def of_interpolation(
    args: Sequence[Any], result: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return variance and common noise of an interpolation between neighbours.

    The source coordinate (i + 0.5) scale - 0.5 is rounded: scale once for all, and then every product and
    difference. An error of it moves the result by the slope between the two neighbours. A scale that float32
    holds (1/2) makes exact coordinates.
    """
    inputs, corners = args[0], int(args[2])
    sizes = list(zip(inputs.shape[2:], result.shape[2:], strict=True))
    factors = [None if corners else factor for factor in args[3:]] or [None] * len(sizes)
    scales = [
        1 / factor if factor else (given - corners) / max(1, made - corners)
        for factor, (given, made) in zip(factors, sizes, strict=True)
    ]
    half = 0 if corners else 0.5
    coordinates = [
        ((torch.arange(made, dtype=torch.float64) + half) * scale - half).clamp_(0, given - 1)
        for scale, (given, made) in zip(scales, sizes, strict=True)
    ]
    squares, common = result.square(), torch.zeros_like(result)
    for axis, at in enumerate(coordinates, 2):
        scale = torch.tensor(scales[axis - 2], dtype=torch.float64)
        if inputs.shape[axis] < 2 or scale == scale.float().double():
            continue
        moved = inputs.diff(dim=axis)
        for other, where in enumerate(coordinates, 2):
            nearest = where.floor().clamp_(max=moved.shape[axis] - 1) if other == axis else where.round()
            moved = moved.index_select(other, nearest.long())
        moved *= at.reshape(-1, *[1] * (result.ndim - axis - 1))
        common += moved * float(torch.randn((), generator=generator))
        squares += moved.square_().mul_(2)
    return squares, common
