"""The example in hex of docs/formats.md is what pack() writes, what the readers read, and what the page says of it."""

import re
from pathlib import Path

import plain_coder
import plain_reader
import pytest
import torch
from networks import bits_of, same

from compressor.packed import pack, reader, unpack, unpack_mask

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
LEVELS = {"+": 0.5, "-": -0.25, ".": 0.0}


def block(kind: str) -> list[str]:
    return re.search(rf"^```{kind}\n(.*?)\n```$", PAGE, re.M | re.S).group(1).splitlines()


@pytest.fixture
def network():
    rows = block("rows")
    weight = torch.tensor([[LEVELS[one] for one in row] for row in rows[:4] * 6 + rows[4:]])
    return {"fc.weight": weight, "fc.bias": torch.tensor([1 / 3, -1 / 3])}


@pytest.fixture
def parts():
    """(bytes, what they are) of each part."""
    found: list[tuple[bytes, str]] = []
    for line in block("hex"):
        data, _, text = line.partition("  ")
        if text.strip() and not text.strip().startswith('"'):
            found.append((bytes.fromhex(data), text.strip()))
        else:
            found[-1] = (found[-1][0] + bytes.fromhex(data), f"{found[-1][1]}{text.strip()}")
    return found


def test_pack_writes_these_bytes_and_both_readers_read_them(network, parts, tmp_path):
    data = b"".join(part for part, _ in parts)
    mask = {"fc.weight": network["fc.weight"] != 0}
    pack(network, tmp_path / "packed", mask=mask)
    assert (tmp_path / "packed").read_bytes().hex(" ") == data.hex(" ")
    assert same(unpack(tmp_path / "packed"), network)
    assert same(unpack_mask(tmp_path / "packed"), mask)
    found = plain_reader.read(data)
    assert {name: one[2] for name, one in found.items()} == {
        name: bits_of(one) for name, one in network.items()
    }
    assert f"this file of {len(data)} bytes" in PAGE
    assert f"SHA-256 of the {len(data) - 32} bytes before" in PAGE
    assert f"(`{bits_of(network['fc.bias']).hex(' ')}` in memory)" in PAGE


def test_what_the_page_says_of_the_parts_is_true(parts, tmp_path):
    said = {text.split(":")[0]: (data, text) for data, text in parts}
    json, text = parts[1]
    assert json.decode().rstrip(" ") == text.removesuffix(" and seven spaces")
    assert json.endswith(b"}" + b" " * 7)
    assert int.from_bytes(said["length of the JSON text"][0], "little") == len(json) == 112
    (tmp_path / "packed").write_bytes(b"".join(part for part, _ in parts))
    weight, bias = reader.head(tmp_path / "packed").entries
    assert (weight.role, weight.positions, weight.values, weight.dtype) == (
        "sparse",
        "mixed",
        "levels",
        "F32",
    )
    assert (weight.shape, weight.kept, weight.coded) == ((25, 8), 64, 27)
    assert (weight.ordered, weight.picture, weight.producer) == (False, 0, "")
    assert (bias.role, bias.positions, bias.values, bias.dtype) == ("dense", "all", "own", "F32")
    assert (bias.shape, bias.planes, bias.stream) == ((2,), 3, 5)
    texts = [text for _, text in parts]
    first, behind = texts.index("tensors: 2"), texts.index("fc.weight: the stream of mask and signs")
    header = sum(len(data) for data, _ in parts[first:behind])
    assert said["header length"][0] == bytes([header]) == bytes([27])
    assert len(said["fc.weight"][0]) == 27
    assert len(said["fc.bias"][0]) == 5


def test_the_decisions_of_the_coder_are_those_on_the_page(parts, monkeypatch):
    asked: list[tuple[int, int]] = []
    decide = plain_coder.Decoder.bit

    def listen(coder: plain_coder.Decoder, p: int) -> int:
        bit = decide(coder, p)
        asked.append((bit, p))
        return bit

    monkeypatch.setattr(plain_coder.Decoder, "bit", listen)
    plain_reader.read(b"".join(part for part, _ in parts))
    weight, bias = (
        [tuple(map(int, pair.split())) for pair in line[10:].split(",")] for line in block("bits")
    )
    assert asked[: len(weight)] == weight
    coded = 3 * 2 * 8  # of the bias: three planes of two values
    assert asked[-coded:][: len(bias)] == bias
    assert f"= {round(64 * 65536 / 200)}." in PAGE
