"""The last that is allowed is allowed: of every limit, a file that just keeps it."""

import math

import numpy as np
import pytest
from drafts import Draft
from forge import (
    ALL,
    BASE,
    BF16,
    DENSE,
    DTYPE,
    F16,
    GAPS,
    LEVELS,
    MIXED,
    RICE,
    STATIC,
    entry,
    file,
    named,
    old_entry,
)
from lies import HONEST, ONE, W, dense, task
from sections import gaps, planes, rice, stream

from compressor.packed import reader


def scalar(field: bytes) -> bytes:
    return file(field + bytes([0, DTYPE["U8"], 0, 0x8D, 0xEF, 0x02, 0xD2]), sections=b"\x00")


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (named(b"w" * 1024), "w" * 1024),
        (named(b"w" * 1017 + b"\x01"), "w" * 1017 + ".weight"),
        (named(b"w" * 14), "w" * 14),
        (named(b"w" * 15), "w" * 15),
        (named(b"\x05"), ".num_batches_tracked"),
        (named(b"x.bias\x01"), "x.bias.weight"),
        (named(b" "), " "),
        (named("é".encode() + b"\x02"), "é.bias"),
    ],
)
def test_names_of_every_length_and_ending(field, name, slot):
    assert list(reader.parse(slot.put(scalar(field))).tensors) == [name]


def test_a_version_without_short_names_has_whole_ones(slot):
    own = old_entry(b"fc.weight", role=DENSE, positions=ALL, decoded=W)
    assert list(reader.parse(slot.put(file(own, sections=W, version=1))).tensors) == ["fc.weight"]


@pytest.mark.parametrize("shape", [(), (4,), (1,) * 31 + (4,), (2, 0, 1 << 46), (0, (1 << 48) - 1)])
def test_shapes_of_every_rank_and_size(shape, slot):
    size = 4 * math.prod(shape)
    own = dense(b"w", bytes(size), shape=shape)
    assert reader.parse(slot.put(file(own, sections=bytes(size)))).tensors["w"].shape == shape


def test_a_dtype_without_a_zero_is_dense(slot):
    own = dense(b"w", W[:4], dtype=DTYPE["F8_E8M0"])
    assert reader.parse(slot.put(file(own, sections=W[:4]))).tensors["w"].data.tobytes() == W[:4]


@pytest.mark.parametrize(("code", "bits"), [(F16, 0x7C01), (BF16, 0x7F81)])
def test_a_nan_that_signals_is_read_from_the_versions_that_wrote_it(code, bits, slot):
    half = np.array([bits], "<u2")
    with np.errstate(invalid="ignore"):
        wide = half.view("<f2").astype("<f4") if code == F16 else (half.astype("<u4") << 16).view("<f4")
    own = old_entry(values=code, decoded=wide.tobytes() + bytes(12))
    path = slot.put(file(own, sections=b"\x01" + half.tobytes(), version=1, flags=2, error=bytes(8)))
    assert reader.parse(path).tensors["w"].data.tobytes() == wide.tobytes() + bytes(12)


def test_levels_of_no_weights_are_zero(slot):
    own = entry(values=LEVELS, kept=0, decoded=bytes(16))
    assert reader.parse(slot.put(file(own, sections=b"\x00" + bytes(8)))).tensors["w"].levels == (0, 0)


@pytest.mark.parametrize("code", [GAPS, RICE])
@pytest.mark.parametrize(
    ("mask", "width"),
    [
        ([0, 0, 0, 1], 1),
        ([0] * 6 + [1], 2),
        ([1], 1),
        ([0] * 9 + [1], 30),
        ([0] * 4 + [1, 0, 1, 1], 0),
        ([0] * 8, 0),
    ],
)
def test_a_last_weight_behind_as_many_escapes_as_there_can_be(code, mask, width, slot):
    width = max(width, 1) if code == GAPS else width
    where, escapes = (gaps if code == GAPS else rice)(mask, width)
    decoded = b"".join(ONE if bit else bytes(4) for bit in mask)
    fields = {
        "shape": (len(mask),),
        "kept": sum(mask),
        "width": width,
        "escapes": escapes,
        "decoded": decoded,
    }
    path = slot.put(file(entry(positions=code, **fields), sections=where + ONE * sum(mask)))
    assert reader.parse(path).tensors["w"].mask.tolist() == [bool(bit) for bit in mask]


