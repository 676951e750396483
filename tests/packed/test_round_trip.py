"""What is packed comes back bit for bit, in every format, dtype and shape, and to a second reader too."""

import plain_reader
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import FLOATS, SHAPES, bits_of, kept_zeros, masked, same, tensor_of

from compressor.errors import InputError
from compressor.packed import FORMATS, pack, reader, sizes, unpack, unpack_mask
from compressor.packed.reader import DTYPES


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("packed") / "net.safetensors"


@settings(max_examples=150)
@given(pair=masked(), form=st.sampled_from(["auto", "entropy", "csr", "bitmask", "dense"]))
def test_every_bit_and_the_mask_survive(path, pair, form):
    tensor, mask = pair
    state = {"a": torch.ones(3), "w": tensor, "z": torch.tensor(7)}
    if form == "dense" and mask.sum() < mask.numel() and kept_zeros(tensor, mask):
        with pytest.raises(InputError, match="kept zeros"):
            pack(state, path, mask={"w": mask}, format=form)
        return
    weighed = pack(state, path, mask={"w": mask}, format=form)
    assert same(unpack(path), state)
    assert torch.equal(unpack_mask(path)["w"], mask)
    assert weighed == sizes(path)
    assert weighed.file == path.stat().st_size
    slow = plain_reader.read(path.read_bytes())
    assert slow["w"][2] == bits_of(tensor)
    assert slow["w"][3] == mask.reshape(-1).int().tolist()


@settings(max_examples=100)
@given(pair=masked(FLOATS, "levels"))
def test_two_levels_survive_as_asni2(path, pair):
    tensor, mask = pair
    pack({"w": tensor}, path, mask={"w": mask}, format="asni2")
    stored = reader.parse(path).tensors["w"]
    assert stored.format == "asni2"
    assert same(unpack(path), {"w": tensor})
    assert torch.equal(unpack_mask(path)["w"], mask)
    low, high = stored.levels
    assert low < high or (stored.kept == 0 and low == high == 0)
    assert {low, high} - {0.0} <= set(tensor[mask].double().tolist())
    assert plain_reader.read(path.read_bytes())["w"][2] == bits_of(tensor)


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=10)
@given(shape=SHAPES, seed=st.integers(0, 999))
def test_every_dtype_survives_without_a_mask(path, dtype, shape, seed):
    size = torch.zeros(shape).numel()
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2 if dtype == "BOOL" else 256, (size,), generator=generator).numpy()
    state = {"w": tensor_of(bits, dtype, shape)}
    pack(state, path)
    assert same(unpack(path), state)
    assert unpack_mask(path) == {}


@pytest.mark.parametrize("form", ["auto", "entropy", "csr", "bitmask"])
def test_kept_zeros_of_both_signs_and_nan_payloads_survive(path, form):
    bits = torch.tensor([0, -(2**31), 0x7FC12345, 0x7F800001, 0, 5, 0, 0], dtype=torch.int32)
    mask = torch.tensor([1, 1, 1, 1, 0, 1, 0, 0], dtype=torch.bool)
    pack({"w": bits.view(torch.float32)}, path, mask={"w": mask}, format=form)
    assert unpack(path)["w"].view(torch.int32).tolist() == bits.tolist()
    assert torch.equal(unpack_mask(path)["w"], mask)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_a_negative_zero_at_a_pruned_place_becomes_positive(path, dtype, form):
    dtype = getattr(torch, dtype)
    if dtype is torch.complex64 and form == "asni2":
        return  # complex numbers have no levels
    weight = torch.tensor([1.0, -0.0, -0.0, 2.0]).to(dtype)
    given = weight.clone()
    pack({"w": weight}, path, mask={"w": torch.tensor([True, False, False, True])}, format=form)
    assert bits_of(unpack(path)["w"]) == bits_of(torch.tensor([1.0, 0.0, 0.0, 2.0]).to(dtype))
    assert bits_of(weight) == bits_of(given)


def test_a_strided_tensor_is_stored_in_row_major_order(path):
    weight = torch.arange(6.0).reshape(2, 3).T
    pack({"w": weight, "c": torch.view_as_complex(torch.ones(2, 2)).conj()}, path)
    assert unpack(path)["w"].tolist() == weight.tolist()
    assert unpack(path)["c"].tolist() == [1 - 1j, 1 - 1j]


def test_a_network_without_tensors_survives(path):
    assert pack({}, path).file == path.stat().st_size
    assert unpack(path) == {}


@pytest.mark.parametrize("form", ["auto", *FORMATS])
def test_the_same_input_gives_the_same_bytes(path, form):
    weight = torch.tensor([0.0, 0.5, 0.0, 0.0, -1.0])
    files = []
    for _ in range(2):
        pack({"w": weight.clone()}, path, mask={"w": weight != 0}, format=form)
        files.append(path.read_bytes())
    assert files[0] == files[1]
