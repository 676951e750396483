"""Lies about what the stored weights are: truth values, two levels, int8, planes."""

import struct

from forge import BF16, DTYPE, F16, INT8, LEVELS, STATIC, entry, file
from lies import ONE, Lies, W, dense
from sections import bits, by_reason, other_planes, planes, stream

NAN, INF = float("nan"), float("inf")


def levels(low: float, high: float, *, signs: bytes = b"\x01", kept: int = 1, dtype: str = "F32") -> bytes:
    section = bytes([(1 << kept) - 1])
    header = entry(values=LEVELS, kept=kept, dtype=DTYPE[dtype], decoded=W)
    return file(header, sections=section + struct.pack("<ff", low, high) + signs)


def streamed(low: float, high: float, signs: list[int]) -> bytes:
    """The signs in the stream of a mask."""
    mask = [1] * len(signs) + [0] * (8 - len(signs))
    coded = stream([mask], signs)
    own = entry(positions=STATIC, values=LEVELS, shape=(8,), kept=len(signs), coded=len(coded), decoded=W)
    return file(own, sections=coded + struct.pack("<ff", low, high))


def int8(scales: list[float], codes: list[int], mask: list[int], **more: object) -> bytes:
    """A matrix of rows of four."""
    own = {
        "shape": (len(mask) // 4, 4),
        "kept": sum(mask),
        "bare": len(mask) // 4 - len(scales),
        "decoded": W,
    }
    section = bits(mask) + struct.pack(f"<{len(scales)}f", *scales) + struct.pack(f"<{len(codes)}b", *codes)
    return file(entry(values=INT8, **own | more), sections=section, flags=2, error=bytes(4))  # type: ignore[arg-type]


def planed(coded: int, top: bytes, low: bytes, *, kept: int = 1, **more: object) -> bytes:
    """`coded` planes, whatever their stream holds."""
    own = {"kept": kept, "planes": coded, "stream": len(top), "decoded": W} | more
    return file(entry(**own), sections=bits([1] * kept + [0] * (4 - kept)) + top + low)  # type: ignore[arg-type]


TOP, LOW = planes(ONE, 4, 2)
OTHERS = by_reason(other_planes(ONE, 4, 2), TOP)
ROW, ROWS = [1, 1, 0, 0], [1, 1, 0, 0, 1, 0, 0, 0]
VALUES: Lies = {
    "holds a truth value that is neither 0 nor 1": {
        "truth value of 2": file(dense(b"w", b"\x02", dtype=DTYPE["BOOL"], shape=(1,)), sections=b"\x02"),
        "kept truth value of 255": file(
            entry(dtype=DTYPE["BOOL"], decoded=b"\xff" + bytes(3)), sections=b"\x01\xff"
        ),
    },
    "has a NaN that is not quiet": {
        f"signalling NaN of {bits:#06x} in value coding {values}": file(
            entry(values=values, decoded=W),
            sections=b"\x01" + struct.pack("<H", bits),
            flags=2,
            error=bytes(4),
        )
        for values, found in ((F16, (0x7C01, 0xFD00)), (BF16, (0x7F81, 0xFFA0)))
        for bits in found
    },
    "has a level that is not finite": {
        "level NaN": levels(NAN, 1.0),
        "high level NaN": levels(-1.0, NAN),
        "level infinite": levels(0.0, INF),
        "level infinite beside a stream": streamed(-INF, 1.0, [1, 0]),
    },
    "has a level of -0.0": {
        "level -0.0": levels(-0.0, 1.0),
        "level -0.0 in use": levels(-0.0, 1.0, kept=2, signs=b"\x02"),
        "high level -0.0": levels(-1.0, -0.0, signs=b"\x00"),
    },
    "has levels that are not in the order low, high": {
        "levels in the wrong order": levels(1.0, 0.0, signs=b"\x00"),
        "levels that are equal": levels(1.0, 1.0),
        "levels that are both zero": levels(-0.0, 0.0),
        "levels in the wrong order beside a stream": streamed(1.0, -1.0, [1, 0]),
    },
    "has a level that no weight takes": {
        "low level that no weight takes": levels(-1.0, 1.0),
        "high level that no weight takes": levels(-1.0, 1.0, signs=b"\x00"),
        "high level that no weight takes beside a stream": streamed(-1.0, 1.0, [0, 0]),
        "levels of an empty tensor": levels(0.0, 1.0, kept=0, signs=b""),
        "levels of NaN of an empty tensor": levels(-1.0, 0.0, kept=0, signs=b""),
    },
    "has a level that F16 cannot hold": {
        "level that float16 cannot hold": levels(0.0, 1.0001, dtype="F16"),
        "level beyond float16": levels(0.0, 1e30, dtype="F16"),
        "level below float16": levels(0.0, 1e-30, dtype="F16"),
    },
    "has a level that BF16 cannot hold": {
        "level that bfloat16 cannot hold": levels(0.0, 1.0001, dtype="BF16"),
    },
    "has not one scale for each row that has weights": {
        "a scale too few": int8([1.0], [127, 1, 127], ROWS),
        "scales of rows that store nothing": int8([1.0, 0.0], [127], [1] + [0] * 7),
    },
    "claims 2 empty of 1 rows": {
        "more empty rows than rows": int8([1.0], [127, 1], ROW, bare=2),
        "empty rows of a vector": int8([1.0], [127, 1], [1, 1, 0, 0], shape=(4,), bare=2),
    },
    "has a scale that is not finite, or negative": {
        "scale NaN": int8([NAN], [127, 1], ROW),
        "scale infinite": int8([INF], [127, 1], ROW),
        "scale below 0": int8([-1.0], [127, 1], ROW),
        "scale of -0.0": int8([-0.0], [0, 0], ROW),
        "second scale NaN": int8([1.0, NAN], [127, 1, 127], ROWS),
    },
    "has a row whose largest code is not 127": {
        "largest code 126": int8([1.0], [126, 1], ROW),
        "code of -128": int8([1.0], [-128, 127], ROW),
        "codes that are all 0": int8([1.0], [0, 0], ROW),
        "code without a scale": int8([0.0], [127, 0], ROW),
        "largest code 126 in the second row": int8([1.0, 1.0], [127, 1, 126], ROWS),
    },
    "has a scale whose products are not finite": {
        "scale of 3e38": int8([3e38], [127, 1], ROW),
    },
    "has a stream of no planes": {
        "stream of no planes": planed(0, TOP, ONE),
        "stream of no planes and no bytes that is there": planed(0, b"\x01", ONE),
    },
    "has 5 planes of values of 4 bytes": {"five planes of float32": planed(5, TOP, b"")},
    "has 3 planes of values of 2 bytes": {
        "three planes of float16": file(
            dense(values=F16, planes=3, stream=1), sections=b"\x01", flags=2, error=bytes(4)
        ),
    },
    "has 2 planes of values of 1 bytes": {
        "two planes of int8": int8([1.0], [127, 1], ROW, planes=2),
        "two planes of bytes": file(dense(dtype=DTYPE["U8"], planes=2, stream=1), sections=b"\x01"),
    },
    "claims more values than its stream may hold": {
        "2^18 + 1 bytes of planes in no bytes": file(
            dense(dtype=DTYPE["U8"], shape=((1 << 18) + 1,), planes=1)
        ),
        "two planes of 2^17 + 1 values in no bytes": file(
            dense(dtype=DTYPE["F16"], shape=((1 << 17) + 1,), planes=2)
        ),
        "2^21 values in 40 bytes": file(
            dense(dtype=DTYPE["U8"], shape=(1 << 21,), planes=1, stream=40), sections=b"\x55" * 40
        ),
    },
    **{
        f"has a stream {reason}": {
            f"second stream of planes, {why}, {at}": planed(2, each, LOW)
            for at, each in enumerate(OTHERS[why])
        }
        for why, reason in {
            "ends in a zero byte": "that ends in a zero byte",
            "unread bytes": "with unread bytes at its end",
            "in another way": "that ends in another way than the shortest",
        }.items()
    },
    "is damaged (its CRC-32 does not match)": {
        "planes of other values": planed(2, *planes(ONE[::-1], 4, 2)),
        "int8 of other values": int8([1.0], [127, 1], ROW),
        "levels of other values": levels(0.0, 2.0),
    },
}
