"""Whatever is packed: C++ and plain Python, 1 thread and 2 give the same bytes, and three readers the same bits."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import plain_coder
import plain_masks
import plain_reader
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import bits_of, layer_masks, networks, same

from compressor.errors import InputError
from compressor.packed import FORMATS, coder, reader, source, unpack, unpack_mask, write
from compressor.packed.reader import Layer

CORE = reader.core


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("packed") / "net.safetensors"


@contextmanager
def plain_python() -> Iterator[None]:
    """The part in C++ switched off."""
    reader.core = None
    try:
        yield
    finally:
        reader.core = CORE


def written(path, state, mask, **options) -> bytes:
    """The file, which must be the same however it is written."""
    given = source.given(state, mask)
    with plain_python():
        write(path, given, threads=2, **options)
    plain = path.read_bytes()
    for threads in (1, 2):
        write(path, given, threads=threads, **options)
        assert path.read_bytes() == plain
    return plain


def check_read(path, state, mask) -> None:
    """All three readers find these tensors and masks."""
    slow = plain_reader.read(path.read_bytes())
    assert {name: one[2] for name, one in slow.items()} == {name: bits_of(one) for name, one in state.items()}
    for name, kept in mask.items():
        assert slow[name][3] == kept.reshape(-1).int().tolist()
    assert same(unpack(path), state)
    assert same(unpack_mask(path), mask)
    with plain_python():
        assert same(unpack(path), state)


@settings(max_examples=250)
@given(network=networks(), form=st.sampled_from(["auto", "auto", "entropy", "entropy", *FORMATS]))
def test_every_bit_survives_and_every_writer_writes_the_same(path, network, form):
    state, mask = network
    try:
        written(path, state, mask, format=form)
    except InputError as error:
        refused = {"dense": "kept zeros", "asni2": "two values|dtypes|levels"}
        if form not in refused or not re.search(refused[form], str(error)):
            raise
        return
    check_read(path, state, mask)


def tamed(network, nan: bool):
    """The network with its floats between -1000 and 1000; nan: others are NaNs with their payloads, else 1.5."""
    state, mask = network
    done = {}
    for name, one in state.items():
        tame = one
        if one.dtype in (torch.float32, torch.float64):
            fine = (one.abs() <= 1000) | (one.isnan() if nan else torch.zeros_like(one, dtype=torch.bool))
            tame = torch.where(fine, one, 1.5)
            tame = torch.where(mask[name], tame, 0.0) if name in mask else tame
        done[name] = done["fc0.weight"] if name == "tied" else tame
    return done, mask


@settings(max_examples=120)
@given(network=networks(), form=st.sampled_from(["entropy", "csr", "bitmask"]), data=st.data())
def test_rounded_values_come_back_the_same_to_every_reader(path, network, form, data):
    values = data.draw(st.sampled_from([None, "float16", "bfloat16", "int8"]))
    biases = data.draw(st.sampled_from([None, "float16", "bfloat16"]))
    state, mask = tamed(network, nan=values != "int8")
    written(path, state, mask, format=form, values=values, biases=biases)
    found = unpack(path)
    check_read(path, found, mask)
    assert same(unpack_mask(path), mask)
    for name, one in state.items():
        masked = name in mask or name == "tied"
        how = values if masked else biases or (values if values != "int8" else None)
        if how is None or one.dtype not in (torch.float32, torch.float64):
            assert bits_of(found[name]) == bits_of(one)
        elif how == "int8":
            rows = one.flatten(1) if one.dim() > 1 else one.reshape(1, -1)
            step = rows.abs().amax(1, keepdim=True) / 127 if rows.numel() else 0
            off = (found[name].reshape(rows.shape) - rows).abs()
            assert bool((off <= step * 0.50001 + 2.0**-119).all())
        else:
            low = one.to(getattr(torch, how)).to(one.dtype)
            assert torch.equal(found[name].nan_to_num(7.0), low.nan_to_num(7.0))
            assert torch.equal(found[name].isnan(), one.isnan())
            assert bits_of(found[name].signbit()) == bits_of(one.signbit())


@st.composite
def layers(draw):
    """(layer, mask, signs): one that any entry could have, whatever the writer would choose."""
    mask = draw(layer_masks())[0]
    rows = mask.shape[0] if mask.dim() > 1 else 1
    columns = mask.numel() // max(rows, 1)
    kernel = (int(np.prod(mask.shape[2:-1])), mask.shape[-1]) if mask.dim() > 2 else (1, 1)
    pictures = [each for each in range(2, columns + 1) if columns % each == 0] if mask.dim() == 2 else []
    picture = draw(st.sampled_from([0, *pictures, *([1] if kernel[0] * kernel[1] > 1 else [])]))
    parts = draw(st.sampled_from([0, *(each for each in range(2, columns + 1) if columns % each == 0)]))
    fan = np.array([draw(st.integers(0, 40)) for _ in range(parts)])
    flat = mask.reshape(rows, columns).int().tolist()
    layer = Layer(
        draw(st.sampled_from(["mixed", "mixed", "static"])) if mask.dim() > 1 else "static",
        *(rows, columns, int(mask.sum()), picture, kernel),
        fan=fan if fan.any() else None,
        ordered=rows > 1 and flat == sorted(flat, reverse=True) and draw(st.booleans()),
        signed=draw(st.booleans()),
    )
    signs = np.random.default_rng(draw(st.integers(0, 99))).random(layer.kept) < draw(
        st.sampled_from([0.5, 0.9])
    )
    return layer, mask.reshape(-1).numpy(), signs if layer.signed else None


@settings(max_examples=400)
@given(one=layers())
def test_the_page_describes_every_layer_that_can_be_coded(one):
    layer, mask, signs = one
    if not layer.kept:
        return
    stream = coder.encode_mask(mask, signs, layer)
    with plain_python():
        assert coder.encode_mask(mask, signs, layer) == stream
    sums = [] if layer.fan is None else layer.fan.tolist()
    shape = plain_masks.Shape(layer.rows, layer.columns, layer.kept, layer.picture, layer.kernel, sums)
    bits, found = plain_masks.walk(stream, shape, layer.model == "mixed", layer.ordered, layer.signed)
    assert bits == mask.astype(int).tolist()
    assert found == ([] if signs is None else signs.astype(int).tolist())


@settings(max_examples=40)
@given(
    count=st.integers(1, 30),
    depth=st.integers(1, 7),
    spread=st.sampled_from([1, 3, 40, 256]),
    seed=st.integers(0, 999),
)
def test_the_page_describes_every_plane(count, depth, spread, seed):
    planes = np.random.default_rng(seed).integers(0, spread, (depth, count)).astype(np.uint8)
    streams, again = [], []
    coder.encode_planes(planes, streams.append)
    with plain_python():
        coder.encode_planes(planes, again.append)
    assert again == streams
    for coded, stream in enumerate(streams, 1):
        found = plain_coder.planes(stream, count, coded)
        assert found == [bytes(planes[:coded, value]) for value in range(count)]
