"""What is no file, and a file that changes while it is read."""

import os

import numpy as np
import pytest
from forge import ALL, DENSE, entry, file

from compressor.errors import FormatError, InputError
from compressor.packed import reader

SIZE = 1 << 20


@pytest.mark.parametrize("what", ["missing", "folder", "fifo", "loop", "device", "nul", "long"])
@pytest.mark.parametrize(
    "read", [reader.parse, reader.look, reader.head, reader.is_packed, lambda path: next(reader.each(path))]
)
def test_what_is_no_file_is_an_input_error(what, read, tmp_path):
    path = tmp_path / "w.safetensors"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "nul":
        path = tmp_path / "w\0.safetensors"
    elif what == "long":
        path = tmp_path / ("w" * 5000)
    with pytest.raises(InputError):
        read(path)


@pytest.fixture
def large(tmp_path):
    """Two tensors that are read one after the other."""
    path, values = tmp_path / "w.safetensors", np.arange(SIZE, dtype=np.uint8).tobytes()
    entries = [
        entry(name, role=DENSE, positions=ALL, dtype=1, shape=(SIZE,), decoded=values)
        for name in (b"a", b"b")
    ]
    path.write_bytes(file(*entries, sections=values * 2))
    return path


@pytest.mark.parametrize(
    ("change", "reason"), [("cut", "changed while it was read"), ("flip", "CRC-32 does not match")]
)
def test_a_file_that_changes_while_it_is_read_is_refused(change, reason, large, monkeypatch):
    monkeypatch.setattr(reader, "WINDOW", 0)
    tensors = reader.each(large)
    assert next(tensors)[0] == "a"
    with large.open("r+b") as file:
        if change == "cut":
            file.truncate(SIZE + SIZE // 2)
        else:
            file.seek(-SIZE // 2, 2)
            file.write(b"x")
    with pytest.raises(FormatError, match=rf'w\.safetensors: (tensor "b" .*)?{reason}'):
        next(tensors)
