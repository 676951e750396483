"""One file per lie, under the reason it must be refused for.

They are sealed with a correct digest, so that only the check of that very lie can catch them.
"""

import hashlib
import struct

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
    LEVELS,
    alias,
    entry,
    file,
    number,
    seal,
    wrap,
)

ONE = struct.pack("<f", 1.0)
W = ONE + bytes(12)  # the decoded tensor of most lies: [1, 0, 0, 0]
HONEST = file(entry(decoded=W), sections=b"\x01" + ONE)
NAN = struct.pack("<d", float("nan"))
DIGEST = hashlib.sha256(HONEST).digest()


def levels(low: float, high: float, *, signs: bytes = b"\x01", kept: int = 1, dtype: str = "F32") -> bytes:
    section = bytes([(1 << kept) - 1])
    header = entry(values=LEVELS, kept=kept, dtype=DTYPE[dtype], decoded=W)
    return file(header, sections=section + struct.pack("<ff", low, high) + signs)


def gaps(width: int, escapes: int, digits: bytes, *, kept: int = 1, total: int = 4) -> bytes:
    header = entry(
        positions=GAPS, kept=kept, shape=(total,), gaps=bytes([width]) + number(escapes), decoded=W
    )
    return file(header, sections=digits + ONE * kept)


def outer(change: bytes, into: bytes) -> bytes:
    """Replace text in the safetensors header, of the same length or not, and seal again."""
    body = HONEST[:-32]
    length = int.from_bytes(body[:8], "little")
    json = body[8 : 8 + length].replace(change, into)
    return seal(len(json).to_bytes(8, "little") + json + body[8 + length :])


def dense(name: bytes = b"w", decoded: bytes = W, **fields: object) -> bytes:
    return entry(name, role=DENSE, positions=ALL, decoded=decoded, **fields)  # type: ignore[arg-type]


def task(*entries: bytes, flags: int = 4, base: bytes = DIGEST, **fields: bytes) -> bytes:
    return file(*entries, version=2, flags=flags, base=base, **fields)  # type: ignore[arg-type]


