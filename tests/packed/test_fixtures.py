"""Files of every version open for ever, and today's writer still writes those bytes."""

from pathlib import Path

import pytest
import torch
from networks import same

from compressor.packed import pack, reader, unpack, unpack_mask

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
    assert reader.read(path).kind == options.get("kind", "network")


@pytest.mark.parametrize("name", FORMS)
def test_the_bytes_written_for_it_are_the_same_today(name, tmp_path):
    state, mask, options = FORMS[name]
    path = tmp_path / "net.safetensors"
    pack(state, path, mask=mask if mask is None else {"w": mask}, **options)
    assert path.read_bytes() == (FIXTURES / f"v1-{name}.safetensors").read_bytes()


def test_every_format_and_coding_has_a_fixture():
    files = [reader.look(path) for path in FIXTURES.glob("v*.safetensors")]
    stored = [one for file in files for one in file.tensors.values()]
    assert {one.format for one in stored} == {"dense", "csr", "bitmask", "asni2", "base"}
    assert {one.values for one in stored} == set(reader.VALUES)
    assert {file.version for file in files} == {reader.VERSION, reader.TASK_VERSION}
    assert len(files) == len(FORMS) + 1


def test_a_task_file_of_version_2_still_opens_with_its_base_and_is_written_so_today(tmp_path):
    path, base = FIXTURES / "v2-task.safetensors", FIXTURES / "v1-bitmask.safetensors"
    state = {"w": FREE * (HALF & KEEP), "b": BIAS, "head": TWO * KEEP + 0.0}
    mask = {"w": HALF & KEEP, "head": KEEP}
    assert same(unpack(path, base=base), state)
    found = unpack_mask(path, base=base)
    assert all(torch.equal(found[name], mask[name]) for name in mask)
    pack(state, tmp_path / "task", mask=mask, base=base)
    assert (tmp_path / "task").read_bytes() == path.read_bytes()
