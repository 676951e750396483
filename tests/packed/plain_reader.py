"""A second reader, slow and obvious, written from docs/formats.md without looking at reader.py."""

import hashlib
import struct

SIZES = (1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8)
F16, BF16, F32, F64 = 10, 11, 14, 16


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.base: dict = {}

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value += (byte % 128) << shift
            shift += 7
            if byte < 128:
                return value

    def bits(self, count: int) -> list[int]:
        data = self.take((count + 7) // 8)
        return [data[i // 8] >> i % 8 & 1 for i in range(count)]


def read(
    data: bytes, base: bytes | None = None
) -> dict[str, tuple[int, tuple[int, ...], bytes, list[int] | None]]:
    """name -> (dtype code, shape, bytes, mask)."""
    file = Bytes(data)
    file.take(int.from_bytes(file.take(8), "little"))
    start, flags = file.take(5), file.take(1)[0]
    assert start == b"\x89CMP" + (b"\x02" if flags & 4 else b"\x01")
    if flags & 2:
        file.take(8)
    if flags & 4:
        assert base is not None
        assert file.take(32) == hashlib.sha256(base).digest()
        file.base = read(base)
    end = file.number() + file.at
    entries: list[dict] = []
    name = b""
    for _ in range(file.number()):
        shared, length = file.number(), file.number()
        name = name[:shared] + file.take(length)
        code = file.take(1)[0]
        one = {"name": name.decode(), "role": code & 3, "where": code >> 2 & 7, "what": code >> 5}
        entries.append(one)
        if one["role"] == 2:
            one["target"] = file.number()
            continue
        one["dtype"] = file.take(1)[0]
        one["shape"] = tuple(file.number() for _ in range(file.number()))
        one["n"] = 1
        for size in one["shape"]:
            one["n"] *= size
        one["kept"] = file.number() if one["role"] == 1 else one["n"]
        if one["where"] == 2:
            one["width"], one["escapes"] = file.take(1)[0], file.number()
        file.take(4)
    assert file.at == end
    result: dict = {}
    for one in entries:
        target = entries[one["target"]]["name"] if one["role"] == 2 else ""
        result[one["name"]] = result[target] if target else tensor(file, one)
    assert file.at + 32 == len(data)
    return result


def tensor(file: Bytes, one: dict) -> tuple:
    size, n, kept = SIZES[one["dtype"]], one["n"], one["kept"]
    mask = [1] * n
    if one["what"] == 4:
        return from_base(file, one)
    if one["where"] == 1:
        mask = file.bits(n)
    elif one["where"] == 2:
        mask = gaps(file, one)
    count = n if one["where"] == 0 else kept
    if one["what"] == 0:
        values = [file.take(size) for _ in range(count)]
    elif one["what"] == 3:
        low, high = (level(file.take(4), one["dtype"]) for _ in range(2))
        values = [high if bit else low for bit in file.bits(kept)]
    else:
        values = [widen(file.take(2), one["what"], one["dtype"]) for _ in range(count)]
    if one["where"] == 0 and kept < n:
        mask = [int(any(value)) for value in values]
        values = [value for value in values if any(value)]
    left = iter(values)
    data = b"".join(next(left) if bit else bytes(size) for bit in mask)
    return one["dtype"], one["shape"], data, mask if one["role"] == 1 else None


def from_base(file: Bytes, one: dict) -> tuple:
    dtype, shape, data, mask = file.base[one["name"]]
    assert (dtype, shape) == (one["dtype"], one["shape"])
    size, n = SIZES[dtype], one["n"]
    mask = {0: lambda: mask or [1] * n, 1: lambda: file.bits(n), 2: lambda: gaps(file, one)}[one["where"]]()
    kept = [data[i * size : (i + 1) * size] if bit else bytes(size) for i, bit in enumerate(mask)]
    return dtype, shape, data if one["role"] == 0 else b"".join(kept), mask if one["role"] == 1 else None


def gaps(file: Bytes, one: dict) -> list[int]:
    width = one["width"]
    bits = file.bits((kept_digits := one["kept"] + one["escapes"]) * width)
    mask = [0] * one["n"]
    at = 0
    for i in range(kept_digits):
        digit = sum(bit << place for place, bit in enumerate(bits[i * width : (i + 1) * width]))
        at += digit
        if digit < 2**width - 1:
            mask[at] = 1
            at += 1
    return mask


def level(data: bytes, dtype: int) -> bytes:
    value = struct.unpack("<f", data)[0]
    return {F16: struct.pack("<e", value) if abs(value) < 65520 else b"", BF16: data[2:], F32: data}.get(
        dtype, struct.pack("<d", value)
    )


def widen(data: bytes, what: int, dtype: int) -> bytes:
    value = struct.unpack("<e", data)[0] if what == 1 else struct.unpack("<f", b"\0\0" + data)[0]
    return struct.pack("<f" if dtype == F32 else "<d", value)
