"""Decode chains: the standard ONNX operators that rebuild sparse tensors when a session is made.

words -> digits -> symbols -> positions; values as they are, or levels -> Gather from [0, low, high]; both -> a
flat row of weights -> Reshape -> the tensor under its state-dict key. Nothing is computed on floats, so every
bit survives, -0.0 included. Operators of opset 13 with static shapes only: onnxruntime folds the whole chain,
and run time is that of the dense file.

Load time is what onnxruntime takes for fresh memory (it frees no intermediate before the whole chain is folded)
and 15 us per node: large tensors have a row of their own, which needs no Split, and all steps before are small.

Never used, because some runtime does not fold it, refuses it or computes it wrongly: NonZero, Loop, Scan,
BitShift, BitwiseAnd, sparse initialisers, local functions, data-dependent shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from onnx import TensorProto

from exporters.chains import Array, Chain, Weight
from exporters.positions import BITS, Code, Digits, Index, Words, gaps, packed, padding, words

ROW: Final = 2**17  # weights: below, tensors share a row, which costs a copy instead of 170 bytes


@dataclass(frozen=True, slots=True)
class _Row:
    """Tensors that are rebuilt one behind the other. ends: of each tensor's symbols; slots: see `gaps`."""

    weights: list[Weight]
    symbols: Index
    slots: Index
    ends: Index


def build(prefix: str, weights: Sequence[Weight], code: Code) -> Chain:
    """Return the chain for `weights`, of one type, with two levels each where the code has them."""
    chain = Chain(prefix, tuple(weight.name for weight in weights))
    if code.streams:
        _gap(chain, [_encode(row, code) for row in _rows(weights)], code)
    else:
        _bitmask(chain, weights, code)
    return chain


def _rows(weights: Sequence[Weight]) -> list[list[Weight]]:
    """Put neighbours together, up to ROW weights in a row."""
    rows: list[list[Weight]] = []
    for weight in weights:
        if rows and sum(one.bits.size for one in rows[-1]) + weight.bits.size <= ROW:
            rows[-1].append(weight)
        else:
            rows.append([weight])
    return rows


def _encode(weights: list[Weight], code: Code) -> _Row:
    """Encode a row; a tensor without a kept weight keeps its first, which is +0.0, so that none is empty."""
    masks = [one.mask if one.mask.any() else np.arange(one.mask.size) == 0 for one in weights]
    high = [
        one.bits[mask] == one.levels[1]
        for one, mask in zip(weights, masks, strict=True)
        if one.levels is not None
    ]
    positions = np.flatnonzero(np.concatenate(masks))
    symbols, slots = gaps(code, positions, np.concatenate(high) if code.two_levels else None)
    return _Row(weights, symbols, slots, slots[np.cumsum([int(mask.sum()) for mask in masks]) - 1] + 1)


def _gap(chain: Chain, rows: Sequence[_Row], code: Code) -> None:
    """Add up the advances of every row and scatter its values to the sums."""
    lengths = [len(row.symbols) for row in rows]
    pad = padding(sum(lengths), code.multiple)
    symbols = np.concatenate([*(row.symbols for row in rows), np.zeros(pad, np.int64)])
    steps = _horner(chain, code, symbols)
    found: list[str] = []
    if code.two_levels:
        levels, steps = _levels(chain, steps, code.reach + 1)
        tables = [_table(weight) for row in rows for weight in row.weights]
        counts = [int(count) for row in rows for count in np.diff(row.ends, prepend=0)]
        found = _look_up(chain, levels, tables, rows[0].weights[0].dtype, [*counts, pad])
    advances = _cut(chain, steps, "a", [*lengths, pad])
    for number, row in enumerate(rows):
        name = f"r{number}"
        mine, found = found[: len(row.weights)], found[len(row.weights) :]
        values = _joined(chain, mine, name + "v") if code.two_levels else _floats(chain, row, name + "v")
        places = chain.op("CumSum", [advances[number], _number(chain, 0)], name + "i")
        blank = _blank(chain, row.weights, name)
        filled = chain.op("ScatterElements", [blank, places, values], name + "f")
        _share_out(chain, filled, name, row.weights, 0)


def _horner(chain: Chain, code: Code, symbols: Index) -> str:
    """Return the symbols, int32 (symbols,), from the digits of all streams."""
    value = ""
    for number, (how, stored) in enumerate(zip(code.streams, words(code, symbols), strict=True)):
        digits = _digits(chain, f"w{number}", how, stored)
        if value:
            scaled = chain.op("Mul", [value, _number(chain, how.base)], f"s{number}")
            digits = chain.op("Add", [scaled, digits], f"h{number}")
        value = digits
    return value


def _digits(chain: Chain, name: str, how: Digits, stored: Words) -> str:
    """Return the digits in the words, int32 (digits,)."""
    value = chain.constant(name, stored if how.count == 1 else stored[:, None])
    if how.kind != "<i4":
        value = chain.op("Cast", [value], name + "c", to=TensorProto.INT32)
    if how.count == 1:
        return value
    powers = chain.constant(name + "p", (how.base ** np.arange(how.count)).astype(np.int32))
    value = chain.op("Div", [value, powers], name + "d")
    value = chain.op("Mod", [value, _number(chain, how.base)], name + "m")
    return chain.op("Reshape", [value, chain.constant("//flat", np.array([-1], np.int64))], name + "f")


