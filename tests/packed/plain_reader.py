"""A second reader, slow and obvious, written from docs/formats.md without looking at reader.py."""

import hashlib
import math
import struct
import zlib

from plain_coder import planes
from plain_masks import Shape, walk

SIZES = (1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 8, 8, 8, 8)
F16, BF16, F32, F64 = 10, 11, 14, 16
ENDINGS = ("", ".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked")
DENSE, SPARSE, ALIAS = 0, 1, 2
ALL, BITMASK, GAPS, RICE, STATIC, MIXED = range(6)
OWN, AS_F16, AS_BF16, LEVELS, BASE, INT8 = range(6)


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        self.base: dict = {}
        self.masks: list[tuple[dict, list[int]]] = []

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
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
    assert data[-32:] == hashlib.sha256(data[:-32]).digest()
    file = Bytes(data)
    file.take(int.from_bytes(file.take(8), "little"))
    assert file.take(4) == b"\x89CMP"
    version, flags = file.take(1)[0], file.take(1)[0]
    assert version == 3 or version == (2 if flags & 4 else 1)
    if flags & 2:
        file.take(4 if version == 3 else 8)
    if flags & 4:
        assert base is not None
        assert file.take(32) == hashlib.sha256(base).digest()
        file.base = read(base)
    entries = header(file, version)
    result: dict = {}
    for one in entries:
        if one["role"] == ALIAS:
            result[one["name"]] = result[entries[one["target"]]["name"]]
        else:
            result[one["name"]] = tensor(file, one)
            assert zlib.crc32(result[one["name"]][2]) == one["crc"]
    assert file.at + 32 == len(data)
    return result


def header(file: Bytes, version: int) -> list[dict]:
    end = file.number() + file.at
    entries: list[dict] = []
    name = b""
    for _ in range(file.number()):
        shared = file.number()
        if version < 3:
            length = file.number()
        else:
            shared, length = divmod(shared, 16)
            length += file.number() if length == 15 else 0
        name = name[:shared] + file.take(length)
        code = file.take(1)[0]
        one = {"name": full(name, version), "role": code & 3, "where": code >> 2 & 7, "what": code >> 5}
        entries.append(one)
        if one["role"] == ALIAS:
            one["target"] = file.number()
        else:
            entry(file, one, version)
    assert file.at == end
    return entries


def full(short: bytes, version: int) -> str:
    if version == 3 and short[-1] < len(ENDINGS):
        return short[:-1].decode() + ENDINGS[short[-1]]
    return short.decode()


def entry(file: Bytes, one: dict, version: int) -> None:
    kind = file.take(1)[0]
    one["dtype"], rank = (kind, file.number()) if version < 3 else (kind & 31, kind >> 5)
    rank += file.number() if version == 3 and rank == 7 else 0
    one["shape"] = tuple(file.number() for _ in range(rank))
    one["n"] = one["kept"] = math.prod(one["shape"])
    if one["role"] == SPARSE or (version == 3 and one["where"] != ALL):
        one["kept"] = file.number()
    one["width"] = one["escapes"] = 0
    if one["where"] in (GAPS, RICE) and (one["kept"] or version < 3):
        one["width"], one["escapes"] = file.take(1)[0], file.number()
    if one["where"] in (STATIC, MIXED):
        one["picture"], one["ordered"] = divmod(file.number(), 2)
        one["producer"] = file.number() if one["where"] == MIXED else 0
        one["coded"] = file.number()
    values = one["n"] if one["where"] == ALL else one["kept"]
    one["scales"] = rows(one) - file.number() if one["what"] == INT8 and values else 0
    one["planes"] = one["stream"] = 0
    if version == 3 and one["what"] in (OWN, AS_F16, AS_BF16, INT8) and values:
        one["stream"], one["planes"] = divmod(file.number(), 8)
    one["crc"] = int.from_bytes(file.take(4), "little")


def tensor(file: Bytes, one: dict) -> tuple:
    size, n, kept = SIZES[one["dtype"]], one["n"], one["kept"]
    mask, signs = positions(file, one)
    count = n if one["where"] == ALL else kept
    if one["what"] == BASE:
        dtype, shape, data, own = file.base[one["name"]]
        assert (dtype, shape) == (one["dtype"], one["shape"])
        if one["role"] == SPARSE and one["where"] == ALL and own is not None:
            mask = own
        values = [data[i * size : (i + 1) * size] for i in range(n) if mask[i]]
    elif one["what"] == LEVELS:
        low, high = (level(file.take(4), one["dtype"]) for _ in range(2))
        if one["where"] not in (STATIC, MIXED):
            signs = file.bits(kept)
        values = [high if bit else low for bit in signs]
    elif one["what"] == INT8:
        values = eighths(file, one, mask)
    else:
        item = 2 if one["what"] in (AS_F16, AS_BF16) else size
        values = [widen(value, one["what"], one["dtype"]) for value in stored(file, one, count, item)]
    if one["where"] == ALL and kept < n and one["what"] != BASE:
        mask = [int(any(value)) for value in values]
        values = [value for value in values if any(value)]
    assert sum(mask) == kept == len(values)
    left = iter(values)
    data = b"".join(next(left) if bit else bytes(size) for bit in mask)
    if one["role"] == SPARSE and not (one["where"] == ALL and one["what"] == BASE):
        file.masks.append((one, mask))
    return one["dtype"], one["shape"], data, mask if one["role"] == SPARSE else None


