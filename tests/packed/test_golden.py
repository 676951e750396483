"""One file per mode of version 3: two readers open it for ever, and today's writer still writes its bytes."""

import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import plain_reader
import pytest
import torch
from golden import FOLDER, GOLDEN, path
from networks import bits_of, same

from compressor.packed import reader, source, unpack, unpack_mask, write
from compressor.packed.reader import DTYPES, Entry

ENTRIES = {name: reader.head(path(name)).entries for name in GOLDEN}
EVERY = [entry for entries in ENTRIES.values() for entry in entries if entry.role != "alias"]
ORDERED = {"mixed-ordered", "mixed-picture-ordered", "mixed-kernels-ordered", "static-ordered"}


@pytest.fixture(params=["C++", "plain Python"])
def core(request, monkeypatch):
    if request.param == "plain Python":
        monkeypatch.setattr(reader, "core", None)
    elif reader.core is None:
        pytest.skip("the C++ core was not built here")


def base_of(name: str) -> Path | None:
    return path(GOLDEN[name].base) if GOLDEN[name].base else None


@pytest.mark.parametrize("name", GOLDEN)
def test_the_reader_opens_it_bit_for_bit(name, core):
    one = GOLDEN[name]
    assert same(unpack(path(name), base=base_of(name)), one.expected)
    masks = unpack_mask(path(name), base=base_of(name))
    assert masks.keys() == one.mask.keys()
    assert all(torch.equal(masks[key], one.mask[key]) for key in masks)
    file = reader.parse(path(name), base_of(name))
    assert (file.version, file.kind) == (3, one.options.get("kind", "network"))


@pytest.mark.parametrize("name", GOLDEN)
def test_a_reader_that_was_written_from_the_page_opens_it_bit_for_bit(name):
    base = base_of(name)
    found = plain_reader.read(path(name).read_bytes(), base and base.read_bytes())
    expected = GOLDEN[name].expected
    assert list(found) == list(expected)
    for key, (dtype, shape, data, mask) in found.items():
        assert list(DTYPES)[dtype] == source.NAMES[expected[key].dtype]
        assert shape == expected[key].shape
        assert data == bits_of(expected[key])
        kept = GOLDEN[name].mask.get("a.weight" if (name, key) == ("alias", "b.weight") else key)
        assert mask == (None if kept is None else kept.reshape(-1).int().tolist())


def test_the_reader_alone_opens_them_all_without_the_project_and_torch(tmp_path):
    shutil.copy(reader.__file__, tmp_path / "reader.py")
    code = (
        "import sys, json, zlib; sys.modules.update(compressor=None, torch=None); sys.path.insert(0, sys.argv[1])\n"
        "import reader; found = {}\n"
        "for name, path, base in json.loads(sys.argv[2]):\n"
        "    arrays = reader.read(path, base).items()\n"
        "    found[name] = {key: [list(one.shape), zlib.crc32(one.tobytes())] for key, one in arrays}\n"
        "print(json.dumps(found))\n"
    )
    files = [(name, str(path(name)), (GOLDEN[name].base and str(base_of(name))) or None) for name in GOLDEN]
    arguments = [sys.executable, "-I", "-c", code, str(tmp_path), json.dumps(files)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        name: {key: [list(tensor.shape), zlib.crc32(bits_of(tensor))] for key, tensor in one.expected.items()}
        for name, one in GOLDEN.items()
    }


@pytest.mark.parametrize("name", GOLDEN)
def test_the_writer_still_writes_it(name, core, tmp_path):
    one = GOLDEN[name]
    given = source.given(one.state, one.mask or None)
    for threads in (2,) if reader.core is None else (1, 2):
        write(tmp_path / "net", given, base=base_of(name), threads=threads, **one.options)
        assert (tmp_path / "net").read_bytes() == path(name).read_bytes()


def test_every_file_is_a_golden_one_and_small():
    assert {file.name for file in FOLDER.glob("*.safetensors")} == {path(name).name for name in GOLDEN}
    assert all(path(name).stat().st_size < 5000 for name in GOLDEN)


@pytest.mark.parametrize(
    "name", [name for name in GOLDEN if name.startswith(("bitmask", "rice", "static", "mixed"))]
)
def test_a_file_has_the_mode_that_it_is_named_after(name):
    (entry,) = ENTRIES[name]
    bare = name.removesuffix("-signs")
    assert entry.positions == bare.split("-")[0]
    assert entry.values == ("own" if bare == name else "levels")
    assert entry.ordered == (bare in ORDERED)
    assert geometry(entry) == (
        bare.split("-")[1] if bare.startswith("mixed") and bare != "mixed-ordered" else "line"
    )
    rank = {"mixed-kernels-1d": 3, "mixed-kernels": 4, "mixed-kernels-3d": 5}
    assert len(entry.shape) == rank.get(bare, len(entry.shape))


def geometry(entry: Entry) -> str:
    return ("line", "kernels")[entry.picture] if entry.picture < 2 else "picture"


def test_every_mode_has_a_file():
    assert {entry.positions for entry in EVERY} == set(reader.POSITIONS)
    assert {entry.values for entry in EVERY} == set(reader.VALUES)
    assert {entry.format for entry in EVERY} == {"dense", "csr", "bitmask", "entropy", "asni2", "base"}
    assert {entry.planes for entry in EVERY if entry.values == "own"} == set(range(reader.MAX_PLANES + 1))
    assert {entry.dtype for entry in EVERY if entry.planes} >= {
        "F16",
        "BF16",
        "F32",
        "F64",
        "C64",
        "I8",
        "U16",
        "I64",
    }
    mixed = [entry for entry in EVERY if entry.positions == "mixed"]
    assert {(geometry(entry), entry.ordered, entry.values) for entry in mixed} >= {
        (kind, order, values)
        for kind in ("line", "picture", "kernels")
        for order in (False, True)
        for values in ("own", "levels")
    }
    fed = [entry for entry in mixed if entry.producer]
    assert {geometry(entry) for entry in fed} == {"line", "picture", "kernels"}
    assert any(entry.ordered for entry in fed)
    coded = {entry.positions for entry in EVERY if entry.values == "levels"}
    assert coded == {"all", "bitmask", "rice", "static", "mixed"}
    base = {(entry.positions, entry.role) for entry in EVERY if entry.values == "base"}
    assert base >= {(each, "sparse") for each in ("all", "bitmask", "rice", "static", "mixed")} | {
        ("all", "dense")
    }
    eighths = {entry.positions for entry in EVERY if entry.values == "int8"}
    assert eighths == {"all", "bitmask", "rice", "static", "mixed"}
    assert {entry.positions for entry in EVERY if entry.role == "dense"} == {"all", "bitmask", "rice"}
    assert {min(len(entry.shape), 7) for entry in EVERY} >= {0, 1, 2, 3, 4, 5, 7}
    assert any(
        entry.role == "sparse" and entry.positions == "all" and entry.kept < entry.total for entry in EVERY
    )
