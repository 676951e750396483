"""Whatever the bytes: FormatError, in bounded memory."""

import os
import re
import tracemalloc

import pytest
from lies import HONEST, LIES

from compressor.errors import FormatError, InputError
from compressor.packed import reader


def test_the_file_that_all_lies_start_from_is_read(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(HONEST)
    assert reader.read(path).tensors["w"].data.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("reason", "lie"), [(reason, lie) for reason in LIES for lie in LIES[reason]])
def test_a_lie_is_refused_for_what_it_is_in_bounded_memory(reason, lie, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(LIES[reason][lie])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=rf"w\.safetensors: .*{re.escape(reason)}"):
            reader.read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", ["missing", "folder", "fifo", "loop"])
def test_what_is_no_file_is_an_input_error(what, tmp_path):
    path = tmp_path / "w.safetensors"
    if what == "folder":
        path.mkdir()
    elif what == "fifo":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path)
    with pytest.raises(InputError):
        reader.read(path)
