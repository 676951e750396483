"""Files of versions 1 and 2 open for ever, to both readers; today's writer packs what they hold anew."""

import hashlib
from pathlib import Path

import plain_reader
import pytest
import torch
from networks import bits_of, same

from compressor.errors import FormatError
from compressor.packed import pack, reader, sizes, unpack, unpack_mask

FIXTURES = Path(__file__).parents[1] / "fixtures"
KEEP = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1]], dtype=torch.bool)
HALF = torch.arange(22).reshape(2, 11) % 2 == 0
FREE = torch.arange(1, 23).reshape(2, 11) / 8
TWO = torch.where(torch.arange(22).reshape(2, 11) % 3 == 0, 0.75, -0.5)
BIAS = torch.tensor([0.1, -0.0])
FORMS = {
    "dense": ({"w": FREE, "b": BIAS, "steps": torch.tensor(3)}, None, {"format": "dense"}),
    "csr": ({"w": FREE * KEEP, "b": BIAS}, KEEP, {"format": "csr"}),
    "bitmask": ({"w": FREE * HALF, "b": BIAS}, HALF, {"format": "bitmask"}),
    "asni2-gaps": ({"w": TWO * KEEP + 0.0, "b": BIAS}, KEEP, {"format": "asni2"}),
    "asni2-bitmask": ({"w": TWO * HALF + 0.0, "b": BIAS}, HALF, {"format": "asni2"}),
    "float16": ({"w": FREE * HALF, "b": BIAS.half().float()}, HALF, {"values": "float16"}),
    "bfloat16": ({"w": FREE * HALF, "b": BIAS.bfloat16().float()}, HALF, {"values": "bfloat16"}),
    "start": ({"w": TWO * KEEP + 0.0}, KEEP, {"kind": "start"}),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_file_of_version_1_still_opens(name):
    state, mask, options = FORMS[name]
    path = FIXTURES / f"v1-{name}.safetensors"
    assert same(unpack(path), state)
    found = unpack_mask(path)
    assert found == {} if mask is None else torch.equal(found["w"], mask)
    assert reader.parse(path).kind == options.get("kind", "network")


@pytest.mark.parametrize("name", FORMS)
def test_a_reader_that_was_written_from_the_page_opens_it_too(name):
    state, mask, _ = FORMS[name]
    found = plain_reader.read((FIXTURES / f"v1-{name}.safetensors").read_bytes())
    assert {key: one[2] for key, one in found.items()} == {key: bits_of(one) for key, one in state.items()}
    assert found["w"][3] == (None if mask is None else mask.reshape(-1).int().tolist())


@pytest.mark.parametrize("name", FORMS)
def test_what_it_holds_is_packed_anew_as_version_3_and_is_the_same(name, tmp_path):
    path = FIXTURES / f"v1-{name}.safetensors"
    _, _, options = FORMS[name]
    pack(unpack(path), tmp_path / "net", mask=unpack_mask(path) or None, **options)
    assert reader.parse(tmp_path / "net").version == reader.VERSION == 3
    assert same(unpack(tmp_path / "net"), unpack(path))
    assert same(unpack_mask(tmp_path / "net"), unpack_mask(path))


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("v*.safetensors")), ids=lambda path: path.stem)
def test_its_sizes_are_those_of_its_own_bytes(path):
    weighed = sizes(path)
    data = path.read_bytes()
    at = data.index(reader.MAGIC) + 6
    at += 8 * (data[at - 1] >> 1 & 1) + 32 * (data[at - 1] >> 2 & 1)
    header_length = 1 if data[at] < 128 else 2
    around = at + header_length + 1 + reader.DIGEST  # and one byte for the number of tensors
    assert weighed.file == len(data) == around + sum(one.bytes for one in weighed.tensors)
    assert {one.format for one in weighed.tensors} <= {"dense", "csr", "bitmask", "asni2", "base"}


def test_every_format_and_coding_of_both_versions_has_a_fixture():
    files = [reader.look(path) for path in FIXTURES.glob("v*.safetensors")]
    stored = [one for file in files for one in file.tensors.values()]
    assert {one.format for one in stored} == {"dense", "csr", "bitmask", "asni2", "base"}
    assert {one.values for one in stored} == {"own", "F16", "BF16", "levels", "base"}
    assert {file.version for file in files} == {1, 2}
    assert len(files) == len(FORMS) + 1


def test_a_task_file_of_version_2_still_opens_with_its_base():
    path, base = FIXTURES / "v2-task.safetensors", FIXTURES / "v1-bitmask.safetensors"
    state = {"w": FREE * (HALF & KEEP), "b": BIAS, "head": TWO * KEEP + 0.0}
    mask = {"w": HALF & KEEP, "head": KEEP}
    assert same(unpack(path, base=base), state)
    found = unpack_mask(path, base=base)
    assert all(torch.equal(found[name], mask[name]) for name in mask)
    slow = plain_reader.read(path.read_bytes(), base.read_bytes())
    assert {key: one[2] for key, one in slow.items()} == {key: bits_of(one) for key, one in state.items()}


def test_a_file_of_version_3_has_a_base_of_version_1(tmp_path):
    base = FIXTURES / "v1-bitmask.safetensors"
    state = {"w": FREE * (HALF & KEEP), "b": BIAS}
    pack(state, tmp_path / "task", mask={"w": HALF & KEEP}, base=base)
    assert same(unpack(tmp_path / "task", base=base), state)
    slow = plain_reader.read((tmp_path / "task").read_bytes(), base.read_bytes())
    assert slow["w"][2] == bits_of(state["w"])


@pytest.mark.parametrize("version", [1, 2])
def test_what_only_version_3_has_is_refused_in_an_older_file(version, tmp_path):
    """Each file of version 3 that has nothing else, called an older one."""
    for name in ("rice", "int8-bitmask", "planes", "without-zeros"):
        data = bytearray((FIXTURES.parent / "golden" / f"v3-{name}.safetensors").read_bytes())
        data[data.index(reader.MAGIC) + 4] = version
        (tmp_path / "old").write_bytes(data[:-32] + hashlib.sha256(data[:-32]).digest())
        with pytest.raises(FormatError):
            reader.parse(tmp_path / "old")
