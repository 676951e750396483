"""The reader: alone without torch, exact about damage, and the same as the project's unpack."""

import hashlib
import json
import math
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from compressor.errors import FormatError
from compressor.packed import pack, reader, unpack, unpack_mask

WEIGHT = torch.tensor([[0.0, 1.5, 0.0], [0.0, 0.0, -2.5]])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.fixture
def packed(path):
    weight = {f"fc{layer}.weight": WEIGHT * layer for layer in (1, 2)}
    weight["fc1.bias"] = torch.ones(3)
    pack(weight, path, mask={name: tensor != 0 for name, tensor in list(weight.items())[:2]})
    return path


def run(*code: str) -> str:
    done = subprocess.run([sys.executable, "-I", *code], capture_output=True, text=True, check=True)
    return done.stdout


def test_reading_sizes_and_show_do_not_import_torch(packed):
    code = (
        "import sys, compressor.packed as p; p.reader.parse(sys.argv[1]); p.sizes(sys.argv[1]);"
        "assert 'torch' not in sys.modules"
    )
    run("-c", code, str(packed))


def test_the_copied_file_reads_without_the_project(packed, tmp_path):
    shutil.copy(reader.__file__, tmp_path / "reader.py")
    code = (
        "import sys, json; sys.modules.update(compressor=None, torch=None); sys.path.insert(0, sys.argv[1])\n"
        "import reader; file = reader.parse(sys.argv[2])\n"
        "print(json.dumps({name: one.data.tolist() for name, one in file.tensors.items()}))\n"
        "try: reader.parse(sys.argv[1])\n"
        "except ValueError: pass\n"
    )
    found = json.loads(run("-c", code, str(tmp_path), str(packed)))
    assert found == {
        "fc1.weight": WEIGHT.tolist(),
        "fc2.weight": (WEIGHT * 2).tolist(),
        "fc1.bias": [1, 1, 1],
    }


def test_the_command_line_lists_the_tensors(packed, capsys):
    assert reader.main([str(packed)]) == 0
    assert capsys.readouterr().out.splitlines()[2] == "fc1.bias  F32 [3]  entropy, 3 kept, 19 bytes"
    assert reader.main([]) == 2
    assert reader.main([str(packed.parent)]) == 3
    assert "not a regular file" in capsys.readouterr().err


def test_every_flipped_bit_is_a_format_error(packed):
    data = packed.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            packed.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            with pytest.raises(FormatError):
                reader.parse(packed)


def test_a_truncated_file_is_a_format_error_at_every_length(packed):
    data = packed.read_bytes()
    for length in range(len(data)):
        packed.write_bytes(data[:length])
        with pytest.raises(FormatError):
            reader.parse(packed)


@pytest.mark.parametrize("form", ["csr", "entropy", "auto"])
def test_damage_in_a_section_names_the_tensor(packed, form):
    state, mask = unpack(packed), unpack_mask(packed)
    pack(state, packed, mask=mask, format=form)
    data, header = packed.read_bytes(), reader.head(packed)
    at = header.at
    for entry in header.entries:
        for byte in range(at, at + entry.section):
            for bit in range(8):
                packed.write_bytes(data[:byte] + bytes([data[byte] ^ 1 << bit]) + data[byte + 1 :])
                named = (
                    rf'net.safetensors: tensor "{entry.name}" .*; the file is damaged, get it again or pack'
                )
                with pytest.raises(FormatError, match=named):
                    reader.parse(packed)
        at += entry.section
    assert at == len(data) - reader.DIGEST


@pytest.mark.parametrize(("values", "stored"), [("int8", b"\xff\xff\x7f\x7f"), ("bfloat16", b"\x81\x7f")])
def test_values_that_no_writer_writes_give_no_warning(path, values, stored):
    """The largest float32 as a scale, whose products are infinite; a NaN that signals, widened to float64."""
    dtype = torch.float64 if values == "bfloat16" else torch.float32
    weight = torch.tensor([3.5, math.nan if values == "bfloat16" else 2.0], dtype=dtype)
    pack({"w": weight}, path, mask={"w": torch.ones(2, dtype=torch.bool)}, values=values, format="dense")
    data, at = path.read_bytes()[:-32], reader.head(path).at
    cut = at if values == "int8" else at + 2
    data = data[:cut] + stored + data[cut + len(stored) :]
    path.write_bytes(data + hashlib.sha256(data).digest())
    if values == "int8":
        with pytest.raises(FormatError, match="not finite"):
            reader.parse(path)
    else:
        with suppress(FormatError):  # for its CRC-32, where the processor does not make it quiet
            assert unpack(path)["w"].isnan().tolist() == [False, True]


def test_a_file_is_recognised_before_it_is_checked(packed, tmp_path):
    assert reader.is_packed(packed)
    packed.write_bytes(packed.read_bytes()[:-1])
    assert reader.is_packed(packed)
    other = tmp_path / "other"
    other.write_bytes(b"PK")
    assert not reader.is_packed(other)
    with pytest.raises(FormatError, match="other: is not a packed file"):
        reader.parse(other)


def test_a_newer_version_says_so(packed):
    data = bytearray(packed.read_bytes())
    data[data.index(reader.MAGIC) + 4] = 9
    packed.write_bytes(data)
    with pytest.raises(FormatError, match="another version of the format than 1 to 3; update compressor"):
        reader.parse(packed)


def test_the_reader_stands_in_one_file_with_numpy_only():
    lines = Path(reader.__file__).read_text().splitlines()
    imported = {line.split()[1].split(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported - set(sys.stdlib_module_names) == {"numpy"}
