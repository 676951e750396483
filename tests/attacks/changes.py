"""What a mutant may be changed in; every change takes a generator and a draft, which it alters."""

import contextlib
import math
import random
from copy import deepcopy
from dataclasses import replace

import numpy as np
from drafts import Draft, Fields
from forge import BF16, DTYPE, F16, INT8, LEVELS, MIXED, STATIC
from honest import DRAFTS
from sections import stream

from compressor.errors import FormatError
from compressor.packed import reader

NUMBERS = (
    "kept", "width", "escapes", "picture", "ordered", "producer", "coded", "bare", "planes", "stream", "target",
)  # fmt: skip
ITEMS = {DTYPE["F32"]: 4, DTYPE["F64"]: 8, DTYPE["U8"]: 1}
CODES = {"role": 3, "positions": 5, "values": 5, "dtype": 18}
SIZES = [0, 1, 2, 3, 4, 5, 6, 8, 16, 24, 31, 32, 127, 128, 255, 256, 1 << 14, 1 << 18, (1 << 18) + 1, 1 << 20]
HUGE = [1 << 24, (1 << 24) + 1, 1 << 31, 1 << 32, 1 << 40, 1 << 47, 1 << 48, (1 << 63) - 1]


class Ending(reader.Decoder):
    """Finds out how a stream should have ended."""

    whole = b""

    def finish(self) -> None:
        shifted = self.at - 4
        emitted = self.data[:shifted].ljust(shifted, b"\0")
        self.whole = (emitted + reader.terminator(self.low, self.high)).rstrip(b"\0")


def change_number(rng: random.Random, draft: Draft) -> None:
    """A number of an entry: another one, one more or less, or anything."""
    fields = pick(rng, draft)[0]
    keys = [key for key in NUMBERS if key in fields]
    if keys:
        key = rng.choice(keys)
        near = [fields[key] + 1, max(fields[key] - 1, 0), fields[key] ^ 1 << rng.randrange(8)]
        fields[key] = rng.choice([*near, rng.choice(SIZES), rng.choice(HUGE)])
        fields["width"] = fields.get("width", 0) & 255
        fields["planes"] = fields.get("planes", 0) & 7


def change_code(rng: random.Random, draft: Draft) -> None:
    fields = pick(rng, draft)[0]
    key = rng.choice(list(CODES))
    if key in fields:
        fields[key] = rng.randint(0, CODES[key])


