"""Lies in files of versions 1 and 2, above all what only version 3 has."""

import struct

from forge import (
    ALL,
    BASE,
    DENSE,
    DTYPE,
    F16,
    GAPS,
    INT8,
    LEVELS,
    MIXED,
    RICE,
    STATIC,
    file,
    number,
    old_entry,
)
from lies import DIGEST, ONE, Lies, W


def first(*entries: bytes, sections: bytes = b"", **fields: object) -> bytes:
    return file(*entries, sections=sections, version=1, **fields)  # type: ignore[arg-type]


def weight(**fields: object) -> bytes:
    return first(old_entry(**{"decoded": W, **fields}), sections=b"\x01" + ONE)  # type: ignore[arg-type]


def dense(name: bytes = b"w", **fields: object) -> bytes:
    return old_entry(name, **{"role": DENSE, "positions": ALL, "decoded": W, **fields})  # type: ignore[arg-type]


def gaps(width: int, escapes: int, digits: bytes) -> bytes:
    own = old_entry(positions=GAPS, gaps=bytes([width]) + number(escapes), decoded=W)
    return first(own, sections=digits + ONE)


def rounded(error: bytes) -> bytes:
    return first(old_entry(values=F16, decoded=W), sections=b"\x01\x00\x3c", flags=2, error=error)


OLD: Lies = {
    "needs a base in a version that has none, or the reverse": {
        "version 2 that needs none": file(old_entry(decoded=W), sections=b"\x01" + ONE, version=2),
        "version 1 over a base": file(
            old_entry(values=BASE, decoded=W), sections=b"\x01", version=1, flags=4, base=DIGEST
        ),
    },
    "has an unknown position coding": {
        f"position coding {code} in version 1": weight(positions=code) for code in (RICE, STATIC, MIXED)
    },
    "has an unknown value coding": {
        "int8 in version 1": weight(values=INT8),
    },
    "has an unknown dtype": {
        "a rank in the byte of the dtype": weight(dtype=DTYPE["F32"] | 1 << 5),
    },
    "is dense with a sparse format": {
        "dense without zeros in version 1": first(old_entry(role=DENSE, decoded=W), sections=b"\x01" + W),
        "dense with levels in version 1": first(dense(values=LEVELS), sections=ONE + ONE + b"\x0f"),
        "dense without zeros in version 2": file(
            old_entry(role=DENSE, values=BASE, decoded=W), sections=b"\x01", version=2, flags=4, base=DIGEST
        ),
    },
    "has a control character in a name": {
        "short ending in version 1": first(dense(b"w\x01"), sections=W),
    },
    "has a name of a wrong length": {
        "empty name in version 1": first(dense(b""), sections=W),
        "name of 1,025 bytes in version 1": first(dense(b"w" * 1025), sections=W),
        "name of 2^40 bytes in version 1": first(b"\x00" + number(1 << 40), sections=W),
        "name that shares more than there is in version 1": first(dense(shared=1), sections=W),
    },
    "has a name that shares more than it says": {
        "name that shares more than it says in version 1": first(dense(), dense(b"wx"), sections=W + W),
    },
    'has two tensors of the name "w"': {
        "two tensors of one name in version 1": first(dense(), dense(b"", shared=1), sections=W + W),
    },
    "claims 33 dimensions": {"33 dimensions in version 1": first(dense(shape=(1,) * 33), sections=ONE)},
    "claims 1,099,511,627,776 dimensions": {
        "2^40 dimensions in version 1": first(b"\x00\x01w\x00\x0e" + number(1 << 40), sections=W),
    },
    "declares an error that cannot be": {
        "NaN as the error in version 1": rounded(struct.pack("<d", float("nan"))),
        "-0.0 as the error in version 1": rounded(struct.pack("<d", -0.0)),
        "an infinite error in version 1": rounded(struct.pack("<d", float("inf"))),
    },
    "declares an error but no rounded tensor, or the reverse": {
        "error without rounding in version 1": first(
            old_entry(decoded=W), sections=b"\x01" + ONE, flags=2, error=bytes(8)
        ),
    },
    "has gaps of 33 bits": {"gaps of 33 bits in version 1": gaps(33, 0, bytes(5))},
    "has more escapes than its shape allows": {"escapes past the shape in version 1": gaps(1, 4, b"\x0f")},
    "has padding bits that are not 0": {"padding in version 1": gaps(3, 0, b"\x08")},
    "claims 1 kept weights, its mask holds 2": {
        "mask of two in version 1": first(old_entry(decoded=W), sections=b"\x03" + ONE),
    },
    "is damaged (its CRC-32 does not match)": {
        "another CRC-32 in version 1": weight(decoded=W[::-1]),
    },
    "is not as long as its tensors are": {
        "a tail in version 1": first(old_entry(decoded=W), sections=b"\x01" + ONE + b"\x00"),
    },
}
