"""Lies of header entries: names, roles, codings, shapes, counts, aliases, and what they would take in memory."""

from forge import (
    ALIAS,
    ALL,
    BASE,
    BF16,
    BITMASK,
    DENSE,
    DTYPE,
    F16,
    GAPS,
    INT8,
    LEVELS,
    RICE,
    SPARSE,
    alias,
    entry,
    file,
    named,
    number,
)
from lies import ONE, Lies, W, dense, task


def name(field: bytes, before: bytes = b"") -> bytes:
    """A scalar of this name field, and one before it whose sections are one byte each."""
    rest = bytes([0, DTYPE["U8"]]) + bytes([0]) + bytes(4)
    return file(*([before + rest] if before else []), field + rest, sections=b"\x00" * (1 + bool(before)))


def bare(code: int, kind: int = DTYPE["F32"]) -> bytes:
    """An entry of this code and type, and enough bytes for whatever may follow."""
    return file(named(b"w") + bytes([code, kind]) + bytes(30))


NAMES: Lies = {
    "has a name of a wrong length": {
        "empty name": name(named(b"")),
        "name of 1,025 bytes": name(named(b"w" * 1025)),
        "name of 1,025 bytes with its ending": name(named(b"w" * 1018 + b"\x01")),
        "name of 2^40 bytes": name(b"\x0f" + number(1 << 40)),
        "name that shares more than there is": name(named(b"w", 1)),
        "name that shares 2^58 bytes": name(named(b"w", 1 << 58)),
        "name of 1,025 bytes, most of them shared": name(named(b"v" * 26, 999), named(b"w" * 1000)),
    },
    "has a name that is not UTF-8": {
        "name not UTF-8": name(named(b"\xff")),
        "name with a surrogate": name(named(b"\xed\xa0\x80")),
        "name with an overlong letter": name(named(b"\xc1\x81")),
        "name that is cut before its ending": name(named(b"\xc3\x01")),
    },
    "has a control character in a name": {
        "name with NUL": name(named(b"w\x00")),
        "name with an escape": name(named(b"\x1b[2J")),
        "name with an ending in its middle": name(named(b"w\x01x")),
        "name with two endings": name(named(b"w\x01\x02")),
        "name with an ending that there is not": name(named(b"w\x06")),
    },
    "whose ending is not in its short form": {
        f"name that ends in {ending}": name(named(b"w" + ending.encode()))
        for ending in (".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked")
    },
    "has a name that shares more than it says": {
        "name that shares more than it says": name(named(b"wx"), named(b"w")),
        "name that shares a part more than it says": name(named(b"bc", 1), named(b"aba")),
    },
    'has two tensors of the name "w"': {
        "two tensors of one name": name(named(b"", 1), named(b"w")),
        "an alias of the name of its tensor": file(dense(), named(b"", 1) + b"\x02\x00", sections=W),
    },
    "has a number that is not in its shortest form": {
        "name length not in its shortest form": name(b"\x0f\x81\x00" + b"w" * 16),
        "rank not in its shortest form": file(
            named(b"w") + bytes([0, 14 | 7 << 5]) + b"\x80\x00" + bytes(20)
        ),
    },
    "has a header that ends too early": {
        "long name without a length": file(b"\x0f"),
        "header that ends in a name": file(b"\x05w"),
        "header that ends in a number": file(dense()[:-5] + b"\x84"),
        "header that ends in a CRC-32": file(dense()[:-1]),
    },
}
CODES: Lies = {
    "has an unknown role": {"role 3": bare(3)},
    "has an unknown position coding": {
        f"position coding {code}": bare(SPARSE | code << 2) for code in (6, 7)
    },
    "has an unknown value coding": {f"value coding {code}": bare(SPARSE | code << 5) for code in (6, 7)},
    "has an unknown dtype": {f"dtype {code}": bare(0, code) for code in (19, 31)},
    "is dense with a sparse format": {
        "dense with levels": file(dense(values=LEVELS), sections=ONE + ONE + b"\x0f"),
        "dense with levels under a bitmask": file(
            entry(role=DENSE, values=LEVELS, decoded=W), sections=b"\x01" + bytes(4) + ONE + b"\x01"
        ),
    },
    "is sparse with dtype F8_E8M0, which has no zero": {
        "sparse without a zero": file(entry(dtype=DTYPE["F8_E8M0"], decoded=W[3:7]), sections=b"\x01\x01"),
    },
    **{
        f"has levels with dtype {dtype}": {
            f"levels of {dtype}": file(
                entry(values=LEVELS, dtype=DTYPE[dtype]), sections=b"\x01" + bytes(4) + ONE + b"\x01"
            )
        }
        for dtype in ("I64", "C64", "U8", "BOOL")
    },
    **{
        f"has {coding} values with dtype {dtype}": {
            f"{coding} of {dtype}": file(
                dense(values=code, dtype=DTYPE[dtype]), sections=bytes(8), flags=2, error=bytes(4)
            )
        }
        for coding, code in (("F16", F16), ("BF16", BF16), ("int8", INT8))
        for dtype in ("I64", "F16", "BF16", "C64")
    },
    "has levels without positions": {
        "levels without positions": file(
            entry(positions=ALL, values=LEVELS, decoded=W), sections=bytes(4) + ONE + b"\x01"
        ),
    },
    "is an alias of a tensor that does not come before it": {
        "alias of itself": file(dense(), alias(b"x", 1), sections=W),
        "alias of a later tensor": file(alias(b"a", 1), dense(), sections=W),
        "alias of nothing": file(dense(), alias(b"x", 1 << 40), sections=W),
    },
    "is an alias of an alias": {
        "alias of an alias": file(dense(), alias(b"x", 0), alias(b"y", 1), sections=W),
    },
    "is an alias with a format": {
        "alias with positions": file(dense(), alias(b"x", 0, ALIAS | BITMASK << 2), sections=W),
        "alias with values": file(dense(), alias(b"x", 0, ALIAS | LEVELS << 5), sections=W),
    },
}
ZEROS = {"positions": RICE, "kept": 0}  # n zeros in no bytes
SIZES: Lies = {
    "claims 33 dimensions": {"33 dimensions": file(dense(shape=(1,) * 33), sections=ONE)},
    "claims 1,099,511,627,783 dimensions": {
        "2^40 dimensions": file(named(b"w") + bytes([0, 14 | 7 << 5]) + number(1 << 40), sections=W),
    },
    "claims a shape beyond every limit": {
        "shape that wraps in 64 bits": file(dense(shape=(1 << 32, 1 << 32)), sections=b""),
        "shape that wraps to four": file(dense(shape=((1 << 62) + 1, 4)), sections=W),
        "2^48 weights": file(entry(**ZEROS, shape=(1 << 24, 1 << 24))),
        "empty shape with a huge size": file(dense(shape=(0, 1 << 62, 4))),
        "empty shape whose other sizes wrap": file(dense(shape=(1 << 47, 0, 1 << 47))),
        "32 sizes of 2^62": file(dense(shape=(1 << 62,) * 32)),
    },
    "claims more memory than a file of this size may": {
        "2^46 weights in no bytes": file(entry(**ZEROS, shape=(1 << 46,))),
        "2^46 weights in no bytes, with gaps": file(entry(positions=GAPS, kept=0, width=1, shape=(1 << 46,))),
        "2 GiB of zeros in no bytes": file(entry(**ZEROS, shape=(1 << 29,))),
        "2 GiB of zeros without a mask": file(entry(role=DENSE, **ZEROS, shape=(1 << 29,))),
        "tensors that are too much together": file(
            *[entry(name, **ZEROS, shape=(1 << 24,)) for name in (b"a", b"b", b"c", b"d", b"e", b"f")]
        ),
        "aliases that are too much together": file(
            entry(b"a", **ZEROS, shape=(1 << 22,)), *[alias(bytes([98 + at]), 0) for at in range(20)]
        ),
        "aliases of what the base has": task(dense(b"a", values=BASE, shape=(1 << 46,)), alias(b"b", 0)),
    },
    "claims 5 kept of 4 weights": {
        "more kept than weights": file(entry(kept=5, decoded=W), sections=b"\x0f" + ONE * 5),
    },
    "claims 4,611,686,018,427,387,904 kept of 4 weights": {
        "2^62 kept weights": file(entry(kept=1 << 62, decoded=W), sections=b"\x01" + ONE),
    },
    "claims 1 kept of 0 weights": {
        "a kept weight of none": file(entry(shape=(3, 0)), sections=ONE),
    },
    "claims 1,099,511,627,776 tensors": {"2^40 tensors": file(count=number(1 << 40))},
    "claims 1,000,000 tensors": {
        "a million tensors of no size": file(
            dense(b"w", b"", shape=(0,)) * 1_000_000, count=number(1_000_000)
        ),
    },
    "claims 131,073 tensors": {"one tensor too many": file(count=number(131_073))},
}
