"""Lies about masks in a stream of the coder: what is said of them, and what the stream holds."""

import numpy as np
from forge import BASE, BITMASK, DENSE, DTYPE, LEVELS, MIXED, STATIC, alias, entry, file
from lies import ONE, Lies, W, dense, task
from sections import bits, other_endings, stream

GRID = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]
TIED = [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
SIGNED = {"model": "mixed", "signs": [1, 0, 1]}
KNOWN = {
    "static": (GRID, {}),
    "mixed": (GRID, {"model": "mixed"}),
    "pictures": (GRID, {"model": "mixed", "picture": 2}),
    "kernels": (GRID, {"model": "mixed", "picture": 1, "kernel": (2, 2)}),
    "ordered": (TIED, {"model": "mixed", "ordered": True}),
    "signs": (GRID, SIGNED),
}


def coded(data: bytes, *, kept: int = 3, values: bytes | None = None, **fields: object) -> bytes:
    """A tensor with this stream and as many values; 16 weights if nothing else is said."""
    own = {"positions": STATIC, "shape": (4, 4), "kept": kept, "coded": len(data), "decoded": W} | fields
    return file(entry(**own), sections=data + (ONE * kept if values is None else values))  # type: ignore[arg-type]


def mixed(data: bytes = b"\x55", **fields: object) -> bytes:
    return coded(data, **{"positions": MIXED, **fields})  # type: ignore[arg-type]


def known(name: str, data: bytes) -> bytes:
    """The tensor of one of KNOWN with another stream."""
    grid, model = KNOWN[name]
    fields: dict[str, object] = {"kept": sum(map(sum, grid)), "picture": model.get("picture", 0)}
    fields |= {"ordered": int(model.get("ordered", False)), "positions": MIXED if "model" in model else STATIC}
    if "kernel" in model:
        fields["shape"] = (4, 1, 2, 2)
    if "signs" in model:
        return coded(data, values=bytes(4) + ONE, **{**fields, "values": LEVELS})  # type: ignore[arg-type]
    return coded(data, **fields)  # type: ignore[arg-type]


def endings(which: str) -> dict[str, bytes]:
    """Second encodings of the masks of KNOWN that are longer (with zeros or without), or as long."""
    found = {}
    for name, (grid, model) in KNOWN.items():
        only = len(stream(grid, **model))
        others = other_endings(grid, **model)
        chosen = {
            "zeros": [each for each in others if each[-1:] == b"\x00"],
            "longer": [each for each in others if each[-1:] != b"\x00" and len(each) > only],
            "as long": [each for each in others if each[-1:] != b"\x00" and len(each) <= only],
        }[which]
        found |= {f"stream of {name} that ends {which} ({at})": known(name, each) for at, each in enumerate(chosen)}
    return found


def after(before: list[bytes], sections: bytes, **fields: object) -> bytes:
    """A mixed tensor of four columns behind others that may be its producers."""
    own = entry(b"x", **{"positions": MIXED, "shape": (4, 4), "kept": 3, "coded": 1, "decoded": W, **fields})  # type: ignore[arg-type]
    return file(*before, own, sections=sections + b"\x55" + ONE * 3)


def masked(name: bytes = b"a", shape: tuple[int, ...] = (4, 2), **fields: object) -> bytes:
    return entry(name, **{"shape": shape, "kept": 0, **fields})  # type: ignore[arg-type]


WRONG = 'has the producer "a", whose rows are not its columns'
STREAMS: Lies = {
    "has a stream that ends in a zero byte": endings("zeros"),
    "has a stream with unread bytes at its end": endings("longer")
    | {f"stream of {name} with a kilobyte unread": known(name, stream(KNOWN[name][0], **KNOWN[name][1]) + b"\x55" * 1000)
       for name in KNOWN},
    "has a stream that ends in another way than the shortest": endings("as long"),
    "has a mask with more survivors than it should": {
        "stream of one more than kept": coded(stream([[1] * 4] * 4)[:1] + b"\x01", kept=8)
        if False
        else coded(bytes(0), kept=3),
    },
    "has a stream of no weights": {
        "static stream of no weights": coded(b"", kept=0),
        "mixed stream of no weights": mixed(b"", kept=0),
        "static stream of an empty tensor": coded(b"", kept=0, shape=(0, 4)),
    },
    "is no picture, as its mode has none": {
        "static pictures": coded(b"\x55", picture=2),
        "static kernels": coded(b"\x55", picture=1, shape=(4, 1, 2, 2)),
    },
    "has no rows to be in order": {
        "a vector in order": coded(b"\x55", ordered=1, shape=(16,)),
        "a scalar in order": coded(b"\x55", ordered=1, shape=(), kept=1),
        "one row in order": mixed(ordered=1, shape=(1, 16)),
    },
    "has a shape that mode mixed does not take": {
        "a mixed vector": mixed(shape=(16,)),
        "a mixed scalar": mixed(shape=(), kept=1),
        "mixed, of 2^24 + 2^12 weights": mixed(b"\x55" * 1100, shape=((1 << 12) + 1, 1 << 12)),
        "mixed, of 2^20 + 1 columns": mixed(b"\x55" * 1100, shape=(2, (1 << 20) + 1)),
        "mixed, of 2^20 + 2 columns in kernels": mixed(b"\x55" * 1100, shape=(2, (1 << 19) + 1, 2), picture=1),
    },
    "has pictures 3 wide, which do not fit its shape": {
        "a picture that does not divide the columns": mixed(picture=3),
    },
    "has pictures 8 wide, which do not fit its shape": {
        "a picture that is wider than the columns": mixed(picture=8),
    },
    "has pictures 2 wide, which do not fit its shape": {
        "a picture of rank 3": mixed(picture=2, shape=(4, 2, 2)),
    },
    "has pictures 1 wide, which do not fit its shape": {
        "kernels of a matrix": mixed(picture=1),
        "kernels of one place": mixed(picture=1, shape=(4, 4, 1, 1)),
    },
    "has pictures 4,611,686,018,427,387,903 wide, which do not fit its shape": {
        "a picture 2^62 - 1 wide": mixed(picture=(1 << 62) - 1),
    },
    "has a producer that does not come before it": {
        "a producer before the first tensor": mixed(producer=1),
        "a producer 2^62 tensors before": mixed(producer=1 << 62),
        "a producer two before the second": after([masked()], b"\x00", producer=2),
        "a producer that is not masked": after([dense(b"a")], W, producer=1),
        "a producer that is dense without zeros": after([masked(role=DENSE)], b"\x00", producer=1),
        "a producer that is an alias": after([dense(b"a"), alias(b"b", 0)], W, producer=1),
    },
    WRONG: {
        "a producer of other rows": after([masked(shape=(3, 2))], b"\x00", producer=1),
        "a producer of more rows than columns": after([masked(shape=(8, 1))], b"\x00", producer=1),
        "a producer of one row": after([masked(shape=(1, 8))], b"\x00", producer=1),
        "a producer that is a vector": after([masked(shape=(4,))], b"\x00", producer=1),
        "a producer that is empty": after([masked(shape=(4, 0))], b"", producer=1),
        "a producer without weights": after([masked()], b"\x00", producer=1),
        "a producer of 2^20 + 1 rows": after(
            [masked(shape=((1 << 20) + 1, 1), positions=3)], b"", producer=1, shape=(1, (1 << 20) + 1)
        ),
    },
    "claims more weights than its stream may hold": {
        "2^31 x 1 weights in 40 bytes": coded(b"\x55" * 40, shape=(1 << 31, 1), kept=1),
        "2^31 weights in 40 bytes": coded(b"\x55" * 40, shape=(1 << 31,), kept=1),
        "2^47 weights in no bytes": coded(b"", shape=(1 << 47,), kept=1),
        "one weight more than 40 bytes may hold": coded(b"\x55" * 40, shape=((56 << 14) + 1,), kept=1),
        "2^24 weights in 40 bytes, mixed": mixed(b"\x55" * 40, shape=(1 << 12, 1 << 12), kept=1),
        "2^18 + 2 weights in no bytes, mixed": mixed(b"", shape=((1 << 17) + 1, 2), kept=1),
    },
    "is damaged (its CRC-32 does not match)": {
        f"stream of {name} of another mask": known(name, stream(grid[:1] + grid[2:] + grid[1:2], **model))
        for name, (grid, model) in KNOWN.items() if name != "ordered"
    },
}
