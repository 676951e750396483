"""What all lies are made from, and those about the container: one file per lie, under the reason for its refusal.

They are sealed with a correct digest, so that only the check of that very lie can catch them.
"""

import hashlib
import struct

from forge import ALL, BASE, DENSE, F16, INT8, entry, file, number, seal, wrap

Lies = dict[str, dict[str, bytes]]
ONE = struct.pack("<f", 1.0)
W = ONE + bytes(12)  # the decoded tensor of most lies: [1, 0, 0, 0]
HONEST = file(entry(decoded=W), sections=b"\x01" + ONE)
DIGEST = hashlib.sha256(HONEST).digest()
NAN = struct.pack("<f", float("nan"))


def dense(name: bytes = b"w", decoded: bytes = W, **fields: object) -> bytes:
    return entry(name, role=DENSE, positions=ALL, decoded=decoded, **fields)  # type: ignore[arg-type]


def honestly(**fields: object) -> bytes:
    """The honest file with something of the container changed."""
    return file(entry(decoded=W), sections=b"\x01" + ONE, **fields)  # type: ignore[arg-type]


def rounded(error: bytes = bytes(4), flags: int = 2) -> bytes:
    """The same weight as float16, and what the file says of the error."""
    return file(entry(values=F16, decoded=W), sections=b"\x01\x00\x3c", flags=flags, error=error)


def task(*entries: bytes, flags: int = 4, base: bytes = DIGEST, **fields: bytes) -> bytes:
    return file(*entries, flags=flags, base=base, **fields)  # type: ignore[arg-type]


def outer(change: bytes, into: bytes) -> bytes:
    """Replace text in the safetensors header, of the same length or not, and seal again."""
    body = HONEST[:-32]
    length = int.from_bytes(body[:8], "little")
    json = body[8 : 8 + length].replace(change, into)
    assert json != body[8 : 8 + length]
    return seal(len(json).to_bytes(8, "little") + json + body[8 + length :])


def size_as(text: bytes) -> bytes:
    """Write the size in the JSON in another way."""
    size = b"%d" % (len(HONEST) - 8 - int.from_bytes(HONEST[:8], "little"))
    return outer(b'"shape":[' + size, b'"shape":[' + text.replace(b"N", size))


