"""There is one stream of every mask and of every plane: of all byte strings, as many are taken as there are masks."""

from itertools import combinations, product

import numpy as np
import pytest
from forge import MIXED, STATIC
from honest import DRAFTS
from sections import layer, stream

from compressor.errors import FormatError
from compressor.packed import coder as encoding
from compressor.packed import reader

KINDS = {
    "static": ((2, 3), {}),
    "static ordered": ((3, 3), {"ordered": True}),
    "line": ((2, 3), {"model": "mixed"}),
    "line ordered": ((3, 3), {"model": "mixed", "ordered": True}),
    "picture": ((2, 4), {"model": "mixed", "picture": 2}),
    "kernels": ((2, 4), {"model": "mixed", "picture": 1, "kernel": (1, 2)}),
    "producer": ((2, 4), {"model": "mixed", "fan": np.array([3, 1])}),
}


def masks(shape, ordered):
    """Every mask of two ones."""
    for places in combinations(range(shape[0] * shape[1]), 2):
        mask = np.zeros(shape[0] * shape[1], np.uint8)
        mask[list(places)] = 1
        grid = mask.reshape(shape)
        if not ordered or sorted(grid.tolist(), reverse=True) == grid.tolist():
            yield grid


def taken(decode, longest):
    """Every byte string up to this length that is not refused, and what it is decoded to."""
    found = {}
    for data in (bytes(each) for length in range(longest + 1) for each in product(range(256), repeat=length)):
        try:
            found[data] = decode(data)
        except FormatError:
            continue
    return found


def every_mask_has_one_stream(kind, signed, longest):
    shape, known = KINDS[kind]
    every = {}
    for grid in masks(shape, known.get("ordered")):
        for signs in product((0, 1), repeat=2 * signed):
            every[stream(grid, signs if signed else None, **known)] = grid.tobytes(), bytes(signs)
    assert max(map(len, every)) <= 2
    own = layer(grid, signed, **known)
    found = taken(lambda data: tuple(part.tobytes() for part in reader.decode_mask(data, own)), longest)
    assert found == {data: what for data, what in every.items() if len(data) <= longest}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_mask_has_one_stream_of_a_byte(kind, signed, coder):
    every_mask_has_one_stream(kind, signed, 1)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "kind", [kind if "static" in kind else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_every_mask_has_one_stream_of_two_bytes(kind, signed):
    if reader.core is None:
        pytest.skip("the C++ core was not built here")
    every_mask_has_one_stream(kind, signed, 2)


def test_every_byte_has_one_plane(coder):
    longest = 2 if coder == "core" else 1
    found = taken(lambda data: reader.decode_planes(data, 1, 1).tobytes(), longest)
    assert sorted(found.values()) == [bytes([value]) for value in range(256)]
    again = []
    for what in found.values():
        encoding.encode_planes(np.frombuffer(what, np.uint8)[None], again.append)
    assert again == list(found)


def test_a_stream_that_ends_early_is_refused(slot, coder):
    count = 0
    for name, draft in DRAFTS.items():
        fields, section = draft.tensors[0] if draft.tensors else ({}, b"")
        length = {STATIC: "coded", MIXED: "coded"}.get(fields.get("positions"), "stream")
        if draft.base or not fields.get(length):
            continue
        rest = section[fields[length] :]
        for shorter in range(fields[length]):
            draft.tensors[0] = fields | {length: shorter}, section[:shorter] + rest
            with pytest.raises(FormatError):
                reader.parse(slot.put(draft.seal()))
            count += 1
        draft.tensors[0] = fields, section
        assert name
    assert count > 50
