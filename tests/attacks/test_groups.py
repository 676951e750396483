"""Every group of hostile inputs has its lies and tests, and they are there."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from forge import ALL, entry, file
from lies import ONE, dense
from sections import bits
from test_lies import LIES, OF_A_BASE

from compressor.packed import reader

HERE = Path(__file__).parent


def groups() -> dict[int, dict[str, list[str]]]:
    """Number -> what stands under it in groups.txt: "lies", "tests" and "none", part by part."""
    found: dict[int, dict[str, list[str]]] = {}
    _, *parts = re.split(r"^(\d+)\. ", (HERE / "groups.txt").read_text(), flags=re.MULTILINE)
    for number, text in zip(parts[::2], parts[1::2], strict=True):
        _, *fields = re.split(r"^    (\w+): ", text, flags=re.MULTILINE)
        found[int(number)] = {
            field: " ".join(words.split()).split("; ")
            for field, words in zip(fields[::2], fields[1::2], strict=True)
        }
    return found


GROUPS = groups()


def test_there_are_46_groups_and_each_has_a_lie_a_test_or_a_reason():
    assert list(GROUPS) == list(range(1, 47))
    assert all(group and set(group) <= {"lies", "tests", "none"} for group in GROUPS.values())


@pytest.mark.parametrize("number", GROUPS)
def test_what_a_group_names_is_there(number):
    for name in GROUPS[number].get("lies", []):
        assert any(lie.startswith(name) for lie in LIES | OF_A_BASE), name
    for name in GROUPS[number].get("tests", []):
        module, function = name.split(".")
        (source,) = [*HERE.glob(f"{module}.py"), *HERE.parent.glob(f"{module}.py")]
        assert f"def {function}(" in source.read_text(), name


def test_a_name_that_is_a_path_is_only_a_name(slot):
    names = [b"../x", b"/etc/passwd", b"C:\\x", b"__metadata__", b"compressor", b"NUL"]
    path = slot.put(file(*[dense(name) for name in names], sections=(ONE + bytes(12)) * len(names)))
    before = sorted(path.parent.iterdir())
    assert list(reader.read(path)) == [name.decode() for name in names]
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_kept_zeros_and_negative_zeros_come_back(zero, slot):
    values = struct.pack("<2f", zero, 1.0)
    decoded = values[:4] + bytes(4) + values[4:] + bytes(4)
    under = file(entry(kept=2, decoded=decoded), sections=bits([1, 0, 1, 0]) + values)
    whole = file(entry(positions=ALL, kept=4, decoded=decoded), sections=decoded)
    for data, kept in ((under, [1, 0, 1, 0]), (whole, [1, 1, 1, 1])):
        found = reader.parse(slot.put(data)).tensors["w"]
        assert found.data.tobytes() == decoded
        assert np.array_equal(found.mask, kept)
