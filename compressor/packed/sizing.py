"""How large a network is in every form: dense, gzip, each format, the entropy bound, the file itself."""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from compressor.errors import InputError
from compressor.packed import asni2, base, bitmask, container, csr, dense
from compressor.packed.item import Format, Item, make
from compressor.packed.reader import DTYPES, Entry, Packed, Stored

FORMATS: Final[Mapping[str, Format]] = {"dense": dense, "csr": csr, "bitmask": bitmask, "asni2": asni2}
WRITERS: Final[Mapping[str, Format]] = {**FORMATS, "base": base}


@dataclass(frozen=True, slots=True)
class TensorSize:
    """One tensor of the file. bytes: header entry and section. reason: why it is stored dense, or ""."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    role: str
    format: str
    kept: int
    total: int
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of one network, everything that is needed to load it included.

    file: the packed file. dense: the same tensors as plain safetensors. gzip: that file under gzip -6. bound:
    sum over the masked tensors of n H(d) / 8 plus their kept values (one bit each and 8 bytes of levels for
    two-level tensors), plus all others as they are; of a task file without what its base has. formats: the whole file
    with every masked tensor in that format; one that cannot store them is absent. max_error: largest |stored - given|,
    0.0 when lossless.

    base: the SHA-256 of the base file that a task file needs, which is not counted in `file` and `bound`, else "";
    `formats` do without it. Sizes of a task file that were taken without its base have no gzip and no formats.
    """

    file: int
    dense: int
    gzip: int | None
    bound: int
    formats: dict[str, int]
    tensors: tuple[TensorSize, ...]
    max_error: float
    base: str = ""


def choose(item: Item, name: str) -> tuple[Entry, str]:
    """Return the header entry in format `name` ("auto": the smallest), and why it is dense or "".

    Raises InputError if the format cannot store the tensor.
    """
    if item.values == "base":
        return base.plan(item), ""
    if item.mask is None:
        return item.entry("all", item.values), "not masked"
    plans = [plan for one in FORMATS.values() if isinstance(plan := one.plan(item), Entry)]
    best = min(plans, key=lambda entry: len(container.entry_bytes(entry, "", {})) + entry.section)
    chosen = best if name == "auto" else FORMATS[name].plan(item)
    if isinstance(chosen, str):
        raise InputError(f'tensor "{item.name}": {chosen}; format "auto" or "bitmask" stores it')
    if chosen.format != "dense":
        return chosen, ""
    return chosen, "dense is the smallest" if best.format == "dense" else "dense was asked for"


def measure(
    items: Sequence[Item],
    entries: Sequence[Entry],
    reasons: Mapping[str, str],
    kind: str,
    *,
    whole: bool = True,
) -> Sizes:
    """Return the sizes of the file with these entries; items are its tensors without the aliases.

    whole: False if what the base file has is not known, and stands there as zeros of no memory.
    """
    by_name = {item.name: item for item in items}
    headers = container.entries_bytes(entries)
    tensors = []
    for entry, header in zip(entries, headers, strict=True):
        first = by_name[entry.alias_of or entry.name]
        tensors.append(
            TensorSize(
                name=entry.name,
                dtype=first.dtype,
                shape=first.shape,
                role=entry.role,
                format=entry.format,
                kept=first.kept,
                total=len(first.bits),
                bytes=len(header) + entry.section,
                reason=reasons.get(entry.name, ""),
            )
        )
    plain, gzip = dense_sizes(items, whole)
    return Sizes(
        file=container.file_size(entries, kind),
        dense=plain,
        gzip=gzip,
        bound=math.ceil(
            sum(bound(by_name[entry.name], entry.positions) for entry in entries if entry.role != "alias")
        ),
        formats=format_sizes(by_name, entries, kind) if whole else {},
        tensors=tuple(tensors),
        max_error=max((item.error for item in items), default=0.0),
    )


