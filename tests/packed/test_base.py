"""Task files: one base, and per task a file of masks that gives the network back bit for bit, with that base only."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import plain_reader
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import bits_of, masked, same, tensor_of
from torch import nn

from compressor.errors import FormatError, InputError
from compressor.packed import load, pack, reader, sizes, unpack, unpack_mask
from compressor.packed.reader import DTYPES
from compressor.packed.source import NAMES


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    return folder / "task.safetensors", folder / "base.safetensors"


def trained() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(30, 40, generator=g)
    return {"w": weight, "w.bias": torch.randn(30, generator=g), "v": torch.randn(10, 30, generator=g)}


def task_of(state: dict[str, torch.Tensor], density: float, seed: int) -> tuple[dict, dict]:
    """A network of a task over a base: masks of its matrices, and these weights under them."""
    g = torch.Generator().manual_seed(seed)
    mask = {name: torch.rand(t.shape, generator=g) < density for name, t in state.items() if t.dim() == 2}
    return {n: torch.where(mask[n], t, 0.0) if n in mask else t for n, t in state.items()}, mask


@pytest.fixture
def packed(tmp_path):
    """(task file, base file, state, mask)."""
    base, task = tmp_path / "base.safetensors", tmp_path / "task.safetensors"
    pack(trained(), base)
    state, mask = task_of(trained(), 0.3, 1)
    pack(state, task, mask=mask, base=base)
    return task, base, state, mask


@settings(max_examples=150)
@given(pair=masked(), bare=st.booleans(), own=st.booleans(), seed=st.integers(0, 999))
def test_every_bit_and_the_mask_survive(places, pair, bare, own, seed):
    """pair: tensor and mask of the base (bare: the base has no mask); own: the task keeps all that the base does."""
    task, base = places
    tensor, base_mask = pair
    always = {"v": torch.ones(1)}  # a base must have a kept weight
    pack({"w": tensor} | always, base, mask=None if bare else {"w": base_mask})
    mask = base_mask if own else torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    bits = np.frombuffer(bits_of(tensor), f"<u{tensor.element_size()}")
    mine = tensor_of(np.where(mask.reshape(-1), bits, 0).astype(np.uint64), NAMES[tensor.dtype], tensor.shape)
    weighed = pack({"w": mine} | always, task, mask={"w": mask, "v": always["v"] > 0}, base=base)
    assert same(unpack(task, base=base), {"w": mine} | always)
    assert torch.equal(unpack_mask(task, base=base)["w"], mask)
    assert weighed == sizes(task, base=base)
    stored = reader.parse(task, base).tensors["w"]
    assert (stored.format, stored.values, stored.kept) == ("base", "base", int(mask.sum()))
    slow = plain_reader.read(task.read_bytes(), base.read_bytes())
    assert slow["w"][2:] == (bits_of(mine), mask.reshape(-1).int().tolist())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_without_a_mask_that_the_base_has_takes_its_entry_only(places, dtype):
    task, base = places
    bits = np.arange(2 if dtype == "BOOL" else 100, dtype=np.uint64)
    state = {"a": tensor_of(bits, dtype, (len(bits),)), **trained()}
    pack(state, base)
    masks = {"w": torch.ones(30, 40, dtype=torch.bool)}
    weighed = pack(state, task, mask=masks, base=base)
    assert [one.format for one in weighed.tensors] == ["base"] * 4
    assert weighed.file < 300
    assert same(unpack(task, base=base), state)


def test_kept_zeros_of_both_signs_and_nan_payloads_survive(places):
    task, base = places
    bits = torch.tensor([0, -(2**31), 0x7FC12345, 0x7F800001, 7, 5, 0, -(2**31)], dtype=torch.int32)
    mask = torch.tensor([1, 1, 1, 1, 0, 1, 0, 0], dtype=torch.bool)
    pack({"w": bits.view(torch.float32)}, base)
    pack({"w": (bits * mask).view(torch.float32)}, task, mask={"w": mask}, base=base)
    assert unpack(task, base=base)["w"].view(torch.int32).tolist() == (bits * mask).tolist()
    assert torch.equal(unpack_mask(task, base=base)["w"], mask)


def test_a_task_takes_a_bit_per_weight_at_most_and_says_that_its_base_is_not_counted(tmp_path):
    base = tmp_path / "base.safetensors"
    pack(trained(), base)
    for density in (0.5, 0.1, 0.01):
        task = tmp_path / f"{density}.safetensors"
        state, mask = task_of(trained(), density, 2)
        weighed = pack(state, task, mask=mask, base=base)
        assert weighed.file == task.stat().st_size < 1500 / 8 + 260
        assert weighed.base == reader.parse(base).sha256
        alone = pack(state, tmp_path / "alone", mask=mask)
        assert {form: alone.formats[form] for form in ("dense", "csr", "bitmask")} == weighed.formats
        assert weighed.file < alone.file
        assert alone.base == ""
        without = sizes(task)
        assert (without.gzip, without.formats) == (None, {})
        for part in ("file", "dense", "bound", "tensors", "max_error", "base"):
            assert getattr(without, part) == getattr(weighed, part), part


def test_what_the_base_does_not_have_is_stored_as_usual(tmp_path):
    base, task = tmp_path / "base", tmp_path / "task"
    pack(trained(), base)
    state, mask = task_of(trained(), 0.3, 3)
    state["v"] = state["v"].clone()
    state["v"][mask["v"].nonzero()[0].unbind()] += 1e-3  # one kept weight of another value
    state |= {"w.bias": state["w.bias"] + 1, "head": torch.randn(4, 10) * 2, "mean": torch.ones(3)}
    mask["head"] = torch.ones(4, 10, dtype=torch.bool)
    weighed = pack(state, task, mask=mask, base=base)
    assert {one.name: one.format == "base" for one in weighed.tensors} == {
        "w": True, "w.bias": False, "v": False, "head": False, "mean": False,
    }  # fmt: skip
    assert same(unpack(task, base=base), state)


def test_another_dtype_or_shape_is_not_the_base_s(tmp_path):
    base, task = tmp_path / "base", tmp_path / "task"
    pack({"w": torch.zeros(4, 6), "v": torch.zeros(6), "u": torch.ones(2, 2)}, base)
    state = {"w": torch.zeros(6, 4), "v": torch.zeros(6, dtype=torch.int32), "u": torch.ones(2, 2)}
    weighed = pack(state, task, mask={"u": torch.ones(2, 2, dtype=torch.bool)}, base=base)
    assert [one.format for one in weighed.tensors] == ["entropy", "entropy", "base"]
    assert same(unpack(task, base=base), state)


def test_named_formats_and_lossy_values_are_for_what_the_base_does_not_have(tmp_path):
    base, task = tmp_path / "base", tmp_path / "task"
    pack(trained(), base)
    state, mask = task_of(trained(), 0.3, 4)
    state["w.bias"] = state["w.bias"] / 3
    weighed = pack(state, task, mask=mask, base=base, format="csr", values="float16")
    assert [one.format for one in weighed.tensors] == ["base", "dense", "base"]
    found = unpack(task, base=base)
    assert torch.equal(found["w"], state["w"])
    assert torch.equal(found["w.bias"], state["w.bias"].half().float())
    assert 0 < weighed.max_error == sizes(task).max_error


@pytest.mark.parametrize("named", [("a", "b", "m"), ("m",)])
def test_shared_tensors_stay_shared_and_others_apart_whatever_they_are_in_the_base(tmp_path, named):
    base, task = tmp_path / "base", tmp_path / "task"
    weight, rest = torch.randn(6, 6), {"m": torch.randn(3, 3)}
    keep = {"m": rest["m"] > 0} | {name: weight > 0 for name in named if name != "m"}
    mine = torch.where(keep["a"], weight, 0.0) if "a" in keep else weight
    rest_mine = {"m": torch.where(keep["m"], rest["m"], 0.0)}
    for in_base in ({"a": weight, "b": weight}, {"a": weight, "b": weight.clone()}):
        pack(rest | in_base, base)
        for state in ({"a": mine, "b": mine}, {"a": mine, "b": mine.clone()}):
            weighed = pack(rest_mine | state, task, mask=keep, base=base)
            assert weighed == sizes(task, base=base)
            found = unpack(task, base=base)
            assert same(found, rest_mine | state)
            assert (found["a"].data_ptr() == found["b"].data_ptr()) == (state["a"] is state["b"])


def test_the_module_comes_back_with_its_base(tmp_path):
    make = lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))  # noqa: E731
    first, second = make(), make()
    base, task = tmp_path / "base", tmp_path / "task"
    pack(first, base)
    mask = {"0.weight": torch.rand(3, 1, 3, 3) < 0.5, "3.weight": torch.rand(2, 3) < 0.5}
    with torch.no_grad():
        for name, kept in mask.items():
            first.get_parameter(name).mul_(kept).add_(0.0)
        first[1].running_mean.add_(1)
    pack(first, task, mask=mask, base=base)
    load(second, task, base=base)
    assert same(dict(second.state_dict()), dict(first.state_dict()))


def test_without_its_base_or_with_another_a_task_file_is_one_clear_error(packed, tmp_path):
    task, base, _, _ = packed
    other = tmp_path / "other.safetensors"
    pack({name: tensor + 1 for name, tensor in trained().items()}, other)
    digest = reader.parse(base).sha256
    for call in (unpack, unpack_mask, reader.read, lambda path, **options: load(nn.ReLU(), path, **options)):
        with pytest.raises(InputError, match=rf"task.safetensors: is a task file; give the base .*{digest}"):
            call(task)
        with pytest.raises(InputError, match=rf"other.safetensors: is not the base that .*{digest}"):
            call(task, base=other)
        with pytest.raises(InputError, match=r"absent: cannot be read"):
            call(task, base=tmp_path / "absent")
        with pytest.raises(InputError, match=r"base.safetensors: holds a whole network and needs no base"):
            call(base, base=other)
    assert digest == hashlib.sha256(base.read_bytes()).hexdigest()


def test_a_damaged_base_is_named(packed):
    task, base, _, _ = packed
    data = bytearray(base.read_bytes())
    data[-40] ^= 1
    base.write_bytes(data)
    with pytest.raises(FormatError, match=r'base\.safetensors: tensor "v" .*CRC-32'):
        reader.parse(task, base)
    with pytest.raises(FormatError, match=r"base\.safetensors"):
        pack(trained(), task, base=base)
    base.write_bytes(b"PK" + bytes(100))
    with pytest.raises(FormatError, match=r"base\.safetensors: is not a packed file"):
        reader.parse(task, base)


def test_every_flipped_bit_and_every_truncation_is_a_format_error_with_and_without_the_base(packed):
    task, base, _, _ = packed
    small = {name: tensor[:5, :8].clone() for name, tensor in trained().items() if tensor.dim() == 2}
    small["w.bias"] = torch.arange(5) / 8
    pack(small, base)
    state, mask = task_of(small, 0.4, 1)
    pack(state, task, mask=mask, base=base)
    data = task.read_bytes()
    damaged = [data[:length] for length in range(len(data))]
    damaged += [
        data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        for at in range(len(data))
        for bit in range(8)
    ]
    for one in damaged:
        task.write_bytes(one)
        with pytest.raises(FormatError):
            reader.parse(task, base)
        with pytest.raises(FormatError):
            reader.look(task)


def test_what_cannot_be_a_base_is_refused_before_anything_is_written(packed, tmp_path):
    task, base, state, mask = packed
    start, out = tmp_path / "start.safetensors", tmp_path / "out"
    pack(trained(), start, kind="start")
    with pytest.raises(InputError, match=r"start.safetensors: a base .* networks, not starts"):
        pack(state, out, mask=mask, base=start)
    with pytest.raises(InputError, match="networks, not starts"):
        pack(state, out, mask=mask, base=base, kind="start")
    with pytest.raises(InputError, match=r"task.safetensors: is a task file; give the base"):
        pack(state, out, mask=mask, base=task)
    elsewhere = {name: tensor + 1 if tensor.dim() == 2 else tensor for name, tensor in trained().items()}
    pack(elsewhere, start)
    with pytest.raises(InputError, match="no masked tensor has this file's weights, bit for bit"):
        pack(state, out, mask=mask, base=start)
    with pytest.raises(InputError, match="no masked tensor"):
        pack(trained(), out, base=base)
    assert not out.exists()


@given(density=st.sampled_from([0.0, 0.005, 0.02, 0.1, 0.2, 0.5, 1.0]), seed=st.integers(0, 99))
def test_the_smallest_coding_of_the_positions_is_taken(places, density, seed):
    task, base = places
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    mask = torch.rand(40, 50, generator=torch.Generator().manual_seed(seed)) < density
    mask[0, 0] = True  # a base must have a kept weight
    assume(bool(mask.all()) == (density == 1.0))
    pack({"w": weight}, base)
    weighed = pack({"w": torch.where(mask, weight, 0.0)}, task, mask={"w": mask}, base=base)
    if density == 1.0:
        assert weighed.file < 240
        return
    (entry,) = reader.head(task).entries
    pack({"w": torch.where(mask, weight, 0.0)}, task, mask={"w": mask}, format="entropy")
    (alone,) = reader.head(task).entries
    assert entry.positions == alone.positions
    assert entry.section == alone.section - alone.stream - alone.stored * (alone.item - alone.planes)
    assert entry.section <= 40 * 50 / 8
    around = reader.DIGEST + 175  # the base's digest; the safetensors header, ours and the file's own digest
    assert weighed.file - entry.section <= around


def test_the_same_input_gives_the_same_bytes(packed, tmp_path):
    task, base, state, mask = packed
    pack({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "again", mask=mask, base=base)
    assert (tmp_path / "again").read_bytes() == task.read_bytes()


def test_the_copied_reader_reads_a_task_with_its_base_without_the_project(packed, tmp_path):
    task, base, state, _ = packed
    shutil.copy(reader.__file__, tmp_path / "reader.py")
    code = (
        "import sys, json; sys.modules.update(compressor=None, torch=None); sys.path.insert(0, sys.argv[1])\n"
        "import reader; file = reader.parse(*sys.argv[2:])\n"
        "print(json.dumps({name: one.data.tolist() for name, one in file.tensors.items()}))\n"
    )
    arguments = [sys.executable, "-I", "-c", code, str(tmp_path), str(task), str(base)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {name: tensor.tolist() for name, tensor in state.items()}


def test_the_command_line_of_the_reader_lists_a_task_with_or_without_its_base(packed, capsys):
    task, base, _, mask = packed
    assert reader.main([str(task)]) == 0
    listed = capsys.readouterr().out
    assert f"w  F32 [30, 40]  base, {int(mask['w'].sum())} kept" in listed
    assert reader.main([str(task), str(base)]) == 0
    assert capsys.readouterr().out == listed
    assert reader.main([str(task), str(task)]) == 3


def test_a_damaged_tensor_of_a_task_file_is_named_where_its_base_is_at_hand(packed, tmp_path):
    task, base, _, _ = packed
    state, mask = task_of(trained(), 0.5, 1)
    pack(state, task, mask=mask, base=base)
    data = bytearray(task.read_bytes())
    at = data.index(np.packbits(mask["w"].numpy(), bitorder="little").tobytes())
    byte = next(place for place in range(at, at + 150) if data[place] & 3 in (1, 2))
    data[byte] ^= 3  # one weight for another: the count stays
    task.write_bytes(data)
    with pytest.raises(FormatError, match=r'task\.safetensors: tensor "w" is damaged .*CRC-32'):
        unpack(task, base=base)
    other = tmp_path / "other"
    pack({"w": torch.zeros(2)}, other)
    for wrong in (None, other, tmp_path / "absent"):
        with pytest.raises(FormatError, match=r"task\.safetensors: does not match its SHA-256"):
            unpack(task, base=wrong)


def test_the_bound_counts_no_mask_that_is_the_base_s_own(tmp_path):
    base, task = tmp_path / "base", tmp_path / "task"
    state, mask = task_of(trained(), 0.5, 5)
    pack(state, base, mask=mask)
    weighed = pack(state, task, mask=mask, base=base)
    assert weighed.bound == 0
    assert sizes(task) == replace(weighed, gzip=None, formats={})
    assert sizes(task, base=base) == weighed


def test_a_base_that_shares_no_kept_weight_is_refused(tmp_path):
    base, nothing = tmp_path / "base", torch.zeros(30, 40, dtype=torch.bool)
    pack(trained(), base)
    state = {"w": torch.zeros(30, 40), "own": torch.ones(3)}
    with pytest.raises(InputError, match="no masked tensor has"):
        pack(state, tmp_path / "task", mask={"w": nothing}, base=base)
