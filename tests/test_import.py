"""Checkpoints of compressed-tensors become packed files bit for bit, by the command too; what is wrong is said.

The files are written here from the layout alone, and what comes back is read without any of our readers.
"""

import json
import os
import subprocess
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import sparse
from typer.testing import CliRunner, Result

import compressor
from compressor.cli import app
from compressor.errors import FormatError, HostError, InputError
from compressor.foreign import import_file
from compressor.packed import unpack_mask
from compressor.unpacked import unpack_file

WIDTH = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F16": 2,
    "BF16": 2,
    "F32": 4,
    "I64": 8,
    "F64": 8,
}
Tensor = tuple[str, tuple[int, ...], bytes]  # dtype, shape, data
CSR = pytest.mark.filterwarnings("ignore:.*(CSR|sparse).*:UserWarning")  # torch says that it is in beta


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def safetensors(tensors: dict[str, Tensor]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, bits) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (len(data), len(data) + len(bits))}
        data += bits
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read(path: Path) -> dict[str, Tensor]:
    data = path.read_bytes()
    at = 8 + int.from_bytes(data[:8], "little")
    return {
        name: (
            one["dtype"],
            tuple(one["shape"]),
            data[at + one["data_offsets"][0] : at + one["data_offsets"][1]],
        )
        for name, one in json.loads(data[8:at]).items()
        if name != "__metadata__"
    }


