"""Mutants of honest files by somebody who knows the format: lengths, CRC-32, digests and streams are made to fit.

A mutant is an honest draft with one to three changes: of a number in the header, a shape, the order, names and number
of tensors, a section, a stream (as it comes, or with the ending that its decoder wants, or of another mask). For half
of them the CRC-32 are those of what is decoded, so that everything else has to be found wrong, or is right.
"""

import contextlib
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest
from changes import CHANGES
from drafts import Draft, header
from forge import number
from honest import DRAFTS
from slot import Slot

from compressor.errors import FormatError, InputError
from compressor.packed import reader


def mutants(seed: int, count: int) -> Iterator[tuple[str, Draft]]:
    """Name of the draft that it was, and the mutant."""
    rng = random.Random(seed)
    names = list(DRAFTS)
    for _ in range(count):
        name = rng.choice(names)
        draft = deepcopy(DRAFTS[name])
        for _ in range(rng.randint(1, 3)):
            rng.choice(CHANGES)(rng, draft)
        if rng.random() < 0.8:
            fit(rng, draft)
        yield name, draft


def fit(rng: random.Random, draft: Draft) -> None:
    """Make flags and sections what the header demands, if that is little."""
    parts = [header(fields) for fields, _ in draft.tensors]
    with contextlib.suppress(FormatError):
        text = number(len(parts)) + b"".join(parts)
        entries = reader._entries(reader._Cursor(text, 0), 3, 1 << 60)
        rounded = any(entry.values in reader.ROUNDED for entry in entries)
        draft.flags = draft.flags & ~2 | 2 * rounded
        draft.error = bytes(4) * rounded
        for at, entry in enumerate(entries):
            fields, section = draft.tensors[at]
            if entry.section != len(section) and entry.section < 1 << 14:
                draft.tensors[at] = fields, (section + rng.randbytes(entry.section))[: entry.section]


def with_crcs(draft: Draft, slot: Slot, base: Path | None) -> bytes:
    """The file with the CRC-32 of whatever it is that is decoded."""
    found: list[bytes] = []

    class AnyCrc(int):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            return True

    def crc32(data: memoryview) -> int:
        found.append(bytes(data))
        return AnyCrc()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "zlib", type("Zlib", (), {"crc32": staticmethod(crc32)}))
        patch.setattr(reader, "SMALL", 1 << 60)  # no threads: in the order of the file
        slot.put(draft.seal())
        try:
            reader.parse(slot.path, base, max_bytes=1 << 20)
        except (FormatError, InputError):
            return draft.seal()
    own = [fields for fields, _ in draft.tensors if "target" not in fields]
    last = found[len(found) - len(own) :]  # those of the base come first
    for fields, decoded in zip(own, last, strict=False):
        fields["decoded"] = decoded
    return draft.seal()
