"""What pack, unpack and load do with modules, shared tensors, masks that do not fit, and rounding."""

import math

import pytest
import torch
from networks import same
from torch import nn

from compressor.errors import HostError, InputError
from compressor.packed import load, pack, reader, sizes, unpack, unpack_mask

WEIGHT = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
MASK = torch.tensor([[True, False], [False, True]])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def refused(path, match, *arguments, **options):
    with pytest.raises(InputError, match=match):
        pack(*arguments[:1], path, **options)
    assert list(path.parent.iterdir()) == []


def test_a_module_comes_back_into_another_one(path):
    make = lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))  # noqa: E731
    first, second = make(), make()
    pack(first, path)
    load(second, path)
    assert same(dict(second.state_dict()), dict(first.state_dict()))


def test_a_shared_tensor_is_stored_once_under_its_first_name(path):
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    weighed = pack(net, path, mask={"1.weight": torch.ones(4, 4, dtype=torch.bool)})
    assert [one.role for one in weighed.tensors] == ["sparse", "alias"]
    assert weighed.dense < 2 * 64 + 100
    stored = reader.parse(path).tensors["1.weight"]
    assert stored.alias_of == "0.weight"
    state = unpack(path)
    assert state["0.weight"].data_ptr() == state["1.weight"].data_ptr()
    load(net, path)
    assert list(unpack_mask(path)) == ["0.weight"]
    pack(state, path.with_name("again"), mask=unpack_mask(path))
    assert path.with_name("again").read_bytes() == path.read_bytes()


def test_equal_or_overlapping_tensors_are_not_aliases(path):
    base = torch.arange(4.0)
    state = {"a": base, "b": base.clone(), "c": base[:2], "d": base.reshape(2, 2), "e": torch.empty(0)}
    state["f"] = torch.empty(0)
    pack(state, path)
    assert {one.role for one in sizes(path).tensors} == {"dense"}
    assert same(unpack(path), state)


def test_a_start_says_so_and_is_not_loaded_as_a_network(path):
    pack({"weight": WEIGHT}, path, kind="start")
    assert reader.parse(path).kind == "start"
    with pytest.raises(InputError, match="load_start"):
        load(nn.Linear(2, 2, bias=False), path)


def test_a_network_that_does_not_fit_is_an_input_error(path):
    pack({"weight": WEIGHT}, path)
    for module, match in [
        (nn.Linear(2, 2), 'has no tensor "bias"'),
        (nn.Linear(3, 2, bias=False), r"\[2, 2\] in the file, \[2, 3\]"),
        (nn.ReLU(), 'unknown tensor "weight"'),
    ]:
        with pytest.raises(InputError, match=match):
            load(module, path)


def test_a_mask_that_does_not_fit_is_refused_before_anything_is_written(path):
    state = {"fc.weight": WEIGHT}
    refused(path, 'did you mean "fc.weight"', state, mask={"fc.weigth": MASK})
    refused(path, r"shape \[2\]", state, mask={"fc.weight": MASK[0]})
    refused(path, "torch.float32; give a bool", state, mask={"fc.weight": MASK.float()})
    refused(path, "ndarray; give a bool", state, mask={"fc.weight": MASK.numpy()})
    refused(path, "1 weights that the mask prunes are not zero", state, mask={"fc.weight": ~MASK | MASK[0]})
    twice = {"a": WEIGHT, "b": WEIGHT}
    refused(path, 'the mask of "b" differs', twice, mask={"a": MASK, "b": torch.ones_like(MASK)})


def test_what_the_format_has_no_place_for_is_refused(path):
    refused(path, "1 to 1024 bytes", {"": WEIGHT})
    refused(path, "1 to 1024 bytes", {"w" * 1025: WEIGHT})
    refused(path, "not valid text", {"\ud800": WEIGHT})
    refused(path, "control characters", {"a\nb": WEIGHT})
    refused(path, "only tensors", {"_extra_state": 3})
    refused(path, "dtype torch.complex128", {"w": WEIGHT.to(torch.complex128)})
    refused(path, "plain dense values", {"w": WEIGHT.to_sparse()})
    refused(path, "plain dense values", {"w": torch.empty(2, device="meta")})
    refused(path, "32 dimensions", {"w": torch.ones((1,) * 33)})
    refused(path, "has no zero", {"w": WEIGHT.abs().to(torch.float8_e8m0fnu)}, mask={"w": MASK})
    refused(path, 'did you mean "bitmask"', {"w": WEIGHT}, format="bitmsk")
    refused(path, 'did you mean "float16"', {"w": WEIGHT}, values="flaot16")
    refused(path, "unknown kind", {"w": WEIGHT}, kind="stop")


def test_a_network_that_the_reader_would_refuse_is_not_written(path):
    wide = torch.zeros(1).expand(1 << 28)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "memory_limit", lambda size: 1 << 10)
        refused(path, "may not hold so large a network", {"w": wide[:1024]})


