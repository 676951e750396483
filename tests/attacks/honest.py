"""One tiny honest file for each format, coding and mode of the coder: what the attacks begin from."""

import hashlib
import struct

import numpy as np
from drafts import Draft, mask_of, tensor
from forge import (
    ALL,
    BASE,
    BF16,
    BITMASK,
    DENSE,
    F16,
    GAPS,
    INT8,
    LEVELS,
    MIXED,
    RICE,
    STATIC,
    file,
    old_entry,
)
from sections import bits, gaps

ERROR = struct.pack("<f", 0.5)
LINE, PIXELS, KERNELS = (4, 6), (3, 16), (3, 2, 2, 2)
PLACES = {"all": ALL, "bitmask": BITMASK, "gaps": GAPS, "rice": RICE, "static": STATIC, "mixed": MIXED}
MODES = {
    "static ordered": (LINE, {"positions": STATIC, "ordered": 1}),
    "line ordered": (LINE, {"positions": MIXED, "ordered": 1}),
    "picture": (PIXELS, {"positions": MIXED, "picture": 4}),
    "picture ordered": (PIXELS, {"positions": MIXED, "picture": 4, "ordered": 1}),
    "kernels": (KERNELS, {"positions": MIXED, "picture": 1}),
    "kernels ordered": (KERNELS, {"positions": MIXED, "picture": 1, "ordered": 1}),
}


def one(shape: tuple[int, ...], values: int = 0, **more: object) -> Draft:
    """One weight, with the flag of rounded values where it belongs."""
    rounded = values in (F16, BF16, INT8)
    own = tensor(b"w\x01", shape, values=values, **more)  # type: ignore[arg-type]
    return Draft([own], flags=2 * rounded, error=ERROR * rounded)


def produced(values: int, shape: tuple[int, ...], **more: object) -> Draft:
    """Two layers, the columns of the second fed by the rows of the first."""
    first = tensor(b"a\x01", (4, 5), BITMASK, values)
    bitmask = np.frombuffer(first[1][:3], np.uint8)
    fan = np.unpackbits(bitmask, count=20, bitorder="little").reshape(4, 5).sum(1).astype(np.int64)
    second = tensor(b"b\x01", shape, MIXED, values, seed=1, producer=1, fan=fan, **more)  # type: ignore[arg-type]
    return Draft([first, second])


def over_base(positions: int) -> Draft:
    """A task file of a weight of the base under a mask of its own (or, without positions, under the base's)."""
    weight = tensor(b"w\x01", LINE, BITMASK if positions == ALL else ALL)
    base = Draft([weight, tensor(b"b", (3,), ALL, role=DENSE)]).seal()
    own, section = tensor(b"w\x01", LINE, positions, BASE)
    mask = mask_of(LINE, 0)
    values = np.frombuffer(weight[0]["decoded"], "<u4").reshape(mask.shape) * mask
    own |= {"kept": int(mask.sum()), "decoded": values.astype("<u4").tobytes()}
    head = tensor(b"head", (2,), ALL, role=DENSE)
    return Draft([(own, section), head], 4, b"", hashlib.sha256(base).digest(), base)


def several() -> dict[str, Draft]:
    """Files of more than one tensor, or of what is in no other one."""
    scalar = tensor(b"s", (), ALL, role=DENSE, dtype="I64")
    tied = tensor(b"a\x01", LINE, BITMASK), ({"name": b"b", "target": 0}, b"")
    shared = tensor(b"b", (2, 0, 3), ALL, role=DENSE, shared=1)
    long = tensor(b"x" * 40 + b"\x03", (1,) * 9, ALL, role=DENSE, dtype="BOOL")
    return {
        "dense": Draft(
            [tensor(b"fc\x02", (3,), ALL, role=DENSE), tensor(b"n", (2,), ALL, role=DENSE, dtype="C64")]
        ),
        "alias": Draft([*tied]),
        "names and shapes": Draft([scalar, shared, long]),
        "start": Draft([tensor(b"w\x01", LINE, BITMASK, LEVELS)], flags=1),
        "nothing": Draft([]),
    }


DRAFTS: dict[str, Draft] = {
    **{f"own {name}": one(LINE, positions=code) for name, code in PLACES.items()},
    **{f"signs {name}": one(LINE, LEVELS, positions=code) for name, code in PLACES.items()},
    **{f"int8 {name}": one(LINE, INT8, positions=code) for name, code in PLACES.items()},
    **{f"own {name}": one(shape, **mode) for name, (shape, mode) in MODES.items()},
    **{f"signs {name}": one(shape, LEVELS, **mode) for name, (shape, mode) in MODES.items()},
    **{f"{coded} planes": one(LINE, positions=RICE, coded=coded) for coded in (1, 4)},
    "7 planes of float64": one((2, 3), positions=ALL, coded=7, dtype="F64"),
    "plane of int8": one(LINE, INT8, positions=MIXED, coded=1),
    "float16": one(LINE, F16, positions=STATIC, coded=1),
    "bfloat16": one(LINE, BF16, positions=BITMASK),
    "float16 of float64": one((3,), F16, positions=ALL, dtype="F64", role=DENSE, coded=2),
    "dense planes": one((3, 4), positions=ALL, role=DENSE, coded=2),
    "without zeros": one(LINE, positions=BITMASK, role=DENSE),
    "without zeros, rice": one(LINE, positions=RICE, role=DENSE, coded=2),
    "without zeros, mixed": one(LINE, positions=MIXED, role=DENSE, dtype="U8"),
    "line of a producer": produced(0, (5, 8)),
    "signs of a producer": produced(LEVELS, (5, 8), ordered=1),
    "picture of a producer": produced(LEVELS, (3, 16), picture=4),
    "kernels of a producer": produced(0, (3, 4, 2, 2), picture=1),
    **{f"task {name}": over_base(code) for name, code in PLACES.items()},
    **several(),
}


def old() -> dict[str, tuple[bytes, bytes]]:
    """A file of version 1, and a task file of version 2 over it, each with its base."""
    decoded = struct.pack("<6f", 1.5, 0, 0, -2, 0, 0)
    mask = [1, 0, 0, 1, 0, 0]
    digits, escapes = gaps(mask, 1)
    entries = [
        old_entry(b"w", kept=2, shape=(2, 3), decoded=decoded),
        old_entry(
            b"wx", shared=0, positions=GAPS, shape=(6,), kept=2, gaps=bytes([1, escapes]), decoded=decoded
        ),
    ]
    values = struct.pack("<2f", 1.5, -2)
    base = file(entries[0], sections=bits(mask) + values, version=1)
    entry = old_entry(b"w", values=BASE, kept=2, shape=(2, 3), decoded=decoded)
    sha256 = hashlib.sha256(base).digest()
    task = file(entry, sections=bits(mask), version=2, flags=4, base=sha256)
    gapped = file(entries[1], sections=digits + values, version=1)
    return {"version 1": (base, b""), "version 1, gaps": (gapped, b""), "version 2": (task, base)}


# name -> the file, and the base of a task file
HONEST = {name: (draft.seal(), draft.base) for name, draft in DRAFTS.items()} | old()
