"""The JSON header of a safetensors file, parsed strictly and without taking memory for what is wrong.

Source: the README of safetensors, "Format". Refused beyond what its loader refuses: a name or key that stands twice,
blanks before the header and anything but spaces after it, unknown fields, positional lists, a `__metadata__` that is
not text to text, shapes that numpy could not hold, names that could not be used safely.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np

from compressor.errors import FormatError, InputError
from compressor.packed.reader import DTYPES, MAX_NAME, MAX_RANK

FIELDS: Final = ("data_offsets", "dtype", "shape")
SMALL: Final = ("F4", "F6_E2M3", "F6_E3M2")  # safetensors dtypes of less than a byte
MAX_ELEMENTS: Final = 1 << 48
MAX_KEYS: Final = 1 << 16  # of __metadata__
MAX_BLANKS: Final = 1 << 12  # in one place: a page, to which some writers fill the header
_BLANK: Final = re.compile(rb"[ \t\n\r]{0,%d}" % MAX_BLANKS)
_STRING: Final = re.compile(rb'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])*+"')
_FIELD: Final = re.compile(
    rb'"(dtype|shape|data_offsets)"[ \t\n\r]*:[ \t\n\r]*(?:"([A-Z0-9_]{1,16})"|\[([0-9, \t\n\r]*)\])'
)
_COUNT: Final = re.compile(rb"0|[1-9][0-9]{0,19}")
# A name that leads out of the folder, once it is the name of a file (npz is a zip of such).
_ABROAD: Final = re.compile(r"(^|[/\\])\.\.([/\\]|$)|^[/\\]|^[A-Za-z]:[/\\]")

Entry = tuple[str, str, tuple[int, ...], int, int]


class _Text:
    """A place in the JSON of the header."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, mark: bytes) -> bool:
        """Step over blanks and the mark, if it stands there."""
        match = _BLANK.match(self.data, self.at)
        at = match.end() if match else self.at
        if self.data[at : at + 1] != mark:
            return False
        self.at = at + 1
        return True

    def expect(self, mark: bytes) -> None:
        check(self.take(mark), f"has a header with no {mark.decode()!r} at byte {8 + self.at}")

    def match(self, pattern: re.Pattern[bytes], what: str) -> re.Match[bytes]:
        blank = _BLANK.match(self.data, self.at)
        found = pattern.match(self.data, blank.end() if blank else self.at)
        if found is None:
            raise FormatError(f"has a header with {what} missing or wrong at byte {8 + self.at}")
        self.at = found.end()
        return found

    def string(self) -> str:
        token = self.match(_STRING, "a string")[0]
        try:
            text = str(json.loads(token)) if b"\\" in token else token[1:-1].decode()
            text.encode()  # lone surrogates
        except ValueError:
            raise FormatError(f"has text that is not UTF-8 before byte {8 + self.at}") from None
        return text

    def keys(self, twice: str) -> Iterator[str]:
        """Yield the keys of an object, each once, or else `twice` with its name; who takes them reads the values."""
        self.expect(b"{")
        seen: set[str] = set()
        more = not self.take(b"}")
        while more:
            key = self.string()
            check(key not in seen, twice.format(repr(key[:MAX_NAME])))
            seen.add(key)
            self.expect(b":")
            yield key
            more = self.take(b",")
            if not more:
                self.expect(b"}")


def entries(data: bytes) -> Iterator[Entry]:
    """Yield name, dtype, shape, and where the tensor begins and ends in the data, of every tensor in the header.

    Each is whole in itself; whether all of them fill the file is for the caller to say. Raises FormatError, and
    InputError for a dtype of less than a byte.
    """
    header = _Text(data)
    check(data[:1] == b"{", "is not a safetensors file: its header does not begin with {")
    for name in header.keys("has two tensors of the name {}"):
        if name == "__metadata__":
            _metadata(header)
        else:
            check(
                0 < len(name.encode()) <= MAX_NAME and min(name) >= " " and not _ABROAD.search(name),
                f"has a tensor of the name {name[:80]!r}; names are text of 1 to {MAX_NAME} bytes and no path",
            )
            with _named(name):
                entry = _entry(header)
            yield name, *entry
    behind = header.data[header.at :]
    check(not behind.strip(b" "), "has a header with something behind its last }")
    check(
        len(behind) <= MAX_BLANKS,
        f"has {len(behind):,} blanks behind its header; {MAX_BLANKS:,} are the limit",
    )


def _metadata(header: _Text) -> None:
    for place, _ in enumerate(header.keys("has the key {} twice in its __metadata__")):
        check(place < MAX_KEYS, f"has more than {MAX_KEYS:,} keys in its __metadata__")
        header.string()


def _entry(header: _Text) -> tuple[str, tuple[int, ...], int, int]:
    header.expect(b"{")
    found: dict[str, re.Match[bytes]] = {}
    while len(found) < len(FIELDS):
        if found:
            header.expect(b",")
        field = header.match(_FIELD, f"one of {', '.join(FIELDS)}")
        check(field[1].decode() not in found, f"has its {field[1].decode()} twice")
        found[field[1].decode()] = field
    header.expect(b"}")
    dtype = (found["dtype"][2] or b"").decode()
    if dtype in SMALL:
        raise InputError(f"has dtype {dtype}, of less than a byte, which is not supported")
    check(dtype in DTYPES, f"has an unknown dtype {dtype!r}")
    shape, offsets = _counts(found["shape"]), _counts(found["data_offsets"])
    check(len(shape) <= MAX_RANK, f"has more than {MAX_RANK} dimensions")
    most = math.prod(max(size, 1) for size in shape)
    check(most < MAX_ELEMENTS, "has a shape beyond every limit")
    check(len(offsets) == 2 and offsets[0] <= offsets[1], "has data_offsets that are no begin and end")
    size = math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
    check(
        offsets[1] - offsets[0] == size,
        f"takes {offsets[1] - offsets[0]:,} bytes, its shape and dtype {size:,}",
    )
    return dtype, shape, offsets[0], offsets[1]


def _counts(field: re.Match[bytes]) -> tuple[int, ...]:
    check(field[3] is not None, f"has a {field[1].decode()} that is no list")
    check(field[3].count(b",") <= MAX_RANK, f"has more than {MAX_RANK} dimensions")
    parts = [part.strip() for part in field[3].split(b",")] if field[3].strip() else []
    good = all(_COUNT.fullmatch(part) for part in parts)
    check(good, f"has a {field[1].decode()} that is no list of counts")
    return tuple(int(part) for part in parts)


def check(good: bool, otherwise: str) -> None:
    """Raise FormatError unless it is good."""
    if not good:
        raise FormatError(otherwise)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (FormatError, InputError) as error:
        raise type(error)(f'tensor "{name}" {error}') from None