def dense_sizes(items: Sequence[Item], whole: bool) -> tuple[int, int | None]:
    """Return the bytes of the tensors as plain safetensors, and of that file under gzip -6 (mtime 0) if it is known.

    Source: safetensors/src/tensor.rs, which writes wide dtypes first, then by name.
    """
    codes = list(DTYPES)
    items = sorted(items, key=lambda item: (-codes.index(item.dtype), item.name))
    header: dict[str, object] = {}
    end = 0
    for item in items:
        begin, end = end, end + item.bits.nbytes
        header[item.name] = {"dtype": item.dtype, "shape": item.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if not whole:
        return 8 + len(text) + end, None
    squeeze = zlib.compressobj(6, wbits=31)
    gzip = len(squeeze.compress(len(text).to_bytes(8, "little") + text))
    for item in items:
        gzip += len(squeeze.compress(item.bits.view(np.uint8).data))
    return 8 + len(text) + end, gzip + len(squeeze.flush())


def bound(item: Item, positions: str) -> float:
    """Return the bytes of one tensor if its mask took n H(d) bits and its kept values what they take raw.

    positions: how its mask is stored; the base's own ("all") takes nothing.
    """
    width = {"own": 8 * item.bits.itemsize}.get(item.values, 16)
    total, kept = len(item.bits), item.kept
    if item.values == "base":
        return 0.0 if positions == "all" else total * entropy(kept / total if total else 0.0) / 8
    if item.mask is None:
        return total * width / 8
    values = kept * width
    if not isinstance(asni2.levels(item), str):
        values = min(values, kept + 64)
    return (total * entropy(kept / total if total else 0.0) + values) / 8


def entropy(density: float) -> float:
    """Return the binary entropy in bits."""
    if density in (0.0, 1.0):
        return 0.0
    return -density * math.log2(density) - (1 - density) * math.log2(1 - density)


def format_sizes(items: Mapping[str, Item], entries: Sequence[Entry], kind: str) -> dict[str, int]:
    """Return the size of the whole file, without a base, for each format that can store every masked tensor of it."""
    entries = [
        replace(entry, positions="all", values="own", width=0, escapes=0) if entry.values == "base" else entry
        for entry in entries
    ]
    masked = [
        replace(item, values="own") if item.values == "base" else item
        for item in items.values()
        if item.mask is not None
    ]
    found = {}
    for name, one in FORMATS.items():
        plans = {item.name: one.plan(item) for item in masked}
        if any(isinstance(plan, str) for plan in plans.values()):
            continue
        whole = (plans.get(entry.name, entry) for entry in entries)
        found[name] = container.file_size([entry for entry in whole if isinstance(entry, Entry)], kind)
    return found


def items_of(packed: Packed, whole: bool) -> list[Item]:
    """Return the tensors of a file that was read, without the aliases."""
    items = []
    for name, stored in packed.tensors.items():
        if stored.alias_of is None:
            raw = np.dtype(f"<u{np.dtype(DTYPES[stored.dtype]).itemsize}")
            bits = stored.data.reshape(-1).view(raw)
            if stored.values == "base" and not whole:
                item = Item(name, stored.dtype, stored.shape, bits, None, bits[: stored.kept], 0)
            else:
                item = make(name, stored.dtype, stored.shape, bits, stored.mask)
            items.append(item if stored.values == "levels" else replace(item, values=stored.values))
    return items


def of_packed(packed: Packed, size: int, *, whole: bool = True) -> Sizes:
    """Return the sizes of a file of `size` bytes that was read; whole: False for a task file without its base."""
    items = items_of(packed, whole)
    chosen = {item.name: _found(item, packed.tensors[item.name]) for item in items}
    entries = [
        replace(chosen[stored.alias_of][0], name=name, role="alias", alias_of=stored.alias_of)
        if stored.alias_of
        else chosen[name][0]
        for name, stored in packed.tensors.items()
    ]
    reasons = {name: why for name, (_, why) in chosen.items()}
    measured = measure(items, entries, reasons, packed.kind, whole=whole)
    # Another writer may have coded the gaps differently; what counts is what the file holds.
    tensors = tuple(replace(one, bytes=packed.tensors[one.name].bytes) for one in measured.tensors)
    return replace(measured, file=size, tensors=tensors, max_error=packed.max_error, base=packed.base)


def _found(item: Item, stored: Stored) -> tuple[Entry, str]:
    """Return the entry of a tensor that was read, and why it is dense; what it takes stands in the file."""
    if stored.values == "base":
        return replace(item.entry(stored.positions, "base"), role=stored.role), ""
    return choose(item, stored.format)