BASE_LIES: dict[str, dict[str, bytes]] = {
    "is not in the base": {
        "masked tensor that the base lacks": task(entry(b"x", values=BASE, decoded=W), sections=b"\x01"),
        "tensor that the base lacks": task(dense(b"x", values=BASE)),
    },
    "is not of the dtype and shape that it has in the base": {
        "another shape": task(dense(values=BASE, shape=(2, 2))),
        "another dtype": task(dense(values=BASE, dtype=DTYPE["I64"], shape=(2,))),
        "2 GiB of the base's zeros": task(dense(values=BASE, shape=(1 << 29,))),
        "2^46 of the base's weights": task(
            entry(values=BASE, positions=GAPS, kept=0, shape=(1 << 46,), gaps=b"\x01\x00")
        ),
    },
    "is damaged": {
        "values that are not the base's": task(entry(values=BASE, decoded=W[::-1]), sections=b"\x01"),
        "all that is not the base's": task(dense(values=BASE, decoded=W[::-1])),
    },
    "claims 2 kept weights, its mask holds 1": {
        "another count than the base's mask": task(entry(values=BASE, positions=ALL, kept=2, decoded=W)),
    },
}
# Of task files too, but to be seen without the base.
MASK_LIES: dict[str, dict[str, bytes]] = {
    "claims 2 kept weights, its mask holds 1": {
        "another count than its own mask": task(entry(values=BASE, kept=2, decoded=W), sections=b"\x01"),
    },
    "claims 1 kept weights, its mask holds 3": {
        "fewer kept than bits": task(entry(values=BASE, decoded=W), sections=b"\x07"),
    },
    "has padding bits that are not": {
        "mask with padding": task(entry(values=BASE, decoded=W), sections=b"\x11"),
        "gaps with padding": task(
            entry(values=BASE, positions=GAPS, gaps=b"\x03\x00", decoded=W), sections=b"\x08"
        ),
    },
    "has gaps that do not end": {
        "gaps that do not end": task(
            entry(values=BASE, positions=GAPS, gaps=b"\x01\x01", decoded=W), sections=b"\x02"
        ),
    },
    "has gaps that lead past its end": {
        "gaps past the end": task(
            entry(values=BASE, positions=GAPS, gaps=b"\x03\x00", decoded=W), sections=b"\x04"
        ),
    },
}
LIES: dict[str, dict[str, bytes]] = {
    "is not a packed file": {
        "empty file": b"",
        "eight bytes": bytes(8),
        "blank before the JSON": outer(b'{"__meta', b' {"__meta'),
        "more metadata": outer(b'"format":"compressor"', b'"format":"compressor","a":"b"'),
    },
    "has a safetensors header that does not fit the file": {
        "only the safetensors header": wrap(b"")[:-32],
        "safetensors header of 2^31 bytes": (1 << 31).to_bytes(8, "little") + HONEST[8:],
        "safetensors header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + HONEST[8:],
        "safetensors header of 2^64 - 1 bytes": b"\xff" * 8 + HONEST[8:],
        "eight blanks behind the JSON": outer(b"}}", b"}}" + b" " * 8),
        "offsets that overlap": outer(b'"data_offsets":[0,', b'"data_offsets":[1,'),
        "missing key": outer(b'"dtype":"U8",', b""),
        "duplicate key": outer(b'"dtype":"U8",', b'"dtype":"U8","dtype":"U8",'),
        "deep JSON": outer(b'{"dtype"', b"[" * 10_000 + b'{"dtype"'),
        "a byte appended": seal(HONEST + b"\x00"),
        "a second file appended": HONEST + HONEST,
    },
    "does not begin with the magic bytes": {
        "wrong magic": file(entry(decoded=W), sections=b"\x01" + ONE, magic=b"\x89CMQ"),
    },
    "has another version of the format than": {
        "version 0": file(entry(decoded=W), sections=b"\x01" + ONE, version=0),
        "version 3": file(entry(decoded=W), sections=b"\x01" + ONE, version=3),
    },
    "needs a base in a version that has none, or the reverse": {
        "version 2 without a base": file(entry(decoded=W), sections=b"\x01" + ONE, version=2),
        "version 1 with a base": file(entry(values=BASE, decoded=W), sections=b"\x01", flags=4, base=DIGEST),
    },
    "is a start that needs a base": {
        "start with a base": task(entry(values=BASE, decoded=W), sections=b"\x01", flags=5),
    },
    "names a base that no tensor is in, or the reverse": {
        "base that no tensor needs": task(entry(decoded=W), sections=b"\x01" + ONE),
        "tensor of a base that is not named": file(entry(values=BASE, decoded=W), sections=b"\x01"),
    },
    "sets a flag that this version does not have": {
        "unknown flag": file(entry(decoded=W), sections=b"\x01" + ONE, flags=8),
    },
    "has a header that is longer than the file": {
        "header longer than the file": file(entry(decoded=W), sections=b"\x01" + ONE, length=number(5000)),
        "header of 2^31 bytes": file(entry(decoded=W), sections=b"\x01" + ONE, length=number(1 << 31)),
        "header of 2^62 bytes": file(entry(decoded=W), sections=b"\x01" + ONE, length=number(1 << 62)),
    },
    "has a number of more than nine bytes": {
        "header length of ten bytes": file(entry(decoded=W), length=b"\xff" * 9 + b"\x01"),
    },
    "has a number that is not in its shortest form": {
        "header length not in its shortest form": file(entry(decoded=W), length=b"\x8f\x00"),
    },
    "has a header that ends too early": {
        "header shorter than its entries": file(entry(decoded=W), sections=b"\x01" + ONE, length=number(5)),
        "fewer tensors than claimed": file(entry(decoded=W), sections=b"\x01" + ONE, count=number(2)),
    },
    "is not as long as its tensors are": {
        "a hole before the sections": file(entry(decoded=W), sections=b"\x00\x01" + ONE),
        "a tail behind the sections": file(entry(decoded=W), sections=b"\x01" + ONE + b"\x00"),
        "a missing section": file(entry(decoded=W)),
        "too many signs": levels(0.0, 1.0, signs=b"\x01\x00"),
        "values that the base has": task(entry(values=BASE, decoded=W), sections=b"\x01" + ONE),
    },
    "does not match its SHA-256": {
        "digest of another file": HONEST[:-32] + bytes(32),
    },
    "declares an error but no rounded tensor, or the reverse": {
        "error declared without rounding": file(
            entry(decoded=W), sections=b"\x01" + ONE, flags=2, error=bytes(8)
        ),
        "rounding without a declared error": file(entry(values=F16, decoded=W), sections=b"\x01\x00\x3c"),
    },
    "declares an error that cannot be": {
        "error that is NaN": file(entry(values=F16, decoded=W), sections=b"\x01\x00\x3c", flags=2, error=NAN),
        "error of -0.0": file(
            entry(values=F16, decoded=W), sections=b"\x01\x00\x3c", flags=2, error=struct.pack("<d", -0.0)
        ),
    },
    "has a header with something behind its last tensor": {
        "more tensors than claimed": file(dense(), dense(b"x"), sections=W + W, count=number(1)),
    },
    "claims 1,099,511,627,776 tensors": {
        "2^40 tensors": file(count=number(1 << 40)),
    },
    "claims 1,000,000 tensors": {
        "a million tensors of no size": file(*[dense(b"w", b"", shape=(0,))] * 2, count=number(1_000_000)),
    },
    'has two tensors of the name "w"': {
        "two tensors of one name": file(dense(), dense(b"", shared=1), sections=W + W),
    },
    "has a name of a wrong length": {
        "empty name": file(dense(b""), sections=W),
        "name of 1,025 bytes": file(dense(b"w" * 1025), sections=W),
        "name of 2^40 bytes": file(b"\x00" + number(1 << 40), sections=W),
        "name that shares more than there is": file(dense(shared=1), sections=W),
    },
    "has a name that is not UTF-8": {
        "name not UTF-8": file(dense(b"\xff"), sections=W),
        "name with a surrogate": file(dense(b"\xed\xa0\x80"), sections=W),
    },
    "has a control character in a name": {
        "name with NUL": file(dense(b"w\x00"), sections=W),
        "name with an escape": file(dense(b"\x1b[2J"), sections=W),
    },
    "has a name that shares more than it says": {
        "name that shares more than it says": file(dense(), dense(b"wx"), sections=W + W),
    },
    "has an unknown role": {
        "role 3": file(entry(role=3, positions=ALL, decoded=W), sections=W),
    },
    "has an unknown position coding": {
        "unknown position coding": file(entry(positions=3, decoded=W), sections=b"\x01" + ONE),
    },
    "has an unknown value coding": {
        "unknown value coding": file(entry(values=5, decoded=W), sections=b"\x01" + ONE),
    },
    "has an unknown dtype": {
        "unknown dtype": file(dense(dtype=19), sections=W),
    },
    "is dense with a sparse format": {
        "dense with a bitmask": file(entry(role=DENSE, decoded=W), sections=b"\x01" + W),
        "dense with a bitmask, of a base": task(entry(role=DENSE, values=BASE, decoded=W), sections=b"\x01"),
        "dense with levels": file(dense(values=LEVELS), sections=ONE + ONE + b"\x0f"),
    },
    "is sparse with dtype F8_E8M0, which has no zero": {
        "sparse without a zero": file(entry(dtype=DTYPE["F8_E8M0"], decoded=W[3:7]), sections=b"\x01\x01"),
    },
    "has levels with dtype I64": {
        "levels of integers": file(
            entry(values=LEVELS, dtype=DTYPE["I64"]), sections=b"\x01" + bytes(4) + ONE + b"\x01"
        ),
    },
    "has levels with dtype C64": {
        "levels of complex numbers": file(
            entry(values=LEVELS, dtype=DTYPE["C64"]), sections=b"\x01" + bytes(4) + ONE + b"\x01"
        ),
    },
    "has F16 values with dtype I64": {
        "float16 values of integers": file(
            dense(values=F16, dtype=DTYPE["I64"]), sections=bytes(8), flags=2, error=bytes(8)
        ),
    },
    "has BF16 values with dtype F16": {
        "bfloat16 values of float16": file(
            dense(values=BF16, dtype=DTYPE["F16"]), sections=bytes(8), flags=2, error=bytes(8)
        ),
    },
    "has levels without positions": {
        "levels without positions": file(
            entry(positions=ALL, values=LEVELS, decoded=W), sections=bytes(4) + ONE + b"\x01"
        ),
    },
    "claims 33 dimensions": {
        "33 dimensions": file(dense(shape=(1,) * 33), sections=ONE),
    },
    "claims 1,099,511,627,776 dimensions": {
        "2^40 dimensions": file(b"\x00\x01w" + bytes([0, DTYPE["F32"]]) + number(1 << 40), sections=W),
    },
    "claims a shape beyond every limit": {
        "shape that wraps in 64 bits": file(dense(shape=(1 << 32, 1 << 32)), sections=b""),
        "shape that wraps to four": file(dense(shape=((1 << 62) + 1, 4)), sections=W),
        "empty shape with a huge size": file(dense(shape=(0, 1 << 62, 4)), sections=b""),
    },
    "claims more memory than a file of this size may": {
        "2^46 weights in no bytes": file(
            entry(positions=GAPS, kept=0, shape=(1 << 46,), gaps=b"\x01\x00"), sections=b""
        ),
        "2 GiB of zeros in no bytes": file(
            entry(positions=GAPS, kept=0, shape=(1 << 29,), gaps=b"\x01\x00"), sections=b""
        ),
        "tensors that are too much together": file(
            *[
                entry(name, positions=GAPS, kept=0, shape=(1 << 24,), gaps=b"\x01\x00", shared=0)
                for name in (b"a", b"b", b"c", b"d", b"e", b"f")
            ]
        ),
    },
    "claims 5 kept of 4 weights": {
        "more kept than weights": file(entry(kept=5, decoded=W), sections=b"\x0f" + ONE * 5),
    },
    "claims 4,611,686,018,427,387,904 kept of 4 weights": {
        "2^62 kept weights": file(entry(kept=1 << 62, decoded=W), sections=b"\x01" + ONE),
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
        "alias with a format": file(dense(), alias(b"x", 0, ALIAS | BITMASK << 2), sections=W),
    },
    "is damaged": {
        "wrong CRC-32": file(entry(decoded=W[::-1]), sections=b"\x01" + ONE),
    },
    "claims 1 kept weights, its mask holds 2": {
        "mask with more bits than kept": file(entry(decoded=W), sections=b"\x03" + ONE),
    },
    "claims 1 kept weights, its mask holds 0": {
        "mask with fewer bits than kept": file(entry(decoded=W), sections=b"\x00" + ONE),
    },
    "has padding bits that are not": {
        "mask with padding": file(entry(decoded=W), sections=b"\x11" + ONE),
        "gaps with padding": gaps(3, 0, b"\x08"),
        "signs with padding": levels(0.0, 1.0, signs=b"\x03"),
    },
    "claims 2 kept weights, its mask holds 1": {
        "sparse dense with another count": file(entry(positions=ALL, kept=2, decoded=W), sections=W),
    },
    "holds a truth value that is neither": {
        "truth value of 2": file(dense(b"w", b"\x02", dtype=DTYPE["BOOL"], shape=(1,)), sections=b"\x02"),
    },
    "has gaps of": {
        "gaps of 0 bits": gaps(0, 0, b""),
        "gaps of 33 bits": gaps(33, 0, bytes(5)),
    },
    "has more escapes than its shape allows": {
        "more escapes than the shape allows": gaps(1, 4, b"\x0f"),
        "2^60 escapes": gaps(1, 1 << 60, b""),
    },
    "has gaps that do not end": {
        "gaps that do not end": gaps(1, 1, b"\x02"),
        "gaps that end too often": gaps(1, 2, b"\x01", total=4),
        "escapes without a kept weight": gaps(1, 1, b"\x01", kept=0),
    },
    "has gaps that lead past its end": {
        "gaps past the end": gaps(3, 0, b"\x04"),
        "gaps past the end together": gaps(2, 0, b"\x0a", kept=2),
    },
    "has a level that is not finite": {
        "level NaN": levels(float("nan"), 1.0),
        "level infinite": levels(0.0, float("inf")),
    },
    "has a level of -0.0": {
        "level -0.0": levels(-0.0, 1.0),
        "level -0.0 in use": levels(-0.0, 1.0, kept=2, signs=b"\x02"),
    },
    "has levels that are not in the order low, high": {
        "levels in the wrong order": levels(1.0, 0.0, signs=b"\x00"),
        "levels that are equal": levels(1.0, 1.0),
    },
    "has a level that no weight takes": {
        "low level that no weight takes": levels(-1.0, 1.0),
        "high level that no weight takes": levels(-1.0, 1.0, signs=b"\x00"),
        "levels of an empty tensor": levels(0.0, 1.0, kept=0, signs=b""),
    },
    "has a level that F16 cannot hold": {
        "level that float16 cannot hold": levels(0.0, 1.0001, dtype="F16"),
        "level beyond float16": levels(0.0, 1e30, dtype="F16"),
    },
    "has a level that BF16 cannot hold": {
        "level that bfloat16 cannot hold": levels(0.0, 1.0001, dtype="BF16"),
    },
}
