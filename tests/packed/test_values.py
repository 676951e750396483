"""Values of lower precision: int8 per output channel, biases apart from weights, and what byte planes give."""

import numpy as np
import pytest
import torch
from networks import same

from compressor.errors import FormatError, InputError
from compressor.packed import pack, reader, sizes, unpack, unpack_mask


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def masked(shape, density, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)
    mask = torch.rand(shape, generator=generator) < density
    return torch.where(mask, weight, 0.0), mask


def test_int8_is_a_code_times_the_scale_of_its_output_channel(path):
    weight = torch.tensor([[1.27, -0.635, 0.0, 0.004], [0.0, 0.0, 0.0, 0.0], [-254.0, 2.0, 0.0, 3.0]])
    pack({"w": weight}, path, mask={"w": weight != 0}, values="int8")
    # 0.635 / 0.01 is a half, which goes to the even code 64; 3 / 2 is one and a half and goes to 2.
    expected = [[127 * 0.01, -64 * 0.01, 0, 0], [0, 0, 0, 0], [-254, 2, 0, 4]]
    torch.testing.assert_close(unpack(path)["w"], torch.tensor(expected))
    assert torch.equal(unpack_mask(path)["w"], weight != 0)
    assert reader.parse(path).tensors["w"].values == "int8"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(40,), (30, 50), (8, 4, 3, 3)])
def test_int8_errs_by_half_a_scale_at_most_and_tells_the_largest_error(path, shape, dtype):
    weight, mask = masked(shape, 0.3, dtype)
    bias = torch.ones(3) / 3
    weighed = pack({"w": weight, "b": bias}, path, mask={"w": mask}, values="int8")
    found = unpack(path)
    assert torch.equal(found["b"], bias)
    assert found["w"].dtype == dtype
    rows = weight.reshape(shape[0] if len(shape) > 1 else 1, -1)
    scales = rows.abs().amax(1, keepdim=True) / 127
    error = (found["w"].reshape(rows.shape) - rows).abs()
    assert bool((error <= 0.5001 * scales).all())
    assert error.max().item() <= weighed.max_error <= error.max().item() * (1 + 1e-6)
    assert weighed == sizes(path)


def test_int8_takes_less_than_float16_and_that_less_than_its_own(path):
    weight, mask = masked((100, 200), 0.2)
    files = [
        pack({"w": weight}, path, mask={"w": mask}, values=values).file
        for values in ("int8", "float16", None)
    ]
    assert files[0] < files[1] < files[2]


def test_int8_refuses_nan_and_infinity_and_takes_what_is_too_small_for_a_scale_for_zero(path):
    for wrong in (float("nan"), float("inf")):
        weight = torch.tensor([[1.0, wrong]])
        with pytest.raises(InputError, match='tensor "w": holds NaN or infinity'):
            pack({"w": weight}, path, mask={"w": weight != 0}, values="int8")
    weight = torch.tensor([[1e-40, -1e-39], [0.5, 0.25]])
    weighed = pack({"w": weight}, path, mask={"w": weight != 0}, values="int8")
    assert unpack(path)["w"][0].tolist() == [0, 0]
    assert bool(unpack_mask(path)["w"].all())
    assert weighed.max_error < 0.5 / 127


def test_biases_are_rounded_apart_from_the_weights(path):
    weight, mask = masked((30, 40), 0.2)
    state = {"w": weight, "b": torch.randn(30), "steps": torch.tensor(7)}
    pack(state, path, mask={"w": mask}, biases="float16")
    assert same(unpack(path), state | {"b": state["b"].half().float()})
    pack(state, path, mask={"w": mask}, values="bfloat16", biases="float16")
    expected = {"w": weight.bfloat16().float(), "b": state["b"].half().float(), "steps": torch.tensor(7)}
    assert same(unpack(path), expected)
    with pytest.raises(InputError, match='did you mean "float16"'):
        pack(state, path, mask={"w": mask}, biases="float61")


def test_biases_that_are_zero_take_no_value(path):
    bias = torch.zeros(300)
    bias[:3] = torch.tensor([0.5, -0.25, 3.0])
    pack({"b": bias}, path)
    assert reader.head(path).entries[0].section < 3 * 4 + 3
    assert torch.equal(unpack(path)["b"], bias)


@pytest.mark.parametrize(("keep", "most"), [(1.96, 0.74), (0.0, 0.86)])
def test_the_byte_planes_of_gaussian_weights_take_a_seventh_less_at_least(path, keep, most):
    values = np.random.default_rng(0).standard_normal(60_000).astype(np.float32)
    values = values[np.abs(values) > keep]
    pack({"w": torch.from_numpy(values)}, path)
    assert reader.head(path).entries[0].section < most * values.nbytes


@pytest.mark.parametrize("values", ["float16", "bfloat16", "int8"])
def test_a_rounding_that_leaves_two_values_is_told_all_the_same(path, values):
    weight = torch.tensor([[1.0, 1.0001, -1.0, 0.0]] * 4)
    weighed = pack({"w": weight}, path, mask={"w": weight != 0}, values=values)
    assert weighed == sizes(path)
    assert 0.5e-4 < weighed.max_error < 1e-2
    with pytest.raises(InputError, match="values are rounded, which asni2 has no place to say"):
        pack({"w": weight}, path, mask={"w": weight != 0}, values=values, format="asni2")


def test_of_int8_scales_with_the_same_products_the_smallest_stands_in_the_file(path):
    generator = np.random.default_rng(0)
    weight = torch.from_numpy(generator.uniform(0.1, 9, (2000, 1)).astype(np.float32)).repeat(1, 3)
    pack({"w": weight}, path, mask={"w": weight != 0}, values="int8", format="bitmask")
    entry = reader.head(path).entries[0]
    data = path.read_bytes()
    at = len(data) - 32 - entry.section + 6000 // 8
    scales = np.frombuffer(data[at : at + 8000], "<f4")
    smaller = np.nextafter(scales, np.float32(0))
    assert bool((np.float32(127) * smaller != np.float32(127) * scales).all())
    products = unpack(path)["w"][:, 0].numpy()
    assert np.array_equal(products, np.float32(127) * scales)
    larger = next(
        at
        for at, (scale, product) in enumerate(zip(scales, products, strict=True))
        if np.float32(127) * np.nextafter(scale, np.float32(9)) == product
    )
    with pytest.raises(FormatError, match="has a scale that a smaller one could stand for"):
        codes, ones = np.full(6000, 127, np.int8), np.arange(0, 6000, 3)
        wrong = scales.copy()
        wrong[larger] = np.nextafter(scales[larger], np.float32(9))
        reader._scaled(entry, wrong, codes, np.ones(6000, bool))
    assert len(ones) == entry.scales
