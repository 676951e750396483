"""How large a network is in every form: dense, gzip, each plain format, the entropy bound, the file itself."""

import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from compressor.errors import InputError
from compressor.packed import asni2, base, bitmask, container, csr, dense, entropy
from compressor.packed.item import Format, Item, Plan, make
from compressor.packed.positions import Fan
from compressor.packed.reader import DTYPES, Array, Entry, Stored

FORMATS: Final[Mapping[str, Format]] = {
    "dense": dense,
    "csr": csr,
    "bitmask": bitmask,
    "entropy": entropy,
    "asni2": asni2,
}
PLAIN: Final = ("dense", "csr", "bitmask")  # without the coder; unmasked tensors are raw beside them
SQUEEZED: Final = 1 << 28  # bytes of a dense file for whose gzip one waits


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

    file: the packed file. dense: the same tensors as plain safetensors. gzip: that file under gzip -6, None above 256
    MiB or if it was not asked for. bound: sum over the masked tensors of n H(d) / 8 plus their kept values (one bit
    each and 8 bytes of levels for two-level tensors), plus all others as they are, of a task file without what its
    base has; the packed file is often below it. formats: the whole file with every masked tensor in a plain format
    (dense, csr, bitmask), and the file itself under the format of all its masked tensors. max_error: largest
    |stored - given|, 0.0 when lossless.

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


@dataclass(frozen=True, slots=True)
class Done:
    """What is known of a tensor once it is coded: its entry, why it is dense or "", and what else it would take.

    bound: bytes. error: of rounding. plain: name of a plain format -> header entry, for unmasked tensors the one of
    "dense".
    """

    entry: Entry
    reason: str
    bound: float
    error: float
    plain: dict[str, Entry]


def choose(item: Item, name: str, fan: Fan | None) -> Plan:
    """Return the tensor in format `name` ("auto": the smallest). fan: a tensor whose rows are its columns.

    Raises InputError if the format cannot store the tensor.
    """
    if item.values == "base":
        return base.plan(item)
    if item.mask is None:
        return _must(dense.plan(item) if name in PLAIN else entropy.plan(item), item)
    if name == "entropy":
        return entropy.plan(item, fan)
    if name == "asni2":
        return _must(asni2.plan(item, fan), item)
    if name != "auto":
        return _must(FORMATS[name].plan(item), item)
    coded = asni2.plan(item, fan)
    plans = [FORMATS[each].plan(item) for each in PLAIN]
    plans.append(entropy.plan(item, fan) if isinstance(coded, str) else coded)
    return min((plan for plan in plans if isinstance(plan, Plan)), key=lambda plan: _weight(plan.entry))


def _must(plan: Plan | str, item: Item) -> Plan:
    if isinstance(plan, str):
        raise InputError(f'tensor "{item.name}": {plan}; format "auto" or "entropy" stores it')
    return plan


def _weight(entry: Entry) -> int:
    """Return the bytes of header entry and section."""
    return len(container.entry_bytes(replace(entry, producer=""), "", {}, {})) + entry.section


def done(item: Item, entry: Entry) -> Done:
    """Return what is left of a tensor once its section is written."""
    own = replace(item, values="own") if item.values == "base" else item
    if own.mask is None:
        plain = {"dense": own.entry("all")}
    else:
        plans = {name: FORMATS[name].plan(own) for name in PLAIN}
        plain = {name: plan.entry for name, plan in plans.items() if isinstance(plan, Plan)}
    return Done(entry, _reason(entry, plain), bound(item, entry.positions), item.error, plain)


def _reason(entry: Entry, plain: Mapping[str, Entry]) -> str:
    """Return why a tensor is dense, or ""."""
    if entry.values == "base" or (entry.role == "sparse" and entry.format != "dense"):
        return ""
    if entry.role == "dense":
        return "not masked"
    smaller = any(_weight(each) < _weight(entry) for each in plain.values())
    return "dense was asked for" if smaller else "dense is the smallest"


def read(entry: Entry, stored: Stored, *, whole: bool) -> Done:
    """Return what is known of a tensor that was read; whole: False if the base of a task file is not there."""
    raw = np.dtype(f"<u{np.dtype(DTYPES[stored.dtype]).itemsize}")
    bits = stored.data.reshape(-1).view(raw)
    if stored.values == "base" and not whole:
        item = Item(entry.name, stored.dtype, stored.shape, None, bits[: stored.kept], 0, "base")
        return Done(entry, "", bound(item, entry.positions), 0.0, {})
    item = make(entry.name, stored.dtype, stored.shape, bits, stored.mask)
    if stored.values not in ("levels", "own"):
        item = replace(
            item, values=stored.values, scales=np.zeros(entry.scales, "<f4") if entry.scales else None
        )
    return done(item, entry)