def _levels(chain: Chain, symbol: str, step: int) -> tuple[str, str]:
    """Return the levels (0: zero, 1: low, 2: high) and the advances in the symbols; see `gaps`."""
    shifted = chain.op("Add", [symbol, _number(chain, step - 1)], "t")
    level = chain.op("Div", [shifted, _number(chain, step)], "l")
    return level, chain.op("Mod", [shifted, _number(chain, step)], "a")


def _bitmask(chain: Chain, weights: Sequence[Weight], code: Code) -> None:
    """Look up every weight: set bits count on, from slot 1; the others take slot 0, which holds +0.0."""
    mask = np.concatenate([weight.mask for weight in weights])
    tail = padding(mask.size)
    zero = np.zeros(1, weights[0].bits.dtype)
    kept = [one for one in weights if one.mask.any()]
    if code.two_levels:
        high = [one.bits[one.mask] == one.levels[1] for one in kept if one.levels is not None]
        signs = np.concatenate([np.zeros(1, np.bool_), *high])
        pad = padding(signs.size)
        sign = _digits(chain, "s", BITS, packed(BITS, np.pad(signs, (0, pad)).astype(np.int64)))
        level = chain.op("Add", [sign, _number(chain, 1)], "l")
        tables = [np.repeat(zero, 3), *(_table(one) for one in kept)]
        counts = [1, *(int(one.mask.sum()) for one in kept), pad]
        found = _look_up(chain, level, tables, weights[0].dtype, counts)
        values = _joined(chain, found, "v")
    else:
        stored = np.concatenate([zero, *(one.bits[one.mask] for one in kept)])
        values = chain.constant("v", stored, weights[0].dtype)
    bits = _digits(chain, "m", BITS, packed(BITS, np.pad(mask, (0, tail)).astype(np.int64)))
    count = chain.op("CumSum", [bits, _number(chain, 0)], "n")
    slot = chain.op("Mul", [count, bits], "i")
    _share_out(chain, chain.op("Gather", [values, slot], "f"), "r", weights, tail)


def _floats(chain: Chain, row: _Row, name: str) -> str:
    """Return the values of the slots as they are; escapes write +0.0."""
    values = np.zeros(len(row.symbols), row.weights[0].bits.dtype)
    kept = [one.bits[one.mask] if one.mask.any() else one.bits[:1] for one in row.weights]
    values[row.slots] = np.concatenate(kept)
    return chain.constant(name, values, row.weights[0].dtype)


def _table(weight: Weight) -> Array:
    """Return the bits of [0, low, high]."""
    levels = np.zeros(2, weight.bits.dtype) if weight.levels is None else weight.levels
    return np.concatenate([np.zeros(1, weight.bits.dtype), levels])


def _look_up(
    chain: Chain, level: str, tables: Sequence[Array], dtype: int, counts: Sequence[int]
) -> list[str]:
    """Return the values of every stretch of levels, by its table; the last stretch, which has none, is cut off.

    Done on the kept weights, before they are spread: on all weights it took 4/5 of the load.
    """
    stretches = _cut(chain, level, "l", counts)[:-1]
    return [
        chain.op("Gather", [chain.constant(f"t{number}", table, dtype), stretch], f"v{number}")
        for number, (table, stretch) in enumerate(zip(tables, stretches, strict=True))
    ]


def _number(chain: Chain, value: int) -> str:
    return chain.constant(f"//{value}", np.array(value, np.int32))


def _cut(chain: Chain, value: str, name: str, counts: Sequence[int]) -> list[str]:
    """Return the parts of `value`, of the given sizes."""
    sizes = chain.constant(name + "s", np.array(counts, np.int64))
    return chain.ops("Split", [value, sizes], [f"{chain.prefix}{name}{n}" for n in range(len(counts))])


def _joined(chain: Chain, parts: Sequence[str], name: str) -> str:
    return chain.op("Concat", parts, name, axis=0) if len(parts) > 1 else parts[0]


def _blank(chain: Chain, weights: Sequence[Weight], name: str) -> str:
    length = chain.constant(name + "n", np.array([sum(one.bits.size for one in weights)], np.int64))
    zero = TensorProto(data_type=weights[0].dtype, dims=[1], raw_data=bytes(weights[0].bits.itemsize))
    return chain.op("ConstantOfShape", [length], name + "b", value=zero)


def _share_out(chain: Chain, row: str, name: str, weights: Sequence[Weight], tail: int) -> None:
    """Cut the row into the tensors and give them their shapes and names."""
    parts = [row]
    if len(weights) > 1 or tail:
        parts = _cut(chain, row, name + "p", [*(one.bits.size for one in weights), *([tail] if tail else [])])
    for number, weight in enumerate(weights):
        shape = chain.constant(f"{name}z{number}", np.array(weight.shape, np.int64))
        chain.ops("Reshape", [parts[number], shape], [weight.name])