CONTAINER: Lies = {
    "is not a packed file": {
        "empty file": b"",
        "eight bytes": bytes(8),
        "blank before the JSON": outer(b'{"__meta', b' {"__meta'),
        "newline before the JSON": outer(b'{"__meta', b'\n{"__meta'),
        "byte order mark before the JSON": outer(b'{"__meta', b'\xef\xbb\xbf{"__meta'),
        "more metadata": outer(b'"format":"compressor"', b'"format":"compressor","a":"b"'),
        "metadata of null": outer(b'{"format":"compressor"}', b"null"),
        "metadata of 10 MB": outer(b'{"format":"compressor"}', b'{"a":"' + b"x" * 10_000_000 + b'"}'),
        "not UTF-8 in the JSON": outer(b"__metadata__", b"\xff_metadata__"),
        "an empty zip file": b"PK\x05\x06" + bytes(18),
        "an npz": b"PK\x03\x04" + bytes(500),
        "only zeros": bytes(1000),
    },
    "has a safetensors header that does not fit the file": {
        "only the safetensors header": wrap(b"")[:-32],
        "safetensors header of 2^31 bytes": (1 << 31).to_bytes(8, "little") + HONEST[8:],
        "safetensors header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + HONEST[8:],
        "safetensors header of 2^64 - 1 bytes": b"\xff" * 8 + HONEST[8:],
        "eight blanks behind the JSON": outer(b"}}", b"}}" + b" " * 8),
        "10 MB of blanks behind the JSON": outer(b"}}", b"}}" + b" " * 10_000_000),
        "tab behind the JSON": outer(b"}} ", b"}}\t"),
        "offsets that overlap": outer(b'"data_offsets":[0,', b'"data_offsets":[1,'),
        "missing key": outer(b'"dtype":"U8",', b""),
        "unknown key": outer(b'"dtype":"U8",', b'"dtype":"U8","x":1,'),
        "duplicate key": outer(b'"dtype":"U8",', b'"dtype":"U8","dtype":"U8",'),
        "duplicate tensor": outer(b'"compressor":{"dtype"', b'"compressor":{},"compressor":{"dtype"'),
        "another tensor name": outer(b'"compressor":{"dtype"', b'"../pressor":{"dtype"'),
        "another dtype": outer(b'"dtype":"U8"', b'"dtype":"I8"'),
        "deep JSON": outer(b'{"dtype"', b"[" * 10_000 + b'{"dtype"'),
        **{
            f"size written as {text.decode()}": size_as(text)
            for text in (
                b"N.0",
                b"Ne0",
                b"0N",
                b"+N",
                b"-N",
                b"-0",
                b"NaN",
                b"Infinity",
                b"true",
                b'"N"',
                b"1,N",
            )
        },
        "a byte appended": seal(HONEST + b"\x00"),
        "a byte appended behind the digest": HONEST + b"\x00",
        "a second file appended": HONEST + HONEST,
        "another file before": HONEST[:-32] + HONEST,
    },
    "does not begin with the magic bytes": {
        "wrong magic": honestly(magic=b"\x89CMQ"),
    },
    "has another version of the format than 1 to 3": {
        "version 0": honestly(version=0),
        "version 4": honestly(version=4),
        "version 255": honestly(version=255),
    },
    "needs a base in a version that has none, or the reverse": {
        "version 2 without a base": honestly(version=2),
        "version 1 with a base": honestly(version=1, flags=4, base=DIGEST),
    },
    "is a start that needs a base": {
        "start with a base": task(entry(values=BASE, decoded=W), sections=b"\x01", flags=5),
    },
    "names a base that no tensor is in, or the reverse": {
        "base that no tensor needs": task(entry(decoded=W), sections=b"\x01" + ONE),
        "tensor of a base that is not named": file(entry(values=BASE, decoded=W), sections=b"\x01"),
    },
    "sets a flag that this version does not have": {
        f"flag bit {bit}": honestly(flags=1 << bit) for bit in range(3, 8)
    },
    "declares an error but no rounded tensor, or the reverse": {
        "error declared without rounding": honestly(flags=2, error=bytes(4)),
        "rounding without a declared error": rounded(b"", 0),
        "int8 without a declared error": file(
            entry(values=INT8, decoded=W),
            sections=b"\x01" + struct.pack("<f", 1 / 127) + b"\x7f",
        ),
    },
    "declares an error that cannot be": {
        "error that is NaN": rounded(NAN),
        "error of -0.0": rounded(struct.pack("<f", -0.0)),
        "error below 0": rounded(struct.pack("<f", -1.0)),
        "error that is infinite": rounded(struct.pack("<f", float("inf"))),
    },
    "has a header that is longer than the file": {
        "header longer than the file": honestly(length=number(5000)),
        "header into the digest": honestly(length=number(20)),
        "header of 2^31 bytes": honestly(length=number(1 << 31)),
        "header of 2^62 bytes": honestly(length=number(1 << 62)),
        "header of 2^63 - 1 bytes": honestly(length=number((1 << 63) - 1)),
    },
    "has a number of more than nine bytes": {
        "header length of ten bytes": honestly(length=b"\xff" * 9 + b"\x01"),
        "header length of a hundred bytes": honestly(length=b"\xff" * 100),
    },
    "has a number that is not in its shortest form": {
        "header length not in its shortest form": honestly(length=b"\x8f\x00"),
        "header length of 0 in two bytes": honestly(length=b"\x80\x00"),
        "header length of nine bytes of nothing": honestly(length=b"\x8f" + b"\x80" * 7 + b"\x00"),
    },
    "has a header that ends too early": {
        "header shorter than its entries": honestly(length=number(5)),
        "header of no bytes": honestly(length=number(0)),
        "fewer tensors than claimed": honestly(count=number(2)),
        "nothing behind the magic": seal(wrap(b"\x89CMP\x03") + b"\x89CMP\x03"),
        "no base behind its flag": honestly(flags=4),
    },
    "has a header with something behind its last tensor": {
        "more tensors than claimed": file(dense(), dense(b"x"), sections=W + W, count=number(1)),
        "no tensors, but bytes": file(dense(), sections=W, count=number(0)),
    },
    "is not as long as its tensors are": {
        "a hole before the sections": file(entry(decoded=W), sections=b"\x00\x01" + ONE),
        "a tail behind the sections": file(entry(decoded=W), sections=b"\x01" + ONE + b"\x00"),
        "a hole between the sections": file(dense(), dense(b"x"), sections=W + b"\x00" + W),
        "a missing section": file(entry(decoded=W)),
        "a section that is cut": file(entry(decoded=W), sections=b"\x01" + ONE[:3]),
        "values that the base has": task(entry(values=BASE, decoded=W), sections=b"\x01" + ONE),
        "a section of an alias": file(dense(), b"\x01x\x02\x00", sections=W + W),
    },
    "does not match its SHA-256": {
        "digest of another file": HONEST[:-32] + bytes(32),
        "digest without the safetensors header": HONEST[:-32]
        + hashlib.sha256(HONEST[8 + int.from_bytes(HONEST[:8], "little") : -32]).digest(),
    },
    "is damaged (its CRC-32 does not match)": {
        "wrong CRC-32": file(entry(decoded=W[::-1]), sections=b"\x01" + ONE),
        "sections in another order": file(dense(), dense(b"x", W[::-1]), sections=W[::-1] + W),
    },
}
