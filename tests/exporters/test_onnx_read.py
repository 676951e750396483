"""Reading: no bit of a file is free to change, and nothing but our files is read."""

import contextlib
import subprocess
import sys

import onnx
import pytest
import torch
from torch import nn

from compressor.errors import FormatError, InputError
from exporters.graph import digest_entry
from exporters.onnx import chains_model, decode, export, read


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("onnx") / "n.onnx"
    model = nn.Linear(40, 20)
    mask = {"weight": torch.rand(20, 40) < 0.1}
    with torch.no_grad():
        model.weight.masked_fill_(~mask["weight"], 0.0)
    export(model, path, torch.zeros(1, 40), mask=mask)
    assert read(path).chains == ("weight",)
    return path


def changed(file, change):
    """Return the path of a copy with a fitting digest, after `change` was made to its model."""
    model = onnx.load(file)
    del model.metadata_props[-1]
    change(model)
    body = model.SerializeToString()
    path = file.with_name("changed.onnx")
    path.write_bytes(body + digest_entry(body))
    return path


def untouched(path):
    try:
        return read(path).digest_ok
    except FormatError:
        return False


def test_a_file_ends_in_the_digest_of_all_before_it(file):
    data = file.read_bytes()
    entry = digest_entry(b"")
    assert read(file).digest_ok
    assert data.endswith(digest_entry(data[: -len(entry)]))
    model = onnx.load(file)
    del model.metadata_props[-1]
    assert digest_entry(model.SerializeToString()) == data[-len(entry) :]


def test_any_flipped_bit_is_found(file, tmp_path):
    data = bytearray(file.read_bytes())
    path = tmp_path / "n.onnx"
    for place in range(len(data)):
        bit = 1 << place % 8
        data[place] ^= bit
        path.write_bytes(data)
        assert not untouched(path), place
        data[place] ^= bit


def test_a_truncated_or_longer_file_is_found(file, tmp_path):
    data = file.read_bytes()
    path = tmp_path / "n.onnx"
    for other in (
        *(data[:end] for end in range(0, len(data), 13)),
        data + b"\0",
        data + data,
        data + data[-85:],
    ):
        path.write_bytes(other)
        assert not untouched(path)


def test_damage_never_ends_in_another_error(file, tmp_path):
    data = bytearray(file.read_bytes())
    path = tmp_path / "n.onnx"
    for place in range(0, len(data), 5):
        bit = 1 << place // 5 % 8
        data[place] ^= bit
        path.write_bytes(data)
        for reader in (decode, chains_model):
            with contextlib.suppress(FormatError):
                reader(path)
        data[place] ^= bit


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "n.onnx"
    for data in (b"", b"not a model", b"\x08"):
        path.write_bytes(data)
        with pytest.raises(FormatError):
            read(path)
    foreign = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    path.write_bytes(foreign.SerializeToString())
    with pytest.raises(FormatError):
        read(path)
    with pytest.raises(InputError):
        read(tmp_path / "missing.onnx")


def external(model):
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def bomb(model):
    length = next(node for node in model.graph.node if node.op_type == "ConstantOfShape").input[0]
    next(i for i in model.graph.initializer if i.name == length).raw_data = (2**40).to_bytes(8, "little")


def loop(model):
    next(node for node in model.graph.node if node.op_type == "Mod").op_type = "BitShift"


def double(model):
    model.graph.initializer.append(model.graph.initializer[0])


def circle(model):
    node = next(node for node in model.graph.node if node.op_type == "Cast")
    node.input[0] = "weight"


@pytest.mark.parametrize("change", [external, bomb, loop, double, circle])
def test_a_hostile_file_with_a_fitting_digest_is_refused(file, change):
    with pytest.raises(FormatError):
        decode(changed(file, change))


def test_reading_imports_no_torch(file):
    script = (
        "import sys; from exporters.onnx import read, decode;"
        "decode(sys.argv[1]); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(file)], check=True)
