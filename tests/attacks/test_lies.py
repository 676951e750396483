"""Whatever the bytes: FormatError, in bounded memory."""

import hashlib
import os
import re
import tracemalloc

import pytest
from lies import BASE_LIES, HONEST, LIES, MASK_LIES, W, dense, file, task

from compressor.errors import FormatError, InputError
from compressor.packed import reader, sizes


def test_the_file_that_all_lies_start_from_is_read(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(HONEST)
    assert reader.parse(path).tensors["w"].data.tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("reason", "lie"), [(reason, lie) for reason in LIES for lie in LIES[reason]])
def test_a_lie_is_refused_for_what_it_is_in_bounded_memory(reason, lie, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(LIES[reason][lie])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=rf"w\.safetensors: .*{re.escape(reason)}"):
            reader.parse(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.fixture
def base(tmp_path):
    path = tmp_path / "base.safetensors"
    path.write_bytes(HONEST)
    return path


def test_the_task_file_that_all_lies_about_a_base_start_from_is_read(tmp_path, base):
    path = tmp_path / "w.safetensors"
    path.write_bytes(task(dense(values=4)))
    assert reader.parse(path, base).tensors["w"].data.view("<u4").tobytes() == W


@pytest.mark.parametrize(
    ("reason", "lie"), [(reason, lie) for reason in BASE_LIES for lie in BASE_LIES[reason]]
)
def test_a_lie_about_a_base_is_refused_for_what_it_is_in_bounded_memory(reason, lie, tmp_path, base):
    path = tmp_path / "w.safetensors"
    path.write_bytes(BASE_LIES[reason][lie])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=rf"w\.safetensors: .*{re.escape(reason)}"):
            reader.parse(path, base)
        reader.look(path)
        sizes(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("reason", "lie"), [(reason, lie) for reason in MASK_LIES for lie in MASK_LIES[reason]]
)
def test_a_lie_about_a_mask_is_refused_for_what_it_is_without_the_base_too(reason, lie, tmp_path, base):
    path = tmp_path / "w.safetensors"
    path.write_bytes(MASK_LIES[reason][lie])
    for call in (lambda path: reader.parse(path, base), reader.look, sizes):
        with pytest.raises(FormatError, match=rf"w\.safetensors: .*{re.escape(reason)}"):
            call(path)
    assert reader.main([str(path)]) == 3


def test_a_base_that_is_no_whole_network_is_a_lie_of_the_task_file(tmp_path, base):
    path, chained = tmp_path / "w.safetensors", task(dense(values=4))
    for false in (chained, file(dense(), sections=W, flags=1)):
        base.write_bytes(false)
        path.write_bytes(task(dense(values=4), base=hashlib.sha256(false).digest()))
        with pytest.raises(FormatError, match=r"w\.safetensors: has a base that is no whole network"):
            reader.parse(path, base)


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
        reader.parse(path)
