"""Files appear whole or not at all; every OSError while writing is a HostError, while reading an InputError."""

import os
from pathlib import Path

import pytest

from compressor.errors import HostError, InputError
from compressor.files import read_bytes, sha256, write_bytes, writing


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "net"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), writing(path) as beside:
        beside.write_bytes(b"half")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["net"]
    assert read_bytes(path) == b"old"


def test_a_full_disk_is_a_host_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="No space left"), writing(tmp_path / "net") as beside:
        beside.symlink_to("/dev/full")
        with beside.open("wb") as file:
            file.write(b"x" * 100)


@pytest.mark.parametrize("path", ["missing/net", "file/net"])
def test_a_folder_that_is_not_there_is_a_host_error(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError, match="cannot be written"):
        write_bytes(tmp_path / path, b"x")


def test_what_is_no_regular_file_is_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (Path(), tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(HostError, match="cannot be written"):
            write_bytes(path, b"x")
    assert (tmp_path / "fifo").is_fifo()


def test_what_cannot_be_read_is_an_input_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(InputError, match="not a regular file"):
            read_bytes(path)
    with pytest.raises(InputError, match="cannot be read"):
        sha256(tmp_path / "missing")
