"""Lies about which weights are stored, without the coder: bits, gaps, Rice codes, and what needs none of them."""

from forge import ALL, BF16, BITMASK, DENSE, DTYPE, F16, GAPS, LEVELS, RICE, SPARSE, entry, file
from lies import ONE, Lies, W
from sections import bits


def bitmask(mask: bytes, kept: int = 1, total: int = 4, **more: object) -> bytes:
    own = entry(kept=kept, shape=(total,), decoded=W, **more)  # type: ignore[arg-type]
    return file(own, sections=mask + ONE * kept)


def gaps(width: int, escapes: int, digits: bytes, *, kept: int = 1, total: int = 4) -> bytes:
    own = entry(positions=GAPS, kept=kept, shape=(total,), width=width, escapes=escapes, decoded=W)
    return file(own, sections=digits + ONE * kept)


def rice(
    width: int, escapes: int, codes: bytes, *, kept: int = 1, total: int = 4, role: int = SPARSE
) -> bytes:
    own = entry(positions=RICE, role=role, kept=kept, shape=(total,), width=width, escapes=escapes, decoded=W)
    return file(own, sections=codes + ONE * kept)


def without_zeros(positions: int, where: bytes, values: bytes, **more: object) -> bytes:
    """An unmasked tensor whose zeros are left out."""
    kept = len(values) // 4
    own = entry(role=DENSE, positions=positions, kept=kept, decoded=W, **more)  # type: ignore[arg-type]
    return file(own, sections=where + values)


POSITIONS: Lies = {
    "claims 1 kept weights, its mask holds 2": {
        "mask with more bits than kept": bitmask(b"\x03"),
        "dense without its zeros, with more bits than kept": without_zeros(BITMASK, b"\x03", ONE),
    },
    "claims 1 kept weights, its mask holds 0": {"mask with fewer bits than kept": bitmask(b"\x00")},
    "claims 2 kept weights, its mask holds 1": {
        "sparse dense with another count": file(entry(positions=ALL, kept=2, decoded=W), sections=W),
        "sparse dense of planes with another count": file(
            entry(positions=ALL, kept=2, decoded=W[3:7], dtype=DTYPE["U8"], planes=0),
            sections=W[3:7],
        ),
        "mask and levels of more": file(
            entry(values=LEVELS, kept=2, decoded=W), sections=b"\x01" + bytes(4) + ONE + b"\x01"
        ),
    },
    "claims 3 kept weights, its mask holds 4": {
        "a weight of -0.0 that is not counted": file(
            entry(positions=ALL, kept=3, decoded=b"\x00\x00\x00\x80" * 4), sections=b"\x00\x00\x00\x80" * 4
        ),
    },
    "has padding bits that are not 0": {
        "mask with padding": bitmask(b"\x11"),
        "mask with padding of a shape of 7": bitmask(b"\x81", total=7),
        "gaps with padding": gaps(3, 0, b"\x08"),
        "quotients with padding": rice(0, 0, b"\x03"),
        "remainders with padding": rice(2, 0, b"\x01\x04"),
        "signs with padding": file(
            entry(values=LEVELS, kept=1, decoded=W), sections=b"\x01" + bytes(4) + ONE + b"\x03"
        ),
    },
    "stores a zero among what is left when zeros are left out": {
        "dense without zeros stores one": without_zeros(BITMASK, b"\x03", ONE + bytes(4)),
        "dense without zeros stores one by Rice codes": without_zeros(RICE, b"\x03", ONE + bytes(4)),
        "dense without zeros stores one by gaps": without_zeros(GAPS, b"\x00", ONE + bytes(4), width=1),
        "dense without zeros stores one as float16": file(
            entry(role=DENSE, values=F16, kept=2, decoded=W),
            sections=b"\x03\x00\x3c\x00\x00",
            flags=2,
            error=bytes(4),
        ),
        "dense without zeros stores one as bfloat16": file(
            entry(role=DENSE, values=BF16, kept=2, decoded=W),
            sections=b"\x03\x80\x3f\x00\x00",
            flags=2,
            error=bytes(4),
        ),
    },
    **{
        f"has gaps of {width} bits": {f"gaps of {width} bits": gaps(width, 0, bytes(5))}
        for width in (0, 33, 255)
    },
    "has more escapes than its shape allows": {
        "more escapes than the shape allows": gaps(1, 4, b"\x0f"),
        "2^60 escapes": gaps(1, 1 << 60, b""),
        "an escape of 32 bits": gaps(32, 1, b"\xff" * 4 + bytes(4)),
        "escapes of a full mask": gaps(1, 1, bits([1] + [0] * 4), kept=4),
    },
    "has gaps that do not end": {
        "gaps that do not end": gaps(1, 1, b"\x02"),
        "gaps that end too often": gaps(1, 2, b"\x01"),
        "gaps that end too seldom": gaps(1, 1, b"\x03"),
    },
    "has gaps that lead past its end": {
        "gaps past the end": gaps(3, 0, b"\x04"),
        "gaps past the end together": gaps(2, 0, b"\x0a", kept=2),
        "gaps far past the end": gaps(32, 0, b"\xfe\xff\xff\xff"),
        "remainders past the end": rice(2, 0, bits([1, 1]) + bits([1, 1, 1, 0]), kept=2),
        "a remainder of 2^30 - 1": rice(30, 0, b"\x01" + bits([1] * 30)),
        "a quotient that leaves no room for the remainder": rice(1, 1, bits([0, 1]) + bits([1]), total=3),
    },
    **{
        f"has Rice codes of {width} bits": {
            f"Rice codes of {width} bits": rice(width, 0, b"\x01" + bytes(32))
        }
        for width in (31, 63, 255)
    },
    "has longer Rice codes than its shape allows": {
        "quotients past the end": rice(0, 4, bits([0] * 4 + [1])),
        "quotients past the end with their remainders": rice(1, 2, bits([0, 0, 1]) + bits([0])),
        "2^60 zeros of a quotient": rice(0, 1 << 60, b"\x01"),
        "2^62 zeros of a quotient of 2^30": rice(30, 1 << 62, b"\x01"),
    },
    "has Rice codes that do not end": {
        "quotients that do not end": rice(0, 1, bits([1, 0])),
        "quotients that end too often": rice(0, 1, bits([1, 1])),
        "quotients that never end": rice(0, 3, bits([0, 0, 0, 0])),
        "quotients of two weights that end once": rice(0, 1, bits([0, 0, 1]), kept=2),
    },
}