def test_asni2_by_name_refuses_more_than_two_levels_and_says_why(path):
    keep = torch.ones(4, dtype=torch.bool)
    for values, match in [
        ([1.0, 2.0, 3.0, 1.0], "more than two values"),
        ([1.0, math.nan, 1.0, 1.0], "two different, finite"),
        ([1.0, math.inf, 1.0, 1.0], "two different, finite"),
        ([-0.0, 1.0, 1.0, 1.0], "two different, finite"),
        ([0.0, 0.0, 0.0, 0.0], "two different, finite"),
    ]:
        refused(path, match, {"w": torch.tensor(values)}, mask={"w": keep}, format="asni2")
    fine = torch.tensor([1.0, 1.0 + 1e-12, 1.0, 1.0], dtype=torch.float64)
    refused(path, "two different, finite", {"w": fine}, mask={"w": keep}, format="asni2")
    refused(path, "masked weights of the dtypes", {"w": keep.int()}, mask={"w": keep}, format="asni2")
    assert pack({"w": fine}, path, mask={"w": keep}).tensors[0].format == "entropy"
    assert same(unpack(path), {"w": fine})


@pytest.mark.parametrize("values", [[0.5, -1.5], [0.25, 0.75], [-3.0, -1.0], [0.0, 2.0], [0.7], [-0.7]])
def test_levels_are_low_and_high_and_an_absent_one_is_zero(path, values):
    weight = torch.tensor(values).repeat(3)
    pack({"w": weight}, path, mask={"w": torch.ones_like(weight, dtype=torch.bool)}, format="asni2")
    expected = sorted({*weight.tolist(), 0.0} if len(values) == 1 else set(weight.tolist()))
    assert list(reader.parse(path).tensors["w"].levels) == expected
    assert torch.equal(unpack(path)["w"], weight)


@pytest.mark.parametrize("values", ["float16", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_torchs_and_its_largest_error_is_told(path, values, dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 30, generator=generator, dtype=torch.float32).to(dtype)
    bias = torch.randn(40, generator=generator, dtype=torch.float32).to(dtype)
    mask = torch.rand(40, 30, generator=generator) < 0.3
    weight[~mask] = 0
    state = {"w": weight, "b": bias, "n": torch.tensor(3)}
    weighed = pack(state, path, mask={"w": mask}, values=values)
    low = getattr(torch, values)
    expected = {"w": weight.to(low).to(dtype), "b": bias.to(low).to(dtype), "n": torch.tensor(3)}
    assert same(unpack(path), expected)
    error = max((expected[name] - state[name]).abs().max().item() for name in ("w", "b"))
    assert weighed.max_error == pytest.approx(error, rel=1e-6)
    assert weighed == sizes(path)
    assert weighed.file < pack(state, path, mask={"w": mask}).file
    assert sizes(path).max_error == 0.0


def test_rounding_keeps_the_mask_where_small_values_become_zero(path):
    weight = torch.tensor([1e-9, 1.0, 0.0, math.nan])
    mask = torch.tensor([True, True, False, True])
    pack({"w": weight}, path, mask={"w": mask}, values="float16")
    assert unpack(path)["w"].nan_to_num(9).tolist() == [0.0, 1.0, 0.0, 9.0]
    assert torch.equal(unpack_mask(path)["w"], mask)


NANS = {torch.float32: [0x7F802001, -0x3E001, 0x7FD23456], torch.float64: [0x7FF0040000000001, -(2**51) + 7]}
QUIET = {
    ("float16", torch.float32): [0x7FC02000, -0x40000, 0x7FD22000],
    ("bfloat16", torch.float32): [0x7FC00000, -0x40000, 0x7FD20000],
    ("float16", torch.float64): [0x7FF8040000000000, -(2**51)],
    ("bfloat16", torch.float64): [0x7FF8000000000000, -(2**51)],
}


@pytest.mark.parametrize(("values", "dtype"), QUIET)
def test_a_nan_is_rounded_to_a_quiet_one_with_its_sign_and_highest_bits(path, values, dtype):
    whole = torch.int32 if dtype is torch.float32 else torch.int64
    pack({"w": torch.tensor(NANS[dtype], dtype=whole).view(dtype)}, path, values=values)
    assert unpack(path)["w"].view(whole).tolist() == QUIET[values, dtype]


def test_rounding_refuses_to_make_infinity(path):
    refused(path, 'tensor "w": F16 cannot hold 100000', {"w": torch.tensor([1e5, 1.0])}, values="float16")


def test_two_level_tensors_stay_exact_under_rounding(path):
    weight = torch.tensor([0.1, -0.3, 0.0, 0.1])
    assert pack({"w": weight}, path, mask={"w": weight != 0}, values="bfloat16").max_error == 0.0
    assert torch.equal(unpack(path)["w"], weight)


def test_a_folder_that_cannot_be_written_is_a_host_error(path):
    with pytest.raises(HostError):
        pack({"w": WEIGHT}, path / "missing" / "net.safetensors")