def change_shape(rng: random.Random, draft: Draft) -> None:
    fields = pick(rng, draft)[0]
    shape = list(fields.get("shape", ()))
    what = rng.randrange(5)
    if what == 0 and shape:
        shape[rng.randrange(len(shape))] = rng.choice([*SIZES, *SIZES, *HUGE])
    elif what == 1:
        rng.shuffle(shape)
    elif what == 2:
        shape = [math.prod(shape)]
    elif what == 3:
        shape.insert(rng.randint(0, len(shape)), rng.choice([0, 1, 1, 2, 1 << 20]))
    elif shape and shape[-1] % 2 == 0:
        shape[-1:] = [shape[-1] // 2, 2]
    if "target" not in fields:
        fields["shape"] = tuple(shape)


def change_section(rng: random.Random, draft: Draft) -> None:
    """Some bytes of a section; the lengths in the header may follow."""
    at = rng.randrange(max(len(draft.tensors), 1))
    if at < len(draft.tensors):
        fields, section = draft.tensors[at]
        data = bytearray(section)
        for _ in range(rng.randint(1, 3)):
            damage(rng, data)
        key = rng.choice(["coded", "stream", "bare", ""])
        if key in fields:
            fields[key] = max(fields[key] + len(data) - len(section), 0)
        draft.tensors[at] = fields, bytes(data)


def damage(rng: random.Random, data: bytearray) -> None:
    at, what = rng.randrange(len(data) + 1), rng.random()
    if what < 0.2 or not data:
        data.insert(at, rng.choice([0, 1, 127, 128, 255, rng.randrange(256)]))
    elif what < 0.4:
        del data[at % len(data)]
    elif what < 0.7:
        data[at % len(data)] = rng.randrange(256)
    else:
        data[at % len(data)] ^= 1 << rng.randrange(8)


def change_stream(rng: random.Random, draft: Draft) -> None:
    """A stream of the coder, and its ending made the one that its decoder wants to see."""
    at, fields, section = streamed(rng, draft)
    if not fields:
        return
    data = bytearray(section[: fields["coded"]])
    damage(rng, data)
    positions = reader.POSITIONS[fields["positions"]]
    entry = reader.Entry("w", "sparse", "F32", fields["shape"], fields["kept"], positions)
    entry = replace(entry, picture=fields.get("picture", 0), ordered=bool(fields.get("ordered", 0)))
    decoder = Ending(bytes(data))
    with contextlib.suppress(FormatError):
        if entry.positions == "mixed":
            reader._check_picture(entry)
        reader.code_mask(decoder, reader.layer_of(entry, None, signed=fields["values"] == LEVELS), [], [])
        decoder.finish()
        data = bytearray(decoder.whole)
    draft.tensors[at] = fields | {"coded": len(data)}, bytes(data) + section[fields["coded"] :]


def change_mask(rng: random.Random, draft: Draft) -> None:
    """Another mask of as many weights, in a stream that is right."""
    at, fields, section = streamed(rng, draft)
    if not fields or fields["positions"] != STATIC:
        return
    mask = np.zeros(math.prod(fields["shape"]), bool)
    mask[rng.sample(range(len(mask)), fields["kept"])] = True
    signs = [rng.randrange(2) for _ in range(fields["kept"])] if fields["values"] == LEVELS else None
    rows = fields["shape"][0] if len(fields["shape"]) > 1 else 1
    data = stream(mask.reshape(rows, -1).tolist(), signs)
    draft.tensors[at] = fields | {"coded": len(data), "ordered": 0}, data + section[fields["coded"] :]


def change_planes(rng: random.Random, draft: Draft) -> None:
    """A stream of planes, and its ending made the one that its decoder wants to see."""
    at = rng.randrange(max(len(draft.tensors), 1))
    fields, section = draft.tensors[at] if draft.tensors else ({}, b"")
    item = {F16: 2, BF16: 2, INT8: 1}.get(fields.get("values", -1), ITEMS.get(fields.get("dtype", -1), 0))
    length, planes, count = (fields.get(key, 0) for key in ("stream", "planes", "kept"))
    begin = len(section) - length - count * (item - planes)
    if not length or not 0 < planes <= item or not 0 < count <= 1 << 9 or begin < 0:
        return
    data = bytearray(section[begin : begin + length])
    damage(rng, data)
    decoder = Ending(bytes(data))
    reader.code_planes(decoder, np.zeros((planes, count), np.uint8), lambda: None)
    decoder.finish()
    rest = section[begin + length :]
    draft.tensors[at] = fields | {"stream": len(decoder.whole)}, section[:begin] + decoder.whole + rest


def streamed(rng: random.Random, draft: Draft) -> tuple[int, Fields, bytes]:
    """A tensor whose positions are a stream that can be decoded here, and its place; or no fields."""
    at = rng.randrange(max(len(draft.tensors), 1))
    fields, section = draft.tensors[at] if draft.tensors else ({}, b"")
    good = fields.get("positions") in (STATIC, MIXED) and fields.get("coded", 1 << 60) <= len(section)
    good = good and 0 < fields["kept"] <= math.prod(fields["shape"]) <= 1 << 12 and not fields.get("producer")
    return at, fields if good else {}, section


def change_tensors(rng: random.Random, draft: Draft) -> None:
    """One twice, one less, two in another order, an alias, another name."""
    what, tensors = rng.randrange(5), draft.tensors
    if not tensors:
        return
    at = rng.randrange(len(tensors))
    if what == 0:
        tensors.append(
            deepcopy(rng.choice(rng.choice([tensors, DRAFTS[rng.choice(list(DRAFTS))].tensors or tensors])))
        )
        tensors[-1][0]["name"] = rng.choice([b"z", b"\xc3\xa9\x01", b"z" * 30])
    elif what == 1:
        del tensors[at]
    elif what == 2:
        rng.shuffle(tensors)
    elif what == 3:
        tensors.insert(at, ({"name": b"zz", "target": rng.randrange(3)}, b""))
    else:
        tensors[at][0]["shared"] = rng.choice([0, 1, 2, 1 << 40])


def change_file(rng: random.Random, draft: Draft) -> None:
    what = rng.randrange(4)
    if what == 0:
        draft.flags ^= 1 << rng.randrange(8)
    elif what == 1:
        draft.error = bytes(rng.randrange(256) for _ in range(4)) if draft.flags & 2 else b""
    elif what == 2:
        draft.more = {"version": rng.choice([0, 1, 2, 4, 255])}
    else:
        draft.more = {rng.choice(["count", "length"]): bytes([rng.randrange(256), 0, 0][: rng.randint(1, 3)])}


def pick(rng: random.Random, draft: Draft) -> tuple[dict, bytes]:
    return rng.choice(draft.tensors) if draft.tensors else ({}, b"")


CHANGES = [
    *[change_number] * 4, *[change_code] * 2, *[change_shape] * 3, *[change_section] * 3, *[change_stream] * 4,
    *[change_mask] * 2, *[change_planes] * 2, change_tensors, change_file,
]  # fmt: skip
