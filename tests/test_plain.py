"""Plain safetensors: what the library writes is read and written bit for bit, and what it lets through is refused."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from compressor import plain
from compressor.errors import FormatError, InputError
from compressor.packed.reader import DTYPES
from compressor.packed.source import TORCH

Header = dict[str, object] | str | bytes


def raw(header: Header, data: bytes = b"") -> bytes:
    if isinstance(header, dict):
        header = json.dumps(header)
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def text(dtype: str = '"F32"', shape: str = "[2]", offsets: str = "[0,8]", more: str = "") -> str:
    return f'{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}'


E8 = bytes(8)
ONE = raw({"w": entry()}, E8)
# what is refused, under the words it is refused with; every line of the table in research/formats.md C is here
REFUSED: dict[str, dict[str, bytes]] = {
    "too short": {"empty": b"", "7 bytes": bytes(7)},
    "would be longer than the file": {
        "header past the end": b"\x10" + ONE[1:20],
        "2^31": (1 << 31).to_bytes(8, "little") + ONE[8:],
        "2^63": (1 << 63).to_bytes(8, "little") + ONE[8:],
        "2^64 - 1": b"\xff" * 8 + ONE[8:],
        "something else": b"GIF89a, a picture of a network",
    },
    "does not begin with {": {
        "no header": raw(""),
        "a blank first": raw(' {"w":' + text() + "}", E8),
        "a newline first": raw('\n{"w":' + text() + "}", E8),
        "a byte order mark": raw(b"\xef\xbb\xbf" + json.dumps({"w": entry()}).encode(), E8),
        "a list": raw("[]"),
        "a number": raw("12345678"),
    },
    "something behind its last }": {
        "newline behind": raw('{"w":' + text() + "}\n", E8),
        "tab behind": raw('{"w":' + text() + "}\t  ", E8),
        "NUL behind": raw('{"w":' + text() + "}\0", E8),
        "two objects": raw('{"w":' + text() + "}{}", E8),
    },
    "two tensors of the name": {
        "same name": raw('{"w":' + text() + ',"w":' + text('"I32"') + "}", E8),
        "same name, escaped": raw('{"w":' + text() + ',"\\u0077":' + text() + "}", E8),
        "two __metadata__": raw('{"__metadata__":{},"w":' + text() + ',"__metadata__":{}}', E8),
    },
    "twice in its __metadata__": {
        "key": raw('{"__metadata__":{"a":"b","a":"c"},"w":' + text() + "}", E8),
    },
    "with no '{'": {
        "metadata null": raw('{"__metadata__":null,"w":' + text() + "}", E8),
        "metadata list": raw('{"__metadata__":["a"],"w":' + text() + "}", E8),
        "positional": raw('{"w":["F32",[2],[0,8]]}', E8),
        "entry null": raw('{"w":null}', E8),
    },
    "a string missing or wrong": {
        "metadata number": raw('{"__metadata__":{"a":1},"w":' + text() + "}", E8),
        "metadata object": raw('{"__metadata__":{"a":{}},"w":' + text() + "}", E8),
        "trailing comma": raw('{"w":' + text() + ",}", E8),
        "comment": raw('{/**/"w":' + text() + "}", E8),
        "name without quotes": raw("{w:" + text() + "}", E8),
        "control character in a string": raw('{"w\n":' + text() + "}", E8),
        "depth 10,000": raw('{"__metadata__":{"a":' + "[" * 10_000 + "]" * 10_000 + "}}"),
    },
    "one of data_offsets, dtype, shape missing or wrong": {
        "unknown field": raw('{"w":' + text(more=',"extra":1')[:-1].replace('"dtype":"F32",', "") + "}}", E8),
        "dtype object": raw('{"w":' + text('{"F32":null}') + "}", E8),
        "dtype number": raw('{"w":' + text("7") + "}", E8),
        "shape with -1": raw('{"w":' + text(shape="[-1]") + "}", E8),
        "shape with +2": raw('{"w":' + text(shape="[+2]") + "}", E8),
        "shape with 2.0": raw('{"w":' + text(shape="[2.0]") + "}", E8),
        "shape with 2e0": raw('{"w":' + text(shape="[2e0]") + "}", E8),
        "shape with true": raw('{"w":' + text(shape="[true]") + "}", E8),
        "shape with NaN": raw('{"w":' + text(shape="[NaN]") + "}", E8),
        "shape null": raw('{"w":' + text(shape="null") + "}", E8),
        "shape nested": raw('{"w":' + text(shape="[[2]]") + "}", E8),
        "offsets -0": raw('{"w":' + text(offsets="[-0,8]") + "}", E8),
    },
    "with no ','": {
        "a field missing": raw('{"w":{"dtype":"F32","shape":[2]}}', E8),
    },
    "with no '}'": {
        "field too many": raw('{"w":' + text(more=',"extra":1') + "}", E8),
        "unclosed": raw('{"w":' + text(), E8),
    },
    "has its dtype twice": {
        "dtype": raw('{"w":' + text(more="").replace('"shape":[2]', '"dtype":"I32"') + "}", E8)
    },
    "that is no list": {
        "shape text": raw('{"w":' + text(shape='"2"') + "}", E8),
        "02": raw('{"w":' + text(shape="[02]") + "}", E8),
        "comma at the end": raw('{"w":' + text(shape="[2,]") + "}", E8),
        "two numbers without a comma": raw('{"w":' + text(shape="[2 2]") + "}", E8),
        "30 digits": raw('{"w":' + text(shape=f"[{10**30}]") + "}", E8),
    },
    "unknown dtype": {
        "F33": raw({"w": entry("F33")}, E8),
        "lower case is a wrong field": raw({"w": entry("U7")}, E8),
        "list of counts": raw('{"w":' + text("[1]") + "}", E8),
    },
    "beyond every limit": {
        "2^63 behind a zero": raw({"w": entry(shape=[0, 1 << 63, 4], offsets=(0, 0))}),
        "2^63 before a zero": raw({"w": entry(shape=[1 << 63, 4, 0], offsets=(0, 0))}),
        "product wraps to 2": raw({"w": entry(shape=[(1 << 63) + 1, 2])}, E8),
        "2^32 x 2^32": raw({"w": entry(shape=[1 << 32, 1 << 32], offsets=(0, 0))}),
        "zero times 2^47 twice": raw({"w": entry(shape=[0, 1 << 47, 1 << 47], offsets=(0, 0))}),
    },
    "dimensions": {
        "rank 33": raw({"w": entry(shape=[1] * 33, offsets=(0, 4))}, bytes(4)),
        "rank 1000": raw({"w": entry(shape=[1] * 1000, offsets=(0, 4))}, bytes(4)),
    },
    "no begin and end": {
        "end before begin": raw({"w": entry(offsets=(8, 0))}, E8),
        "one": raw({"w": entry(offsets=(8,))}, E8),
        "three": raw({"w": entry(offsets=(0, 8, 8))}, E8),
    },
    "its shape and dtype": {
        "shape too large": raw({"w": entry(shape=[3])}, E8),
        "dtype too wide": raw({"w": entry("F64")}, E8),
        "offsets past the end": raw({"w": entry(offsets=(0, 1 << 40))}, E8),
    },
    "overlaps": {
        "the same bytes": raw({"a": entry(), "b": entry()}, E8),
        "half": raw({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    },
    "hole": {
        "at the front": raw({"w": entry(offsets=(4, 12))}, bytes(12)),
        "between": raw({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
    },
    "does not end where": {
        "one byte behind": ONE + b"x",
        "one byte short": ONE[:-1],
        "a second file behind": ONE + ONE,
        "no tensor, but data": raw({}, E8),
    },
    "names are text of 1 to 1024 bytes": {
        "empty": raw({"": entry()}, E8),
        "NUL": raw({"a\0b": entry()}, E8),
        "newline": raw({"a\nb": entry()}, E8),
        "1,025 bytes": raw({"n" * 1025: entry()}, E8),
        "../x": raw({"../x": entry()}, E8),
        "a/../../x": raw({"a/../../x": entry()}, E8),
        "..": raw({"..": entry()}, E8),
        "/etc/passwd": raw({"/etc/passwd": entry()}, E8),
        "C:/x": raw({"C:/x": entry()}, E8),
        "drive": raw({"c:\\x": entry()}, E8),
    },
    "not UTF-8": {
        "bytes": raw(b'{"\xff\xfe":' + text().encode() + b"}", E8),
        "lone surrogate": raw('{"\\ud800":' + text() + "}", E8),
        "half an escape": raw('{"\\u12":' + text() + "}", E8),
    },
}
LIES = [(reason, name) for reason, lies in REFUSED.items() for name in lies]


def many(count: int) -> bytes:
    return raw("{" + ",".join(f'"{n}":' + text('"U8"', "[0]", "[0,0]") for n in range(count)) + "}")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: many(131_073), "more than 131,072 tensors"),
        (lambda: many(1_000_000), "16,777,216 is the limit"),
        (lambda: raw('{"__metadata__":{"a":"' + "x" * 100_000_000 + '"}}'), "16,777,216 is the limit"),
        (lambda: raw("{}" + " " * 100_000_000), "16,777,216 is the limit"),
        (lambda: raw('{"__metadata__":{"a":"' + "x" * 16_000_000 + '"}},'), "something behind"),
        (lambda: raw('{"w":' + text(shape="[" + "0," * 5_000_000 + "0]") + "}"), "more than 32 dimensions"),
        (lambda: raw('{"w":' + "[" * 10_000_000), "with no '{'"),
        (
            lambda: raw("{" + " " * 10_000_000 + '"w":' + text() + "}", E8),
            "a string missing or wrong at byte 9",
        ),
        (lambda: raw('{"w":' + text() + "}" + " " * 10_000_000, E8), "blanks behind its header; 4,096 are"),
        (
            lambda: raw('{"__metadata__":' + json.dumps(dict.fromkeys(map(str, range(10**6)), "")) + "}"),
            "65,536 keys",
        ),
    ],
    ids=[
        "tensors",
        "more tensors",
        "metadata",
        "blanks",
        "less metadata",
        "rank",
        "depth",
        "blanks inside",
        "blanks behind",
        "keys",
    ],
)
def test_a_huge_header_is_refused_before_it_takes_memory(tmp_path: Path, make: object, reason: str) -> None:
    (tmp_path / "w").write_bytes(make())  # type: ignore[operator]
    tracemalloc.start()
    with pytest.raises(FormatError, match=reason):
        plain.tensors(tmp_path / "w")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize(("reason", "name"), LIES, ids=[f"{reason}: {name}" for reason, name in LIES])
def test_a_file_that_breaks_a_rule_is_refused_before_it_takes_memory(
    tmp_path: Path, reason: str, name: str
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(REFUSED[reason][name])
    tracemalloc.start()
    try:
        with pytest.raises(FormatError) as refused:
            plain.tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert reason in str(refused.value)
    assert str(refused.value).startswith(f"{path}: ")
    assert len(str(refused.value)) < 2000


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_a_dtype_of_less_than_a_byte_is_told_to_be_unsupported(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "w").write_bytes(raw({"w": entry(dtype, [8], (0, 4))}, bytes(4)))
    with pytest.raises(InputError, match=f'tensor "w" has dtype {dtype}, of less than a byte'):
        plain.tensors(tmp_path / "w")


def test_every_prefix_of_a_file_is_refused(tmp_path: Path) -> None:
    for length in range(len(ONE)):
        (tmp_path / "w").write_bytes(ONE[:length])
        with pytest.raises(FormatError):
            plain.tensors(tmp_path / "w")


@pytest.mark.parametrize(
    "header",
    [
        json.dumps({"w": entry()}) + " " * 5,
        json.dumps({"w": entry(), "__metadata__": {"a": "", "ü": "\n"}}),
        json.dumps({"w": entry()}, indent=2),
        '{"w":{"data_offsets":[0,8],"shape":[ 2 ],"dtype":"F32"}}',
        '{"\\u0077":' + text() + "}",
        '{"w":' + text() + ',"none":' + text('"I8"', "[0,3]", "[0,0]") + "}",
        '{"w":' + text() + ',"none":' + text('"I8"', "[3,0]", "[8,8]") + "}",
    ],
)
def test_what_the_format_allows_is_read(tmp_path: Path, header: str) -> None:
    (tmp_path / "w").write_bytes(raw(header, np.arange(2, dtype="<f4").tobytes()))
    found = plain.tensors(tmp_path / "w")
    assert (found["w"].dtype, found["w"].shape) == ("F32", (2,))
    assert plain.load(found["w"]).tolist() == [0, 0x3F800000]


def everything() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    found = {}
    for dtype, of in TORCH.items():
        size = np.dtype(DTYPES[dtype]).itemsize
        bits = torch.randint(0, 2 if dtype == "BOOL" else 256, (3, 5, size), dtype=torch.uint8)
        found[f"z.{dtype}"] = bits.view(of).reshape(3, 5)
        found[f"a.{dtype}"] = bits[1, 1].clone().view(of).reshape(())
    return {**found, "ü.empty": torch.zeros(0, 3), "b.F32": torch.zeros(4), 'quote"\\': torch.zeros(1)}


def test_a_file_of_the_library_is_read_bit_for_bit_and_written_as_the_same_bytes(tmp_path: Path) -> None:
    state = everything()
    (tmp_path / "w").write_bytes(save(state))
    found = plain.tensors(tmp_path / "w")
    assert set(found) == set(state)
    for name, one in found.items():
        tensor = state[name]
        assert (TORCH[one.dtype], one.shape) == (tensor.dtype, tuple(tensor.shape))
        assert plain.load(one).tobytes() == tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
    layout = {name: (one.dtype, one.shape) for name, one in found.items()}
    plain.write(
        tmp_path / "again", layout, ((name, plain.load(one)) for name, one in reversed(found.items()))
    )
    assert (tmp_path / "again").read_bytes() == (tmp_path / "w").read_bytes()
    plain.write(tmp_path / "none", {}, ())
    assert (tmp_path / "none").read_bytes() == save({})
    assert plain.tensors(tmp_path / "none") == {}


def test_reading_and_writing_take_the_memory_of_one_tensor(tmp_path: Path) -> None:
    names = [f"{n}.weight" for n in range(32)]
    layout = dict.fromkeys(names, ("F32", (512, 512)))
    parts = ((name, np.zeros(512 * 512, "<u4")) for name in names)
    tracemalloc.start()
    plain.write(tmp_path / "w", layout, parts)
    for one in plain.tensors(tmp_path / "w").values():
        plain.load(one)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 << 20  # a tensor has 1 MiB


def test_a_small_tensor_of_a_big_file_is_read_alone(tmp_path: Path) -> None:
    big = 3 << 30
    head = raw({"big": entry("U8", [big], (0, big)), "w": entry(offsets=(big, big + 8))})
    with (tmp_path / "w").open("wb") as file:
        file.write(head)
        file.truncate(len(head) + big + 8)
    tracemalloc.start()
    assert plain.load(plain.tensors(tmp_path / "w")["w"]).tolist() == [0, 0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_file_that_changes_between_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(ONE)
    found = plain.tensors(path)
    path.write_bytes(ONE + b"x")
    with pytest.raises(FormatError, match="w: changed while it was read"):
        plain.load(found["w"])
    path.unlink()
    with pytest.raises(InputError, match="w: cannot be read"):
        plain.load(found["w"])


def test_a_truth_value_is_0_or_1(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(raw({"w": entry("BOOL", [3], (0, 3))}, b"\0\1\7"))
    with pytest.raises(FormatError, match='"w" holds a truth value that is neither 0 nor 1'):
        plain.load(plain.tensors(tmp_path / "w")["w"])


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    for path, reason in (
        (tmp_path / "fifo", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (tmp_path / "loop", "cannot be read"),
        (tmp_path / "absent", "cannot be read"),
        (tmp_path / "folder", "holds neither model.safetensors nor"),
    ):
        with pytest.raises(InputError, match=reason):
            plain.tensors(path)


def sharded(folder: Path) -> dict[str, object]:
    folder.mkdir(exist_ok=True)
    (folder / "a.safetensors").write_bytes(raw({"w": entry(), "v": entry(offsets=(8, 16))}, bytes(16)))
    (folder / "b.safetensors").write_bytes(raw({"u": entry()}, np.ones(2, "<f4").tobytes()))
    return {
        "metadata": {"total_size": 24.0},
        "weight_map": {"u": "b.safetensors", "w": "a.safetensors", "v": "a.safetensors"},
    }


def test_shards_are_read_as_one_file_and_a_folder_as_what_is_in_it(tmp_path: Path) -> None:
    index = sharded(tmp_path / "net")
    path = tmp_path / "net/model.safetensors.index.json"
    path.write_text(json.dumps(index))
    for way in (path, tmp_path / "net"):
        found = plain.tensors(way)
        assert {name: one.path.name for name, one in found.items()} == index["weight_map"]
        assert plain.load(found["u"]).tolist() == [0x3F800000] * 2
    path.unlink()
    with pytest.raises(InputError, match="holds neither"):
        plain.tensors(tmp_path / "net")
    (tmp_path / "net/b.safetensors").unlink()
    assert set(plain.tensors(tmp_path / "net")) == {"w", "v"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda places: places | {"u": "../net/b.safetensors"}, "into no file beside it"),
        (lambda places: places | {"u": "/etc/passwd"}, "into no file beside it"),
        (lambda places: places | {"u": ".."}, "into no file beside it"),
        (lambda places: places | {"u": ""}, "into no file beside it"),
        (lambda places: places | {"u": "C:b.safetensors"}, "into no file beside it"),
        (lambda places: places | {"u": 3}, "into no file beside it"),
        (lambda places: places | {"u": "a.safetensors"}, 'puts the tensor "u" into a.safetensors'),
        (lambda places: places | {"x": "a.safetensors"}, 'puts the tensor "x" into a.safetensors'),
        (lambda places: places | {"w": "b.safetensors"}, 'does not put the tensor "w" into a.safetensors'),
        (lambda places: {n: p for n, p in places.items() if n != "v"}, 'does not put the tensor "v"'),
        (lambda places: [*places], "has no weight_map"),
        (lambda places: None, "has no weight_map"),
    ],
)
def test_an_index_that_breaks_a_rule_is_refused(tmp_path: Path, change: object, reason: str) -> None:
    index = sharded(tmp_path)
    index["weight_map"] = change(index["weight_map"])  # type: ignore[operator]
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    with pytest.raises(FormatError, match=reason):
        plain.tensors(path)


def test_a_shard_in_two_files_or_in_none_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    (tmp_path / "b.safetensors").write_bytes(raw({"u": entry(), "w": entry(offsets=(8, 16))}, bytes(16)))
    with pytest.raises(FormatError, match='does not put the tensor "w" into b'):
        plain.tensors(path)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"b.safetensors: cannot be read"):
        plain.tensors(path)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"[]", b"\xff", b'{"weight_map":{"a":"b","a":"b"}}', b"[" * 900, b"[" * 100_000,
        b'{"weight_map":{' + b",".join(b'"%d":""' % n for n in range(300_000)) + b"}}",
        b'{"weight_map":[' + b"[]," * 2_000_000 + b"0]}", b" " * (20 << 20), b'{"weight_map":NaN}',
    ],
    ids=range(11),
)  # fmt: skip
def test_an_index_that_is_none_is_refused_before_it_takes_memory(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "index.json").write_bytes(text)
    tracemalloc.start()
    with pytest.raises(FormatError):
        plain.tensors(tmp_path / "index.json")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
