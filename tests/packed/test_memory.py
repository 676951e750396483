"""Giants are packed and unpacked in at most three times their own memory, whatever is in them."""

import numpy as np
import pytest
from memory import peak

from compressor import plain
from compressor.foreign.dense import pack_plain
from compressor.packed import reader
from compressor.unpacked import unpack_file

ROWS, COLUMNS = 4352, 4096  # more than the models take
BLOCKS = 48 << 20  # bytes; for what is in memory of a tensor of any size


@pytest.mark.parametrize(
    ("dtype", "density", "packing"),
    [
        ("F8_E4M3", 0.05, {}),
        ("F8_E4M3", 0.5, {}),
        ("BF16", 0.19, {}),
        ("BF16", 0.19, {"format": "csr"}),
        ("F16", 0.7, {"values": "levels"}),
        ("F32", 0.3, {"values": "int8"}),
        ("F32", 0.3, {"values": "bfloat16"}),
    ],
)
def test_two_giants_take_three_times_the_memory_of_one(tmp_path, dtype, density, packing):
    generator = np.random.default_rng(0)
    size = np.dtype(reader.DTYPES[dtype]).itemsize
    bits = np.zeros(ROWS * COLUMNS, f"<u{size}")
    for row in range(0, len(bits), COLUMNS):
        part = generator.standard_normal(COLUMNS, np.float32)
        made = (
            part.view("<u4") >> 8 * (4 - size) | 1
            if packing.get("values") != "levels"
            else (part > 0) + 15360
        )
        bits[row : row + COLUMNS] = np.where(generator.random(COLUMNS) < density, made, 0)
    names = ("a.weight", "b.weight")
    plain.write(
        tmp_path / "in", dict.fromkeys(names, (dtype, (ROWS, COLUMNS))), [(name, bits) for name in names]
    )
    options = {"compare": False} | {key: value for key, value in packing.items() if value != "levels"}
    most = 3 * bits.nbytes + BLOCKS
    del bits
    assert peak(lambda: pack_plain(tmp_path / "in", tmp_path / "packed", options, from_zeros=True)) < most
    assert peak(lambda: unpack_file(tmp_path / "packed", "safetensors", tmp_path / "out")) < most
    if "values" not in options:
        assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
