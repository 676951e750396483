"""What the attacks share: both coders, and files that are overwritten in place."""

from collections.abc import Iterator

import pytest
from slot import Slot

from compressor.packed import reader


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