def parts(stem: str, tensor: Tensor, kept: list[bool] | None = None) -> dict[str, Tensor]:
    """A tensor as sparse-bitmask stores it, element by element; kept: also the zeros among its values."""
    dtype, shape, data = tensor
    width = WIDTH[dtype]
    values = [data[at : at + width] for at in range(0, len(data), width)]
    sign = {1: b"\x80", 2: b"\0\x80", 4: b"\0\0\0\x80", 8: bytes(7) + b"\x80"}[width]
    kept = kept or [value not in (bytes(width), sign) for value in values]
    *rows, columns = shape or (1,)
    bitmask, counts = b"", []
    for begin in range(0, len(values), columns) if columns else ():
        row = kept[begin : begin + columns]
        counts.append(sum(row))
        bitmask += sum(flag << at for at, flag in enumerate(row)).to_bytes((columns + 7) // 8, "little")
    counts = counts or [0] * int(np.prod(rows))
    # cumulative along the first axis only, as the library has it
    table = np.array(counts, np.int64).reshape(rows)
    offsets = np.cumsum(table, 0) - table if rows else np.zeros((), np.int64)
    return {
        f"{stem}.shape": ("I64" if shape else "F32", (len(shape),), np.array(shape, "<i8").tobytes()),
        f"{stem}.compressed": (
            dtype,
            (sum(kept),),
            b"".join(v for v, k in zip(values, kept, strict=True) if k),
        ),
        f"{stem}.bitmask": ("U8", (*rows, (columns + 7) // 8), bitmask),
        f"{stem}.row_offsets": ("I64", tuple(rows), offsets.tobytes()),
    }


def packed(state: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    """A state dict as compressed-tensors packs it."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if layout == "a":
            found |= parts(name, tensor)
        elif name.endswith(".weight"):
            found |= parts(name.removesuffix(".weight"), tensor)
        else:
            found[name] = tensor
    return found


def there_and_back(folder: Path, source: Path | None = None, **options: str) -> dict[str, Tensor]:
    import_file(source or folder / "net.safetensors", folder / "packed", **options)
    unpack_file(folder / "packed", "safetensors", folder / "dense")
    return read(folder / "dense")


def random(dtype: str, shape: tuple[int, ...], seed: int, density: float = 0.4) -> Tensor:
    rng = np.random.default_rng(seed)
    count, width = int(np.prod(shape)), WIDTH[dtype]
    bits = rng.integers(1, 2 if dtype == "BOOL" else 256, (count, width), dtype=np.uint8)
    bits[rng.random(count) > density] = 0
    return dtype, shape, bits.tobytes()


def f32(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


NAN = (0x7FC12345).to_bytes(4, "little")
STATE: dict[str, Tensor] = {
    "fc1.weight": ("F32", (3, 9), f32(1, 0, -1, float("inf"), *[0] * 7) + NAN + f32(1e-45, *[0] * 14)),
    "fc1.bias": ("F32", (3,), f32(0, 2, 3)),
    "fc2.weight": random("F64", (5, 16), 1),
    "conv.weight": random("F32", (4, 3, 3, 5), 2),
    "conv1.weight": random("BF16", (4, 3, 7), 3),
    "norm.weight": random("F16", (11,), 4, 1.0),
    "q.weight": random("F8_E4M3", (6, 10), 5),
    "q.weight_scale": ("F32", (1,), f32(0.5)),
    "empty.weight": ("F32", (3, 8), bytes(96)),
    "none.weight": ("F32", (0, 9), b""),
    "nothing.weight": ("F32", (3, 0), b""),
    "one.weight": random("F8_E5M2", (5, 1), 6),
    "int.weight": random("I64", (3, 5), 7),
    "bn.num_batches_tracked": ("I64", (), (7).to_bytes(8, "little")),
}


@pytest.mark.parametrize("layout", ["a", "b"])
def test_both_layouts_come_back_bit_for_bit(tmp_path: Path, layout: str) -> None:
    (tmp_path / "net.safetensors").write_bytes(safetensors(packed(STATE, layout)))
    assert there_and_back(tmp_path) == STATE
    masks = unpack_mask(tmp_path / "packed")
    expected = set(STATE) if layout == "a" else {name for name in STATE if name.endswith(".weight")}
    assert set(masks) == expected
    assert masks["fc1.weight"].sum() == 5


@given(
    shape=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    dtype=st.sampled_from(["F32", "F64", "BF16", "F16", "F8_E4M3", "I8", "BOOL"]),
    density=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_shape_dtype_and_density_comes_back(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: str, density: float, seed: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("one")
    tensor = random(dtype, tuple(shape), seed, density)
    (tmp_path / "net.safetensors").write_bytes(safetensors(parts("fc", tensor)))
    # what the library takes for zero comes back as +0.0: a -0.0 is not among the values
    assert read_bits(there_and_back(tmp_path)["fc.weight"]) == read_bits(tensor)


def read_bits(tensor: Tensor) -> tuple[str, tuple[int, ...], bytes]:
    dtype, shape, data = tensor
    width = WIDTH[dtype]
    values = np.frombuffer(data, f"<u{width}").copy()
    values[values == 1 << (8 * width - 1)] = 0
    return dtype, shape, values.tobytes()


def test_a_zero_among_the_values_is_a_kept_one(tmp_path: Path) -> None:
    tensor = ("F32", (2, 3), f32(1, 0, -0.0, 0, 0, 2))
    kept = [True, True, True, False, False, True]
    (tmp_path / "net.safetensors").write_bytes(safetensors(parts("fc", tensor, kept)))
    assert there_and_back(tmp_path) == {"fc.weight": tensor}
    assert unpack_mask(tmp_path / "packed")["fc.weight"].flatten().tolist() == kept


def config(version: str | None, section: str = "quantization_config", **more: object) -> str:
    told = {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}, **more}
    return json.dumps({"architectures": ["X"], section: told | ({"version": version} if version else {})})


W = ("F32", (2, 3), f32(1, 0, 0, 0, 0, 2))
B = ("F32", (2,), f32(3, 4))


@pytest.mark.parametrize(
    ("tensors", "beside", "names"),
    [
        # a module that is really called weight, with something that gives it away or a version
        (parts("weight", W) | {"weight.bias": B}, None, {"weight.weight", "weight.bias"}),
        (
            parts("a.weight", W) | parts("b", W) | {"b.bias": B},
            None,
            {"a.weight.weight", "b.weight", "b.bias"},
        ),
        (parts("a.weight", W), None, {"a.weight"}),
        (parts("a.weight", W), config("0.8.1"), {"a.weight"}),
        (parts("a.weight", W), config("0.9.0"), {"a.weight.weight"}),
        (parts("a.weight", W), config("0.14.0.1"), {"a.weight.weight"}),
        (parts("a.weight", W), config("0.10.2.dev3+g12"), {"a.weight.weight"}),
        (parts("a.weight", W), config("1.0"), {"a.weight.weight"}),
        (parts("a.weight", W), config(None, "compression_config"), {"a.weight"}),
        (parts("a.weight", W), config("0.9.0", quant_method="gptq"), {"a.weight"}),
        (parts("a.weight", W), "{}", {"a.weight"}),
        (parts("fc", W) | parts("head", W), config("0.3.0"), {"fc", "head"}),
        (parts("fc", W) | parts("head", W), None, {"fc.weight", "head.weight"}),
        (parts("q.weight", W) | parts("q.weight_scale", B), None, {"q.weight", "q.weight_scale"}),
        (parts("n.weight", B) | parts("n.running_mean", B), None, {"n.weight", "n.running_mean"}),
        (
            parts("f.weight", W) | parts("f.bias", B) | parts("token", B),
            None,
            {"f.weight", "f.bias", "token"},
        ),
        ({"weight": W, "bias": B}, config("0.9.0"), {"weight", "bias"}),
        (parts("shape", W) | parts("m.bitmask", W), None, {"shape.weight", "m.bitmask.weight"}),
    ],
)
def test_the_names_follow_from_the_version_or_from_each_other(
    tmp_path: Path, tensors: dict[str, Tensor], beside: str | None, names: set[str]
) -> None:
    (tmp_path / "net.safetensors").write_bytes(safetensors(tensors))
    if beside is not None:
        (tmp_path / "config.json").write_text(beside)
    assert set(there_and_back(tmp_path)) == names


@pytest.mark.parametrize(
    "tensors",
    [parts("weight", W) | parts("fc", W), parts("a.weight", W) | {"a.scale": B}],
    ids=["another module", "dense"],
)
def test_where_both_readings_are_possible_the_layout_is_asked_for(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    path, out = tmp_path / "net.safetensors", tmp_path / "packed"
    path.write_bytes(safetensors(tensors))
    refused = call("import", path, "--out", out)
    assert refused.exit_code == 3
    assert "say --layout a or --layout b" in refused.stderr
    assert not out.exists()
    for layout, name in (("a", "weight"), ("b", "weight.weight")):
        assert call("import", path, "--layout", layout, "--out", out).exit_code == 0
        assert any(found.endswith(name) for found in compressor.unpack(out))


def test_the_parts_of_a_tensor_may_lie_in_several_shards(tmp_path: Path) -> None:
    tensors = packed(STATE, "b")
    places = {name: f"{at % 3}.safetensors" for at, name in enumerate(tensors)}
    for file in set(places.values()):
        mine = {name: one for name, one in tensors.items() if places[name] == file}
        (tmp_path / file).write_bytes(safetensors(mine))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (tmp_path / "config.json").write_text(config("0.9.4"))
    assert there_and_back(tmp_path, index) == STATE
    assert there_and_back(tmp_path, tmp_path) == STATE
    refused = call("import", tmp_path, "--out", tmp_path / "0.safetensors")
    assert refused.exit_code == 3
    assert "is the file that is read" in refused.stderr


def without(part: str) -> dict[str, Tensor]:
    return {name: one for name, one in parts("fc", W).items() if not name.endswith(part)}


def changed(part: str, tensor: Tensor) -> dict[str, Tensor]:
    return parts("fc", W) | {f"fc.{part}": tensor}


def i64(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


WRONG: dict[str, tuple[dict[str, Tensor], str]] = {
    "no shape": (without("shape"), "no shape; all four parts are needed"),
    "no values": (without("compressed"), "no compressed; all four"),
    "no row_offsets": (without("row_offsets"), "no row_offsets; all four"),
    "left-over part": (parts("fc", W) | {"other.shape": ("I64", (1,), i64(1))}, '"other" has a shape and no'),
    "dense twin": (parts("fc", W) | {"fc.weight": W}, '"fc.weight" twice, packed and dense'),
    "2:4 sister": (changed("shape", ("I64", (2, 1), i64(2, 3))), r"shape part of I64 \[2, 1\]; I64 \[rank\]"),
    "shape of I32": (changed("shape", ("I32", (2,), i64(2))), "shape part of I32"),
    "shape of F32": (changed("shape", ("F32", (2,), f32(2, 3))), "shape part of F32"),
    "rank 33": (changed("shape", ("I64", (33,), i64(*[1] * 33))), "shape part of I64"),
    "negative": (changed("shape", ("I64", (2,), i64(-2, -3))), r"shape \[-2, -3\], which cannot be"),
    "product wraps": (changed("shape", ("I64", (2,), i64(1 << 62, 4))), "which cannot be"),
    "2^40": (changed("shape", ("I64", (2,), i64(1 << 20, 1 << 20))), "bitmask of U8"),
    "too many rows": (
        changed("shape", ("I64", (2,), i64(3, 3))),
        r"bitmask of U8 \[2, 1\]; its shape \[3, 3\]",
    ),
    "too many columns": (changed("shape", ("I64", (2,), i64(2, 9))), r"wants U8 \[2, 2\]"),
    "bitmask of I8": (changed("bitmask", ("I8", (2, 1), b"\1\4")), "bitmask of I8"),
    "bitmask flat": (changed("bitmask", ("U8", (2,), b"\1\4")), r"bitmask of U8 \[2\]"),
    "values not flat": (changed("compressed", ("F32", (1, 2), f32(1, 2))), r"values of shape \[1, 2\]"),
    "too many values": (changed("compressed", ("F32", (7,), f32(*range(7)))), r"values of shape \[7\]"),
    "one value more": (changed("compressed", ("F32", (3,), f32(1, 2, 3))), "3 values, its bitmask 2 places"),
    "one value less": (changed("compressed", ("F32", (1,), f32(1))), "1 values, its bitmask 2 places"),
    "padding bits": (
        changed("bitmask", ("U8", (2, 1), b"\x81\4")),
        "padding bits in its bitmask that are not 0",
    ),
    "offsets of I32": (changed("row_offsets", ("I32", (2,), i64(0))), "row_offsets of I32"),
    "offsets of another shape": (
        changed("row_offsets", ("I64", (3,), i64(0, 1, 2))),
        r"row_offsets of I64 \[3\]",
    ),
    "wrong offsets": (changed("row_offsets", ("I64", (2,), i64(0, 2))), "row_offsets that do not fit"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_damaged_bitmask_is_refused_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    tensors, reason = WRONG[name]
    (tmp_path / "net.safetensors").write_bytes(safetensors(tensors))
    with pytest.raises(FormatError, match=reason):
        import_file(tmp_path / "net.safetensors", tmp_path / "packed")
    assert os.listdir(tmp_path) == ["net.safetensors"]


def test_names_of_many_dots_take_no_more_memory_than_the_file_allows(tmp_path: Path) -> None:
    nothing = ("F32", (0,), b"")
    long = {f"{at:04}" + ".a" * 505: nothing for at in range(500)}
    (tmp_path / "net.safetensors").write_bytes(safetensors(parts("m.weight", W) | long))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="say --layout a or --layout b"):
            import_file(tmp_path / "net.safetensors", tmp_path / "packed")
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("beside", "taken"),
    [
        (None, False),
        ("{}", False),
        (config("0.9.0", quant_method="gptq"), False),
        (config("0.9.0"), True),
        (config(None, "compression_config"), True),
        ('{"sparsity_config": {"format": "sparse-bitmask"}}', True),
    ],
)
def test_a_wholly_dense_file_is_taken_only_beside_a_config_of_compressed_tensors(
    tmp_path: Path, beside: str | None, taken: bool
) -> None:
    path = tmp_path / "net.safetensors"
    path.write_bytes(safetensors({"weight": W, "bias": B}))
    if beside is not None:
        (tmp_path / "config.json").write_text(beside)
    if taken:
        assert there_and_back(tmp_path) == {"weight": W, "bias": B}
    else:
        with pytest.raises(InputError, match=f"compressor pack {path} --mask-from-zeros takes it"):
            import_file(path, tmp_path / "packed")
        assert not (tmp_path / "packed").exists()


def test_a_path_with_a_nul_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(safetensors(parts("fc", W)))
    with pytest.raises(InputError, match="cannot be read"):
        import_file("a\0b", tmp_path / "packed")
    with pytest.raises(HostError, match="cannot be written"):
        import_file(tmp_path / "net.safetensors", tmp_path / "a\0b")


@pytest.mark.parametrize("version", ["0.8.1", "0.9.4"])
@pytest.mark.parametrize("kind", ["sparse-24-bitmask", "marlin-24"])
def test_another_format_of_the_library_is_named(tmp_path: Path, version: str, kind: str) -> None:
    (tmp_path / "net.safetensors").write_bytes(safetensors(parts("fc", W)))
    (tmp_path / "config.json").write_text(config(version, sparsity_config={"format": kind}))
    with pytest.raises(InputError, match=f"'{kind}'; only sparse-bitmask is read"):
        import_file(tmp_path / "net.safetensors", tmp_path / "packed")


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "\xff", " " * (2 << 20)])
def test_a_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "net.safetensors").write_bytes(safetensors(parts("fc", W)))
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match=r"config\.json: is no JSON"):
        import_file(tmp_path / "net.safetensors", tmp_path / "packed")


@CSR
@pytest.mark.parametrize("to", ["npz-csr", "torch-csr"])
def test_what_unpack_writes_is_imported_to_the_same_file(tmp_path: Path, to: str) -> None:
    state = {name: one for name, one in STATE.items() if one[0] not in ("BF16", "F8_E4M3", "F8_E5M2")}
    (tmp_path / "net.safetensors").write_bytes(safetensors(packed(state, "b")))
    import_file(tmp_path / "net.safetensors", tmp_path / "packed")
    for out in ("one", "two"):
        unpack_file(tmp_path / "packed", to, tmp_path / out)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    import_file(tmp_path / "one", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "packed").read_bytes()


@CSR
def test_a_lone_tensor_is_called_weight_unless_it_is_given_a_name(tmp_path: Path) -> None:
    weight = torch.eye(3)
    torch.save(weight.to_sparse_csr(), tmp_path / "one.pt")
    sparse.save_npz(tmp_path / "one.npz", sparse.csr_matrix(weight.numpy()))
    for file in ("one.pt", "one.npz"):
        for options, name in (((), "weight"), (("--name", "fc.weight"), "fc.weight")):
            assert call("import", tmp_path / file, *options, "--out", tmp_path / "packed").exit_code == 0
            assert compressor.unpack(tmp_path / "packed")[name].tolist() == weight.tolist()
    torch.save({"w": weight.to_sparse()}, tmp_path / "named.pt")
    (tmp_path / "net.safetensors").write_bytes(safetensors(parts("fc", W)))
    for file in ("named.pt", "net.safetensors"):
        refused = call("import", tmp_path / file, "--name", "x", "--out", tmp_path / "out")
        assert refused.exit_code == 3
        assert "its tensors have names; leave out --name" in refused.stderr
    refused = call("import", tmp_path / "named.pt", "--layout", "a", "--out", tmp_path / "out")
    assert "is not of compressed-tensors; leave out --layout" in refused.stderr


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; safetensors, npz and torch checkpoints are imported"),
        (b"\x08\x0a" + bytes(20), "is an ONNX file"),
        (b"a text about a network", "is something else"),
        (b"\x80\x02garbage", "neither safetensors nor a torch checkpoint, or damaged"),
        (b"PK\3\4" + bytes(60), "damaged, not whole as a torch checkpoint"),
        (b"\xff" * 8 + b"{", "is not a safetensors file"),
    ],
)
def test_what_is_none_of_them_is_exit_3_in_one_sentence(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "net").write_bytes(content)
    refused = call("import", tmp_path / "net", "--out", tmp_path / "out")
    assert refused.exit_code == 3
    assert refused.stderr.startswith(f"compressor: {tmp_path / 'net'}: ")
    assert reason in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["net"]


def test_the_command_says_what_it_wrote_and_never_overwrites_what_it_reads(tmp_path: Path) -> None:
    path, out = tmp_path / "net.safetensors", tmp_path / "packed"
    path.write_bytes(safetensors(packed(STATE, "b")))
    (tmp_path / "folder").mkdir()
    result = call("import", path, "--out", out)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == f"next: compressor show {out}"
    assert json.loads(call("import", path, "--out", out, "--json").stdout)["file"] == out.stat().st_size
    for source, target, code, reason in (
        (path, path, 3, "is the file that is read"),
        (out, tmp_path / "x", 3, "is a packed file already"),
        (path, tmp_path, 4, "it is a folder"),
        (path, tmp_path / "absent/x", 4, "cannot be written"),
        (tmp_path / "absent", out, 3, "cannot be read"),
        (tmp_path / "folder", out, 3, "holds neither model.safetensors nor"),
    ):
        refused = call("import", source, "--out", target)
        assert (refused.exit_code, reason in refused.stderr) == (code, True), refused.stderr
    with pytest.raises(InputError, match='unknown layout "c"'):
        import_file(path, out, layout="c")


def test_hostile_tensors_never_cost_more_than_an_error(tmp_path: Path) -> None:
    """Every truncation and a flipped bit in every byte of a checkpoint: an error of ours, or a packed file."""
    whole = safetensors(parts("fc", W))
    for at in range(2 * len(whole)):
        data = bytearray(whole)
        if at < len(whole):
            data[at] ^= 1 << at % 8
        else:
            del data[at - len(whole) :]
        (tmp_path / "net.safetensors").write_bytes(data)
        with suppress(FormatError, InputError):
            import_file(tmp_path / "net.safetensors", tmp_path / "packed")


def torchless(*arguments: object) -> subprocess.CompletedProcess[str]:
    code = "import sys\nsys.modules['torch'] = None\nfrom compressor.cli import app\napp()"
    words = [str(argument) for argument in arguments]
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


def test_safetensors_are_imported_packed_and_unpacked_without_torch(tmp_path: Path) -> None:
    (tmp_path / "net.safetensors").write_bytes(safetensors(packed(STATE, "a")))
    sparse.save_npz(tmp_path / "m.npz", sparse.eye(3, format="csr"))
    weight = torch.eye(3)
    save_file({"module.w": weight, "module.b": -torch.zeros(3)}, tmp_path / "dense")
    save_file({"w": weight != 0}, tmp_path / "mask")
    for words in (
        ("import", tmp_path / "net.safetensors"),
        ("import", tmp_path / "m.npz"),
        ("pack", tmp_path / "dense", "--mask-from-zeros"),
        ("pack", tmp_path / "dense", "--mask", tmp_path / "mask"),
    ):
        result = torchless(*words, "--out", tmp_path / "packed")
        assert result.returncode == 0, result.stderr
        result = torchless("unpack", tmp_path / "packed", "--to", "safetensors", "--out", tmp_path / "out")
        assert result.returncode == 0, result.stderr
    assert set(read(tmp_path / "out")) == {"w", "b"}