def positions(file: Bytes, one: dict) -> tuple[list[int], list[int]]:
    """(mask, signs where a stream holds them)."""
    if one["where"] in (STATIC, MIXED):
        return modelled(file, one)
    if one["where"] == BITMASK:
        return file.bits(one["n"]), []
    if one["where"] == GAPS:
        return gaps(file, one), []
    if one["where"] == RICE:
        return rice(file, one), []
    return [1] * one["n"], []


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


def rice(file: Bytes, one: dict) -> list[int]:
    width, unary = one["width"], iter(file.bits(one["kept"] + one["escapes"]))
    bits = file.bits(one["kept"] * width)
    mask = [0] * one["n"]
    at = 0
    for i in range(one["kept"]):
        while next(unary) == 0:
            at += 2**width
        at += sum(bit << place for place, bit in enumerate(bits[i * width : (i + 1) * width]))
        mask[at] = 1
        at += 1
    assert list(unary) == []
    return mask


def rows(one: dict) -> int:
    return one["shape"][0] if len(one["shape"]) >= 2 else 1


def modelled(file: Bytes, one: dict) -> tuple[list[int], list[int]]:
    sums: list[int] = []
    if one["producer"]:
        other, mask = file.masks[-one["producer"]]
        across = other["n"] // rows(other)
        sums = [min(2**24, sum(mask[r * across : (r + 1) * across])) for r in range(rows(other))]
    kernel = (math.prod(one["shape"][2:-1]), one["shape"][-1]) if len(one["shape"]) > 2 else (1, 1)
    shape = Shape(rows(one), one["n"] // rows(one), one["kept"], one["picture"], kernel, sums)
    stream = file.take(one["coded"])
    return walk(stream, shape, one["where"] == MIXED, bool(one["ordered"]), one["what"] == LEVELS)


def stored(file: Bytes, one: dict, count: int, item: int) -> list[bytes]:
    """The values as they stand in the file, from their planes and the bytes below."""
    tops = planes(file.take(one["stream"]), count, one["planes"])
    return [file.take(item - one["planes"]) + top[::-1] for top in tops]


def eighths(file: Bytes, one: dict, mask: list[int]) -> list[bytes]:
    across = one["n"] // max(1, rows(one))
    places = [i for i, bit in enumerate(mask) if bit]
    used = sorted({i // across for i in places})
    assert len(used) == one["scales"]
    scales = dict(zip(used, struct.unpack(f"<{len(used)}f", file.take(4 * len(used))), strict=True))
    codes = [int.from_bytes(code, "little", signed=True) for code in stored(file, one, len(places), 1)]
    # The product of two float32 is exact in float64, so that packing it as float32 rounds once.
    products = [struct.pack("<f", code * scales[i // across]) for code, i in zip(codes, places, strict=True)]
    return [level(product, one["dtype"]) for product in products]


def level(data: bytes, dtype: int) -> bytes:
    value = struct.unpack("<f", data)[0]
    return {F16: struct.pack("<e", value) if abs(value) < 65520 else b"", BF16: data[2:], F32: data}.get(
        dtype, struct.pack("<d", value)
    )


def widen(data: bytes, what: int, dtype: int) -> bytes:
    if what == OWN:
        return data
    fraction, bits = 10 if what == AS_F16 else 7, int.from_bytes(data, "little")
    sign, top, payload = bits >> 15, bits % 2**15 >> fraction, bits % 2**fraction
    if payload and top == 2 ** (15 - fraction) - 1:  # a NaN, which struct does not keep
        size, wide = (4, 23) if dtype == F32 else (8, 52)
        largest = 2 ** (8 * size - 1) - 2**wide
        return (sign * 2 ** (8 * size - 1) + largest + payload * 2 ** (wide - fraction)).to_bytes(
            size, "little"
        )
    value = struct.unpack("<e", data)[0] if what == AS_F16 else struct.unpack("<f", b"\0\0" + data)[0]
    return struct.pack("<f" if dtype == F32 else "<d", value)
