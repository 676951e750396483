"""Every bit, every length, every byte more or less, in a tiny file of each coding: refused, and never misread."""

from collections.abc import Iterable, Iterator

import pytest
from forge import seal, wrap
from honest import DRAFTS, HONEST

from compressor.errors import FormatError, InputError
from compressor.packed import reader

# One file of each way to be decoded: what plain Python has time for.
MODES = [
    *(name for name in DRAFTS if name.startswith("signs ")),
    *("own all", "own rice", "int8 all", "int8 mixed", "4 planes", "7 planes of float64", "plane of int8"),
    *("float16", "without zeros", "without zeros, mixed", "kernels of a producer", "task all", "task mixed"),
]
FEW = (0, 1, 127, 128, 255)


def flips(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def truncated(data: bytes) -> Iterator[bytes]:
    return (data[:length] for length in range(len(data)))


def shifted(data: bytes, more: Iterable[int] = FEW) -> Iterator[bytes]:
    """Every byte left out, and one of `more`, or the byte itself, before every byte and behind the last."""
    for at in range(len(data) + 1):
        yield from (data[:at] + bytes([byte]) + data[at:] for byte in {*more, *data[at : at + 1]})
        if at < len(data):
            yield data[:at] + data[at + 1 :]


def outcome(path, base) -> list[bytes] | str:
    """The bits of each tensor, or what is wrong with the file, or with the base that it names."""
    try:
        return [one.data.tobytes() for one in reader.parse(path, base).tensors.values()]
    except FormatError as error:
        return str(error)
    except InputError as error:
        if base is None:
            raise
        return str(error)


def placed(name, slot, base_slot):
    """Put a file in its place: its bytes, those within the seal, where the sections begin in them; its base."""
    data, base = HONEST[name]
    inner = data[8 + int.from_bytes(data[:8], "little") : -32]
    sections = sum(entry.section for entry in reader.head(slot.put(data)).entries)
    return data, inner, len(inner) - sections, base_slot.put(base) if base else None


def hold(name, slot, base_slot, damage, **more):
    """Damage what is within the seal and seal it anew: refused, or the same bits by another header."""
    data, inner, begin, base = placed(name, slot, base_slot)
    bits = outcome(slot.put(data), base)
    assert isinstance(bits, list)
    for each in damage(inner, **more):
        found = outcome(slot.put(seal(wrap(each) + each)), base)
        assert isinstance(found, str) or (found == bits and each[:begin] != inner[:begin])


@pytest.mark.parametrize("name", HONEST)
def test_whatever_is_damaged_in_a_file_it_is_refused(name, slot, base_slot):
    data, _, _, base = placed(name, slot, base_slot)
    for each in [*flips(data), *truncated(data), *shifted(data)]:
        with pytest.raises(FormatError):
            reader.parse(slot.put(each), base)


@pytest.mark.parametrize("damage", [flips, truncated, shifted])
@pytest.mark.parametrize("name", HONEST)
def test_damage_under_a_new_seal_is_refused_or_has_the_same_bits_by_another_header(
    name, damage, slot, base_slot
):
    hold(name, slot, base_slot, damage)


@pytest.mark.parametrize("name", MODES)
def test_so_it_is_in_plain_python(name, slot, base_slot, monkeypatch):
    monkeypatch.setattr(reader, "core", None)
    hold(name, slot, base_slot, flips)


@pytest.mark.slow
@pytest.mark.parametrize("name", HONEST)
def test_so_it_is_with_every_byte_before_every_other_and_in_plain_python(name, slot, base_slot, monkeypatch):
    hold(name, slot, base_slot, shifted, more=range(256))
    monkeypatch.setattr(reader, "core", None)
    hold(name, slot, base_slot, flips)
    hold(name, slot, base_slot, shifted)