def coded(mask: np.ndarray, positions: int, **known: object) -> tuple[dict[str, object], bytes]:
    """Fields and section of the signs +1 in a stream."""
    kept = int(mask.sum())
    data = stream(mask, [1] * kept, model="mixed" if positions == MIXED else "static", **known)
    decoded = (mask.reshape(-1).astype("<f4")).tobytes()
    fields = {"positions": positions, "values": LEVELS, "shape": mask.shape, "kept": kept, "coded": len(data)}
    return fields | {"decoded": decoded}, data + bytes(4) + ONE


def test_a_stream_of_as_many_weights_as_it_may_hold(slot):
    for length in range(1, 8):
        mask = np.zeros((1, (length + 16) << 14), int)
        mask[0, :length] = 1
        fields, section = coded(mask, STATIC)
        if fields["coded"] == length:
            break
    path = slot.put(file(entry(b"w", **fields), sections=section))
    assert reader.parse(path).tensors["w"].kept == length


def test_planes_of_as_many_values_as_their_stream_may_hold(slot):
    for length in range(1 << 10):
        zeros = bytes((length + 16) << 14)
        top, low = planes(zeros, 1, 1)
        if len(top) <= length:
            break
    assert len(top) == length
    own = dense(b"w", zeros, dtype=DTYPE["U8"], shape=(len(zeros),), planes=1, stream=length)
    assert not reader.parse(slot.put(file(own, sections=top + low))).tensors["w"].data.any()


def test_the_widest_mixed_tensor_behind_the_longest_producer(slot):
    if reader.core is None:
        pytest.skip("the C++ core was not built here")
    rows = 1 << 20
    first, second = (
        (np.random.default_rng(0).random(size) < 1e-4).astype(int) for size in ((rows, 1), (2, rows))
    )
    a, section_a = coded(first, STATIC)
    b, section_b = coded(second, MIXED, fan=first.sum(1))
    data = Draft([({"name": b"a", **a}, section_a), ({"name": b"b", "producer": 1, **b}, section_b)]).seal()
    assert reader.parse(slot.put(data)).tensors["b"].kept == second.sum()


@pytest.mark.slow
def test_the_largest_mixed_tensor(slot):
    if reader.core is None:
        pytest.skip("the C++ core was not built here")
    mask = (np.random.default_rng(0).random((1 << 12, 1 << 12)) < 1e-3).astype(int)
    fields, section = coded(mask, MIXED)
    path = slot.put(file(entry(b"w", **fields), sections=section))
    assert np.array_equal(reader.parse(path).tensors["w"].mask, mask)


@pytest.mark.slow
def test_as_many_tensors_as_there_may_be(slot):
    names = sorted({f"{at:06d}" for at in range(1 << 17)})
    before, entries = "", []
    for name in names:
        shared = next((at for at in range(6) if name[at : at + 1] != before[at : at + 1]), 6)
        entries.append(dense(name[shared:].encode(), b"", shape=(0,), shared=shared))
        before = name
    assert len(reader.parse(slot.put(file(*entries))).tensors) == 1 << 17


def test_a_producer_is_counted_over_what_has_no_mask_of_its_own(slot, base_slot):
    """Neither aliases, nor unmasked tensors, nor masks of the base are counted; gaps over a base are."""
    base = base_slot.put(HONEST)
    first = entry(b"p", positions=GAPS, shape=(4, 1), kept=1, width=1, decoded=W)
    grid = [[1, 1, 0, 0], [0, 1, 0, 0]]
    data = stream(grid, model="mixed", fan=np.array([1, 0, 0, 0]))
    decoded = b"".join(ONE if bit else bytes(4) for bit in np.ravel(grid))
    last = entry(b"x", positions=MIXED, shape=(2, 4), kept=3, producer=1, coded=len(data), decoded=decoded)
    entries = [
        first,
        dense(b"q"),
        named(b"r") + b"\x02\x00",
        entry(values=BASE, positions=ALL, decoded=W),
        last,
    ]
    sections = b"\x00" + ONE + W + data + ONE * 3
    path = slot.put(task(*entries, sections=sections))
    assert reader.parse(path, base).tensors["x"].mask.astype(int).tolist() == grid
    assert reader.look(path).tensors["x"].kept == 3
