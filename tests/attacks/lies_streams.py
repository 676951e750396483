"""Lies about masks in a stream of the coder: what is said of them, and what the stream holds."""

import math

from forge import ALL, BASE, DENSE, LEVELS, MIXED, STATIC, alias, entry, file
from lies import ONE, Lies, W, dense, task
from sections import bits, by_reason, other_endings, stream

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


def coded(data: bytes, *, kept: int = 3, section: bytes | None = None, **fields: object) -> bytes:
    """A tensor with this stream and as many values; 16 weights if nothing else is said."""
    own = {"positions": STATIC, "shape": (4, 4), "kept": kept, "coded": len(data), "decoded": W} | fields
    return file(entry(**own), sections=data + (ONE * kept if section is None else section))  # type: ignore[arg-type]


def mixed(data: bytes = b"\x55", **fields: object) -> bytes:
    return coded(data, **{"positions": MIXED, **fields})  # type: ignore[arg-type]


def known(name: str, data: bytes) -> bytes:
    """The tensor of one of KNOWN with another stream."""
    grid, model = KNOWN[name]
    fields: dict[str, object] = {"kept": sum(map(sum, grid)), "picture": model.get("picture", 0)}
    fields |= {
        "ordered": int(model.get("ordered", False)),
        "positions": MIXED if "model" in model else STATIC,
    }
    if "kernel" in model:
        fields["shape"] = (4, 1, 2, 2)
    if "signs" in model:
        return coded(data, section=bytes(4) + ONE, **{**fields, "values": LEVELS})  # type: ignore[arg-type]
    return coded(data, **fields)  # type: ignore[arg-type]


def endings(why: str) -> dict[str, bytes]:
    """Second encodings of the masks of KNOWN that are wrong in this way."""
    return {
        f"second stream of {name}, {why}, {at}": known(name, each)
        for name, (grid, model) in KNOWN.items()
        for at, each in enumerate(by_reason(other_endings(grid, **model), stream(grid, **model))[why])
    }


def after(*before: tuple[bytes, bytes], **fields: object) -> bytes:
    """A mixed tensor of four columns behind others that may be its producers: entries and sections."""
    own = entry(b"x", **{"positions": MIXED, "shape": (4, 4), "kept": 3, "coded": 1, "decoded": W, **fields})  # type: ignore[arg-type]
    sections = b"".join(section for _, section in before)
    return file(*[each for each, _ in before], own, sections=sections + b"\x55" + ONE * 3)


def masked(shape: tuple[int, ...] = (4, 2), kept: int = 1, **fields: object) -> tuple[bytes, bytes]:
    """A tensor whose first weights are kept, and its section."""
    section = bits([1] * kept + [0] * (math.prod(shape) - kept)) + ONE * kept
    return entry(b"a", **{"shape": shape, "kept": kept, **fields}), section  # type: ignore[arg-type]


WRONG = 'has the producer "a", whose rows are not its columns'
STREAMS: Lies = {
    "has a stream that ends in a zero byte": endings("ends in a zero byte"),
    "has a stream with unread bytes at its end": endings("unread bytes")
    | {
        f"stream of {name} with a kilobyte unread": known(
            name, stream(KNOWN[name][0], **KNOWN[name][1]) + b"\x55" * 1000
        )
        for name in KNOWN
    },
    "has a stream that ends in another way than the shortest": endings("in another way"),
    "has a mask with more survivors than it should": {
        "static stream of ones": coded(b""),
        "mixed stream of ones": mixed(b""),
        "stream of ones with signs": mixed(b"", section=bytes(4) + ONE, values=LEVELS),
        "ordered stream of ones": mixed(b"", ordered=1),
    },
    "has a mask with fewer survivors than it should": {
        "static stream of zeros": coded(b"\xff" * 9),
        "mixed stream of zeros": mixed(b"\xff" * 9),
        "ordered stream of zeros": mixed(b"\xff" * 9, ordered=1),
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
        "mixed, of 2^20 + 2 columns in kernels": mixed(
            b"\x55" * 1100, shape=(2, (1 << 19) + 1, 2), picture=1
        ),
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
        "a producer two before the second": after(masked(), producer=2),
        "a producer that is not masked": after((dense(b"a"), W), producer=1),
        "a producer that is dense without zeros": after(masked(role=DENSE), producer=1),
        "a producer that is an alias": after((dense(b"a"), W), (alias(b"b", 0), b""), producer=1),
        "a producer under the mask of the base": task(
            entry(b"a", positions=ALL, values=BASE, shape=(4, 2)),
            entry(b"x", positions=MIXED, shape=(4, 4), kept=3, producer=1, coded=1),
            sections=b"\x55" + ONE * 3,
        ),
    },
    WRONG: {
        "a producer of other rows": after(masked((3, 2)), producer=1),
        "a producer of more rows than columns": after(masked((8, 1)), producer=1),
        "a producer of one row": after(masked((1, 8)), producer=1),
        "a producer that is a vector": after(masked((4,)), producer=1),
        "a producer that is empty": after(masked((4, 0), 0), producer=1),
        "a producer without weights": after(masked(kept=0), producer=1),
        "a producer of 2^20 + 1 rows": after(
            masked(((1 << 20) + 1, 1)), producer=1, shape=(1, (1 << 20) + 1)
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
        for name, (grid, model) in KNOWN.items()
        if name != "ordered"
    },
}