def measure(found: Sequence[Done], entries: Sequence[Entry], kind: str, gzip: int | None) -> Sizes:
    """Return the sizes of the file with these entries; `found` are its tensors without the aliases."""
    by_name = {one.entry.name: one for one in found}
    headers = container.entries_bytes(entries)
    tensors = tuple(
        TensorSize(
            name=entry.name,
            dtype=entry.dtype,
            shape=entry.shape,
            role=entry.role,
            format=entry.format,
            kept=entry.kept if entry.role == "sparse" or entry.positions == "all" else entry.total,
            total=entry.total,
            bytes=len(header) + entry.section,
            reason="" if entry.role == "alias" else by_name[entry.name].reason,
        )
        for entry, header in zip(entries, headers, strict=True)
    )
    file = container.file_size(entries, kind)
    return Sizes(
        file=file,
        dense=len(_dense_header([one.entry for one in found])[0]) + sum(_dense(one.entry) for one in found),
        gzip=gzip,
        bound=math.ceil(sum(one.bound for one in found)),
        formats=_formats(by_name, entries, kind, file),
        tensors=tensors,
        max_error=_upwards(max((one.error for one in found), default=0.0)),
    )


def _upwards(error: float) -> float:
    """Return the next float32 that is not below an error."""
    near = np.float32(error)
    return float(near if near >= error else np.nextafter(near, np.float32(np.inf)))


def _dense(entry: Entry) -> int:
    return entry.total * entry.itemsize


def _dense_header(entries: Sequence[Entry]) -> tuple[bytes, dict[str, int]]:
    return container.plain_header({entry.name: (entry.dtype, entry.shape) for entry in entries})


def _formats(by_name: Mapping[str, Done], entries: Sequence[Entry], kind: str, file: int) -> dict[str, int]:
    """Return the size of the whole file for each plain format that can store every masked tensor, and as it is."""
    masked = [one for one in by_name.values() if one.entry.role == "sparse"]
    sizes = {}
    for name in PLAIN:
        if not all(name in one.plain for one in masked) or not all(one.plain for one in by_name.values()):
            continue
        plain = {key: one.plain.get(name, one.plain.get("dense")) for key, one in by_name.items()}
        whole = (plain.get(entry.name, entry) for entry in entries)
        sizes[name] = container.file_size([entry for entry in whole if entry is not None], kind)
    own = {one.entry.format for one in masked}
    return sizes | ({own.pop(): file} if len(own) == 1 and not own & {"base", *PLAIN} else {})


def squeezable(entries: Sequence[Entry]) -> bool:
    """Whether the dense file is small enough for one to wait for its gzip: 256 MiB."""
    return sum(_dense(entry) for entry in entries) <= SQUEEZED


def gzip(entries: Sequence[Entry], elements: Callable[[str], Iterator[Array]]) -> int:
    """Return the bytes of the plain safetensors file under gzip -6 (mtime 0). elements: of a tensor, in blocks."""
    squeeze = zlib.compressobj(6, wbits=31)
    start, places = _dense_header(entries)
    size = len(squeeze.compress(start))
    for name in places:
        size += sum(len(squeeze.compress(block.view(np.uint8).data)) for block in elements(name))
    return size + len(squeeze.flush())


def bound(item: Item, where: str) -> float:
    """Return the bytes of one tensor if its mask took n H(d) bits and its kept values what they take raw.

    where: how its mask is stored; the base's own ("all") takes nothing.
    """
    width = {"F16": 16, "BF16": 16, "int8": 8}.get(item.values, 8 * item.kept_bits.itemsize)
    scales = 0 if item.scales is None else 32 * len(item.scales)
    total, kept = item.total, item.kept
    mask_bits = total * binary_entropy(kept / total if total else 0.0)
    if item.values == "base":
        return 0.0 if where == "all" else mask_bits / 8
    if item.mask is None:
        return (total * width + scales) / 8
    values = kept * width + scales
    if not isinstance(asni2.levels(item), str):
        values = min(values, kept + 64)
    return (mask_bits + values) / 8


def binary_entropy(density: float) -> float:
    """Return the entropy of one bit that is 1 with this probability, in bits."""
    if density in (0.0, 1.0):
        return 0.0
    return -density * math.log2(density) - (1 - density) * math.log2(1 - density)
