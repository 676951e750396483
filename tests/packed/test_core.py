"""The C++ core: the bytes of its plain-Python twin, exact tables, one encoding of everything, else ValueError."""

import runpy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from math import log2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import FormatError
from compressor.packed import coder, reader
from compressor.packed.reader import Layer

core = pytest.importorskip("compressor.packed._core", reason="the C++ core was not built here")

ROOT = Path(__file__).parents[2]
TABLES = "03238aa8b51b0eb33f579938ca319d6f1b961b4e648c1a0de973240de7c97c65"
PLAIN = Layer("mixed", 4, 5, 0, 0, (1, 1), None, False, True)
NONE = np.zeros(0, np.uint8)


def random_layer(shape, density, *, seed=0, uneven=False, **changes):
    """A layer as `replace(PLAIN, **changes)`, its mask and signs; its rows descend if it is ordered."""
    rng = np.random.default_rng(seed)
    mask = (rng.random(shape) < density * (rng.random(shape[1]) if uneven else 1)).astype(np.uint8)
    if changes.get("ordered"):
        mask = np.array(sorted(mask.tolist(), reverse=True), np.uint8).reshape(shape)
    layer = replace(PLAIN, rows=shape[0], columns=shape[1], kept=int(mask.sum()), **changes)
    signs = (rng.random(layer.kept) < rng.random()).astype(np.uint8) if layer.signed else NONE
    return layer, mask.reshape(-1), signs


@st.composite
def layers(draw):
    """A layer of any kind with at least one survivor, its mask and its signs."""
    across, down, many = (draw(st.integers(1, 6)) for _ in range(3))
    picture, columns = draw(
        st.sampled_from([(0, across * down), (across + 1, (across + 1) * down), (1, across * down * many)])
    )
    parts = draw(st.sampled_from([each for each in range(1, columns + 1) if columns % each == 0]))
    fan = [draw(st.integers(0, 2**25)) for _ in range(parts)] if draw(st.booleans()) else [0]
    layer, mask, signs = random_layer(
        (draw(st.integers(1, 30)), columns),
        draw(st.sampled_from([0.01, 0.1, 0.5, 0.9, 1])),
        seed=draw(st.integers(0, 2**32)),
        uneven=draw(st.booleans()),
        model=draw(st.sampled_from(["mixed", "mixed", "static"])),
        picture=picture,
        kernel=(down, across),
        fan=np.array(fan) if any(fan) else None,
        ordered=draw(st.booleans()),
        signed=draw(st.booleans()),
    )
    if not layer.kept:
        mask[0] = 1
        layer, signs = replace(layer, kept=1), np.ones(int(layer.signed), np.uint8)
    return layer, mask, signs


def encode(layer, mask, signs):
    return core.encode_mask(mask, signs, *reader.core_arguments(layer))


def decode(stream, layer):
    return core.decode_mask(stream, *reader.core_arguments(layer))


def plainly(data, layer):
    """What `reader.decode_mask` gives without a core."""
    decoder = reader.Decoder(data)
    found = reader.code_mask(decoder, layer, [], [])
    decoder.finish()
    return found


def is_refused(stream, layer):
    """Say whether a stream is refused; if not, it is the one encoding of what it gives."""
    try:
        mask, signs = decode(stream, layer)
    except ValueError as error:
        return str(error).startswith("has ")
    assert encode(layer, mask, signs) == stream
    return False


def damaged(stream):
    """Every bit flip, truncation, one-byte insertion and deletion."""
    for at in range(len(stream)):
        yield from (stream[:at] + bytes([stream[at] ^ 1 << bit]) + stream[at + 1 :] for bit in range(8))
        yield stream[:at]
        yield stream[:at] + stream[at + 1 :]
    for at in range(len(stream) + 1):
        yield from (stream[:at] + bytes([byte]) + stream[at:] for byte in range(256))


def test_the_core_is_the_one_of_this_model():
    assert core.MODEL == reader.MODEL
    assert reader.core is core


def test_the_tables_are_the_specified_ones_and_what_their_script_prints():
    assert sha256(core.tables()).hexdigest() == TABLES
    squash = runpy.run_path(str(ROOT / "core" / "tables.py"))["squash"]()
    assert np.array(squash, "<u2").tobytes() == core.tables()[: 2 * len(squash)]


@given(layers())
def test_masks_have_the_bytes_of_the_plain_twin_and_come_back(case):
    layer, mask, signs = case
    encoder = coder.Encoder()
    reader.code_mask(encoder, layer, mask.tolist(), signs.tolist())
    stream = encode(layer, mask, signs)
    assert stream == encoder.finish()
    for found in (decode(stream, layer), plainly(stream, layer)):
        assert np.array_equal(found[0], mask)
        assert np.array_equal(found[1], signs)


@given(layers(), st.integers(0, 2**32))
def test_a_damaged_stream_means_the_same_to_both(case, seed):
    layer, mask, signs = case
    rng = np.random.default_rng(seed)
    stream = bytearray(encode(layer, mask, signs))
    if stream:
        stream[rng.integers(len(stream))] ^= 1 << int(rng.integers(8))
    try:
        expected = plainly(bytes(stream), layer)
    except FormatError:
        with pytest.raises(ValueError, match="has "):
            decode(bytes(stream), layer)
    else:
        assert all(map(np.array_equal, decode(bytes(stream), layer), expected))


def encoded(planes):
    """The streams of the first plane, the first two, and so on."""
    streams = []
    core.encode_planes(planes, streams.append)
    return streams


