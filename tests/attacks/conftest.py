"""What the attacks share: both coders, and a file that is overwritten in place."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from compressor.packed import reader


class Slot:
    """A file whose content changes thousands of times; opening it anew would take milliseconds each time."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path.open("w+b", buffering=0)

    def put(self, data: bytes) -> Path:
        self.file.seek(0)
        self.file.write(data)
        self.file.truncate()
        return self.path


@pytest.fixture
def slot(tmp_path) -> Iterator[Slot]:
    slot = Slot(tmp_path / "w.safetensors")
    yield slot
    slot.file.close()


@pytest.fixture
def base_slot(tmp_path) -> Iterator[Slot]:
    slot = Slot(tmp_path / "base.safetensors")
    yield slot
    slot.file.close()


def with_coder(which: str, patch: pytest.MonkeyPatch) -> None:
    """Decode in C++ (core) or in plain Python, whose tables are made here."""
    if which == "plain":
        patch.setattr(reader, "core", None)
        reader._tables()
    elif reader.core is None:
        pytest.skip("the C++ core was not built here")


@pytest.fixture(params=["core", "plain"])
def coder(request, monkeypatch) -> str:
    with_coder(request.param, monkeypatch)
    return request.param
