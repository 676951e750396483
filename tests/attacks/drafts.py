"""Honest files of one or two tiny tensors, one for each coding; every field of them can be changed before sealing."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from forge import (
    ALL,
    BASE,
    BF16,
    BITMASK,
    DTYPE,
    F16,
    GAPS,
    INT8,
    LEVELS,
    MIXED,
    OWN,
    RICE,
    SPARSE,
    STATIC,
    entry,
    file,
    named,
    number,
)
from sections import bits, gaps, planes, rice, stream

Fields = dict[str, Any]
LOW, HIGH = np.array([-0.75, 1.25], "<f4")
MODELS = {STATIC: "static", MIXED: "mixed"}
NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "u1", "BOOL": "?", "I64": "<i8", "C64": "<c8"}


@dataclass
class Draft:
    """A file before it is sealed. tensors: fields of `forge.entry` and section; an alias has only name and target.

    base: the file of a task file.
    """

    tensors: list[tuple[Fields, bytes]]
    flags: int = 0
    error: bytes = b""
    sha256: bytes = b""
    base: bytes = b""
    more: Fields = field(default_factory=dict)

    def seal(self) -> bytes:
        entries = [header(fields) for fields, _ in self.tensors]
        sections = b"".join(section for _, section in self.tensors)
        about = {"flags": self.flags, "error": self.error, "base": self.sha256, "sections": sections}
        return file(*entries, **about | self.more)


def header(fields: Fields) -> bytes:
    if "target" not in fields:
        return entry(**fields)
    return named(fields["name"], fields.get("shared", 0)) + bytes([2]) + number(fields["target"])


def mask_of(shape: tuple[int, ...], seed: int, *, ordered: bool = False, density: float = 0.3) -> np.ndarray:
    """Rows of zeros and ones, at least two of these."""
    rows, total = (shape[0] if len(shape) > 1 else 1), int(np.prod(shape))
    grid = (np.random.default_rng(seed).random((rows, total // rows)) < density).astype(int)
    grid[0, :2] = 1
    return np.array(sorted(grid.tolist(), reverse=True)) if ordered else grid


def numbers(count: int, dtype: str, seed: int = 0) -> np.ndarray:
    """Numbers that are not 0 and that float16 and bfloat16 hold too."""
    rng = np.random.default_rng(seed)
    if dtype == "BOOL":
        return np.ones(count, bool)
    signs = 1 if dtype == "U8" else rng.choice([-1, 1], count)
    return (signs * rng.integers(1, 9, count) / (8 if dtype[0] == "F" else 1)).astype(NUMPY[dtype])


def tensor(
    name: bytes,
    shape: tuple[int, ...],
    positions: int,
    values: int = OWN,
    *,
    role: int = SPARSE,
    dtype: str = "F32",
    seed: int = 0,
    coded: int = 0,
    fan: np.ndarray | None = None,
    **fields: Any,
) -> tuple[Fields, bytes]:
    """Fields and section. coded: planes; fan: of the producer, whose number is among the fields."""
    mask = mask_of(shape, seed, ordered=bool(fields.get("ordered")))
    mask = np.ones_like(mask) if positions == ALL else mask
    flat = mask.reshape(-1)
    own = {"name": name, "role": role, "positions": positions, "values": values, "dtype": DTYPE[dtype]}
    own |= {"shape": shape, "kept": int(flat.sum()), **fields}
    signs = np.random.default_rng(seed).random(flat.sum()) < 0.5
    signs[:1], signs[1:2] = True, False
    where = place(own, mask, signs, fan)
    decoded, stored = what(own, mask, signs, dtype, coded)
    out = np.zeros(flat.size, NUMPY[dtype])
    out[flat > 0] = decoded
    return own | {"decoded": out.tobytes()}, where + stored


def place(own: Fields, mask: np.ndarray, signs: np.ndarray, fan: np.ndarray | None) -> bytes:
    """The positions of a section; their fields are added to the others."""
    flat = mask.reshape(-1).tolist()
    if own["positions"] in (GAPS, RICE):
        width = 1 if own["positions"] == GAPS else 0
        data, escapes = (gaps if own["positions"] == GAPS else rice)(flat, width)
        own |= {"width": width, "escapes": escapes}
        return data
    if own["positions"] in MODELS:
        shape = own["shape"]
        kernel = (int(np.prod(shape[2:-1])), shape[-1]) if len(shape) > 2 else (1, 1)
        known = {"model": MODELS[own["positions"]], "picture": own.get("picture", 0), "kernel": kernel}
        known |= {"ordered": bool(own.get("ordered")), "fan": fan}
        data = stream(mask.tolist(), signs if own["values"] == LEVELS else None, **known)
        own["coded"] = len(data)
        return data
    return bits(flat) if own["positions"] == BITMASK else b""


def what(
    own: Fields, mask: np.ndarray, signs: np.ndarray, dtype: str, coded: int
) -> tuple[np.ndarray, bytes]:
    """What is decoded, and the values of a section; their fields are added to the others."""
    count, item = int(mask.sum()), np.dtype(NUMPY[dtype]).itemsize
    if own["values"] == LEVELS:
        apart = b"" if own["positions"] in MODELS else bits(signs)
        return np.where(signs, HIGH, LOW), np.array([LOW, HIGH]).tobytes() + apart
    decoded = numbers(count, dtype)
    if own["values"] == BASE:
        return decoded, b""
    stored, scales = decoded, b""
    if own["values"] == F16:
        stored, item = decoded.astype("<f2"), 2
    if own["values"] == BF16:
        stored, item = (decoded.astype("<f4").view("<u4") >> 16).astype("<u2"), 2
    if own["values"] == INT8:
        decoded, stored, scales = eighths(mask)
        item, own["bare"] = 1, len(mask) - len(scales) // 4
    if not coded:
        return decoded, scales + stored.tobytes()
    top, low = planes(stored.tobytes(), item, coded)
    own |= {"planes": coded, "stream": len(top)}
    return decoded, scales + top + low


def eighths(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, bytes]:
    """Decoded values, codes, and the scales of the rows that store anything."""
    codes, scales, decoded = [], [], []
    for row, count in enumerate(mask.sum(1).tolist()):
        own = [127, *range(-5, count - 6)] if count else []
        codes += own
        scales += [0.5 / (row + 1)] if count else []
        decoded += [np.float32(0.5 / (row + 1)) * np.float32(code) for code in own]
    return np.array(decoded, "<f4"), np.array(codes, "i1"), np.array(scales, "<f4").tobytes()