@given(st.integers(1, 5), st.integers(0, 80), st.integers(0, 2**32))
def test_planes_have_the_bytes_of_the_plain_twin_and_come_back(number, count, seed):
    rng = np.random.default_rng(seed)
    planes = (rng.normal(size=(number, count)) * rng.choice([1, 30])).astype(np.int64).astype(np.uint8)
    encoder, streams = coder.Encoder(), []
    reader.code_planes(encoder, planes, lambda: streams.append(encoder.finish()))
    assert encoded(planes) == streams
    for coded, stream in enumerate(streams, 1):
        assert np.array_equal(core.decode_planes(stream, coded, count), planes[:coded])


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("model", ["mixed", "static"])
def test_damaged_streams_are_refused_or_are_the_one_encoding_of_something_else(model, ordered):
    layer, mask, signs = random_layer((6, 12), 0.25, model=model, picture=4, ordered=ordered)
    stream = encode(layer, mask, signs)
    assert sum(is_refused(bad, layer) for bad in damaged(stream)) > len(stream)


def test_damaged_planes_are_refused_or_are_the_one_encoding_of_something_else():
    planes = np.random.default_rng(0).integers(0, 3, (2, 30), np.uint8)
    stream = encoded(planes)[-1]
    refused = 0
    for bad in damaged(stream):
        try:
            found = core.decode_planes(bad, 2, 30)
        except ValueError:
            refused += 1
        else:
            assert encoded(found)[-1] == bad
    assert refused > len(stream)


@pytest.mark.parametrize("model", ["mixed", "static"])
def test_a_longer_ending_is_refused(model):
    layer, mask, signs = random_layer((10, 20), 0.2, model=model)
    stream = encode(layer, mask, signs)
    with pytest.raises(ValueError, match="ends in a zero byte"):
        decode(stream + b"\0", layer)
    with pytest.raises(ValueError, match="unread bytes"):
        decode(stream + b"\0\0\0\0\x01", layer)


@pytest.mark.parametrize("model", ["mixed", "static"])
def test_another_number_of_survivors_is_refused_or_gives_that_number(model):
    layer, mask, signs = random_layer((10, 20), 0.2, model=model)
    stream = encode(layer, mask, signs)
    assert sum(is_refused(stream, replace(layer, kept=kept)) for kept in range(201)) > 150


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rows": -1}, "impossible shape"),
        ({"columns": 2**62}, "impossible shape"),
        ({"rows": 2**38}, "impossible shape"),
        ({"columns": 2**20 + 4}, "too many columns"),
        ({"kept": -1}, "more survivors than weights"),
        ({"kept": 13}, "more survivors than weights"),
        ({"picture": 5}, "picture that does not divide"),
        ({"picture": -4}, "impossible picture"),
        ({"kernel": (0, 3)}, "impossible picture"),
        ({"picture": 1, "kernel": (2, 3)}, "picture that does not divide"),
        ({"picture": 1, "kernel": (2**40, 2**40)}, "impossible picture"),
        ({"fan": np.ones(3, np.int64)}, "rows do not divide"),
        ({"fan": np.zeros(4, np.int64)}, "without survivors"),
        ({"fan": np.zeros(0, np.int64)}, "without survivors"),
        ({"fan": np.array([1, 2, -1, 3])}, "negative number"),
    ],
)
def test_arguments_that_are_no_layer_are_refused(change, reason):
    layer = replace(PLAIN, **({"rows": 3, "columns": 4, "kept": 2, "picture": 2} | change))
    with pytest.raises(ValueError, match=reason):
        decode(b"\x80", layer)


@pytest.mark.parametrize(("planes", "count"), [(-1, 1), (17, 1), (1, -1), (1, 2**62)])
def test_impossible_planes_are_refused(planes, count):
    with pytest.raises(ValueError, match="impossible planes"):
        core.decode_planes(b"", planes, count)


def test_masks_that_do_not_fit_their_layer_are_refused():
    layer, mask, signs = random_layer((4, 5), 0.5)
    for args, reason in [
        ((layer, mask[1:], signs), "mask of another size"),
        ((layer, mask, signs[1:]), "number of signs"),
        ((layer, mask, None), "number of signs"),
        ((layer, mask * 2, signs), "neither 0 nor 1"),
        ((layer, mask, signs + 1), "neither 0 nor 1"),
        ((replace(layer, kept=1), mask, signs[:1]), "number of survivors"),
    ]:
        with pytest.raises(ValueError, match=reason):
            encode(*args)
    rising = replace(PLAIN, rows=2, columns=2, kept=2, ordered=True, signed=False)
    with pytest.raises(ValueError, match="rows that do not descend"):
        encode(rising, np.array([0, 1, 1, 0], np.uint8), NONE)


def test_threads_give_the_same_bytes():
    jobs = [random_layer((60, 80), 0.1, model=model, picture=8) for model in ("mixed", "static")] * 4
    with ThreadPoolExecutor(4) as pool:
        streams = list(pool.map(lambda job: encode(*job), jobs))
    assert streams == [encode(*job) for job in jobs]


@pytest.mark.parametrize("density", [0.3, 0.03])
@pytest.mark.parametrize(("model", "most"), [("mixed", 1.008), ("static", 1.0005)])
def test_random_masks_cost_their_entropy(model, most, density):
    layer, mask, signs = random_layer((500, 800), density, model=model, signed=False)
    share = layer.kept / len(mask)
    bound = -len(mask) * (share * log2(share) + (1 - share) * log2(1 - share)) / 8
    assert len(encode(layer, mask, signs)) <= bound * most
