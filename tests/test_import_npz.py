"""CSR in npz files: scipy's come back bit for bit, hostile ones are refused before they take memory."""

import os
import re
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

import compressor
from compressor.errors import FormatError, InputError
from compressor.foreign import import_file
from compressor.packed import unpack_mask
from compressor.unpacked import unpack_file


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(
    "matrix",
    [
        sparse.random(50, 60, 0.1, format="csr", dtype=np.float32, random_state=0),
        sparse.csr_matrix(np.array([[0, np.nan], [np.inf, 0]])),
        sparse.csr_array(np.arange(6).reshape(2, 3).astype(np.complex64)),
        sparse.csr_array(np.arange(6).reshape(2, 3) > 3),
        sparse.csr_array(np.array([0, 1.0, 0, 2])),
        sparse.csr_matrix((3, 4), dtype=np.int8),
        sparse.csr_matrix((np.array([0.0, 2.0]), np.array([1, 0]), np.array([0, 1, 2])), (2, 2)),
    ],
    ids=str,
)
def test_a_matrix_of_scipy_comes_back(tmp_path: Path, matrix: Any, compressed: bool) -> None:
    sparse.save_npz(tmp_path / "m.npz", matrix, compressed=compressed)
    import_file(tmp_path / "m.npz", tmp_path / "packed")
    found = compressor.unpack(tmp_path / "packed")["weight"].numpy()
    assert np.array_equal(found, matrix.toarray(), equal_nan=found.dtype.kind == "f")
    assert unpack_mask(tmp_path / "packed")["weight"].sum() == matrix.nnz


def npz(**arrays: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def csr(**change: Any) -> bytes:
    honest = {
        "format": np.array(b"csr"),
        "shape": np.array([2, 3]),
        "data": np.array([1.0, 2.0], "f4"),
        "indices": np.array([0, 2], "i4"),
        "indptr": np.array([0, 1, 2], "i4"),
    }
    return npz(**{name: np.asarray(one) for name, one in {**honest, **change}.items() if one is not None})


def zipped(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED, count: int = 1) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for at in range(count):
            archive.writestr(name.replace("#", str(at)), content)
    return buffer.getvalue()


def npy(header: bytes, version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header


def described(descr: str, shape: str) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode())


NPZ: dict[str, tuple[Callable[[], bytes], str]] = {
    "indptr does not begin at 0": (lambda: csr(indptr=[1, 1, 2]), "row starts that do not rise from 0"),
    "indptr falls": (lambda: csr(indptr=[0, 2, 1, 2], shape=[3, 3]), "row starts that do not rise"),
    "indptr ends elsewhere": (lambda: csr(indptr=[0, 1, 1]), "row starts that do not rise"),
    "indptr wraps": (lambda: csr(indptr=np.array([0, 1 << 62, -(1 << 63), 2]), shape=[3, 3]), "row starts"),
    "indptr of another length": (lambda: csr(indptr=[0, 2]), r"has data \[2\], indices \[2\], indptr \[2\]"),
    "indptr of floats": (lambda: csr(indptr=[0.0, 1.0, 2.0]), "row starts of float64"),
    "indptr of two dimensions": (lambda: csr(indptr=[[0, 1, 2]]), r"indptr \[1, 3\]"),
    "column past the end": (lambda: csr(indices=[0, 3]), "a column outside of 0 to 2"),
    "column negative": (lambda: csr(indices=[0, -1]), "a column outside of 0 to 2"),
    "column 2^63": (lambda: csr(indices=np.array([0, 1 << 63], "u8")), "a column outside"),
    "column repeated": (lambda: csr(indices=[1, 1], indptr=[0, 2, 2]), "two values at one place"),
    "columns descend": (lambda: csr(indices=[2, 0], indptr=[0, 2, 2]), "its places in no order"),
    "columns of another count": (lambda: csr(indices=[0]), r"has data \[2\], indices \[1\]"),
    "shape negative": (lambda: csr(shape=[-2, -3]), r"claims the shape \[-2, -3\]"),
    "shape wraps": (lambda: csr(shape=[1 << 62, 4]), "too much for this file"),
    "shape 2^31 x 1": (lambda: csr(shape=[1 << 31, 1]), "too much for this file"),
    "shape of floats": (lambda: csr(shape=[2.0, 3.0]), "a shape that is no list of sizes"),
    "shape of rank 40": (lambda: csr(shape=[1] * 40), "a shape that is no list of sizes"),
    "no indices": (lambda: csr(indices=None), "has no indices; CSR needs"),
    "pickled": (lambda: csr(data=np.array([{}, {}], object)), "holds Python objects"),
    "a record": (lambda: csr(data=np.zeros(2, [("a", "f4")])), "no plain array"),
    "no npy": (lambda: zipped("a.npy", b"something else"), "no plain array"),
    "another member": (lambda: append(csr(), "x.txt"), "which is no array"),
    "member twice": (lambda: append(csr(), "data.npy"), 'two arrays of the name "data"'),
    "shorter than its shape": (lambda: zipped("a.npy", described("'<f4'", "(2,)") + bytes(4)), "not as long as"),
    "longer than its shape": (lambda: zipped("a.npy", described("'<f4'", "(2,)") + bytes(9)), "not as long as"),
    "negative length": (lambda: zipped("a.npy", described("'<f4'", "(-2,)")), "no plain array"),
    "2^62 x 4": (lambda: zipped("a.npy", described("'<f4'", f"({1 << 62}, 4)")), "not as long as its shape"),
    "version 9": (lambda: zipped("a.npy", npy(b"{}", b"\x09\0")), "no plain array"),
    "header is a call": (lambda: zipped("a.npy", npy(b"__import__('os')")), "no plain array"),
    "header is a set": (lambda: zipped("a.npy", npy(b"{[]: 1}")), "no plain array"),
    "header nests": (lambda: zipped("a.npy", npy(b"(" * 9000)), "no plain array"),
    "descr is an empty tuple": (lambda: zipped("a.npy", described("()", "(2,)")), "no plain array"),
    "bomb": (lambda: csr(data=np.zeros(600 << 17)), "2 rows and 3 columns has data"),
    "bomb of another array": (lambda: csr(more=np.zeros(17 << 17)), 'holds "more" beside its matrix'),
    "bomb that lies": (lambda: lying(csr(data=np.zeros(200 << 17))), "damaged|not as long"),
    "bzip2": (lambda: zipped("a.npy", bytes(100), zipfile.ZIP_BZIP2), "compressed in a way numpy does not write"),
    "600,000 arrays": (lambda: listing(600_000), "lists more arrays"),
    "tail": (lambda: csr() + b"x", "something behind its end"),
    "cut": (lambda: csr()[:-1], "something behind its end"),
    "wrong CRC": (lambda: flipped(csr()), "damaged"),
}  # fmt: skip


def append(data: bytes, name: str) -> bytes:
    buffer = BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile finds a second array of a name odd, too
        archive.writestr(name, described("'<f4'", "(0,)"))
    return buffer.getvalue()


def lying(data: bytes) -> bytes:
    """The size that the list gives for `data`, 200 MiB, replaced by one that its header fits."""
    return data.replace((200 << 20 | 128).to_bytes(4, "little"), (136).to_bytes(4, "little"))


def listing(count: int) -> bytes:
    one = b"PK\1\2" + bytes(24) + (1).to_bytes(2, "little") + bytes(16) + b"a"
    end = (
        b"PK\5\6"
        + bytes(4)
        + b"\xff\xff" * 2
        + (len(one) * count).to_bytes(4, "little")
        + bytes(4)
        + bytes(2)
    )
    return zipped("a.npy", b"x")[:40] + one * count + end


def flipped(data: bytes) -> bytes:
    """The CRC-32 that the list gives for the first array, wrong in a bit."""
    at = data.index(b"PK\1\2") + 16
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("name", NPZ)
def test_a_hostile_npz_is_refused_before_it_takes_memory(tmp_path: Path, name: str) -> None:
    make, reason = NPZ[name]
    (tmp_path / "m.npz").write_bytes(make())
    tracemalloc.start()
    try:
        with pytest.raises((FormatError, InputError), match=reason) as refused:
            import_file(tmp_path / "m.npz", tmp_path / "packed")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert str(refused.value).startswith(f"{tmp_path / 'm.npz'}: ")
    assert os.listdir(tmp_path) == ["m.npz"]


@pytest.mark.parametrize("kind", ["coo", "csc", "dia", "bsr"])
def test_another_scipy_format_is_named(tmp_path: Path, kind: str) -> None:
    sparse.save_npz(tmp_path / "m.npz", sparse.eye(4, format=kind))
    with pytest.raises(InputError, match=f"of format '{kind}'; save it as CSR"):
        import_file(tmp_path / "m.npz", tmp_path / "packed")


def test_arrays_without_a_matrix_and_dtypes_without_a_name_are_refused(tmp_path: Path) -> None:
    for data, reason in (
        (npz(x=np.zeros(3)), "holds no CSR matrix"),
        (csr(data=np.array([1, 2], "c16")), '"data" is complex128; packed are'),
        (npz(**{"w.data": np.zeros(1)}), "holds no CSR matrix"),
    ):
        (tmp_path / "m.npz").write_bytes(data)
        with pytest.raises(InputError, match=reason):
            import_file(tmp_path / "m.npz", tmp_path / "packed")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("a", "a.data"), 'both have the array "a.data"; unpack --to safetensors'),
        (("../a", "b"), '"../a" is a path out of an npz; unpack --to safetensors'),
        (("a/../../b", "c"), "is a path out of an npz"),
        (("/a", "b"), "is a path out of an npz"),
        (("a", "C:a"), "is a path out of an npz"),
        (("a", "..\\a"), "is a path out of an npz"),
    ],
)
def test_names_that_a_zip_cannot_take_are_refused_and_nothing_is_written(
    tmp_path: Path, names: tuple[str, str], reason: str
) -> None:
    state = {names[0]: torch.eye(3), names[1]: torch.ones(2)}
    compressor.pack(state, tmp_path / "packed", mask=compressor.find_mask(state))
    with pytest.raises(InputError, match=re.escape(reason)):
        unpack_file(tmp_path / "packed", "npz-csr", tmp_path / "out")
    assert os.listdir(tmp_path) == ["packed"]


def test_names_with_dots_and_slashes_inside_are_no_paths_out(tmp_path: Path) -> None:
    state = {"a..b/c": torch.eye(3), "..d": torch.ones(2), "..": torch.ones(1), "a..b/c.d": torch.ones(2)}
    compressor.pack(state, tmp_path / "packed", mask=compressor.find_mask(state))
    unpack_file(tmp_path / "packed", "npz-csr", tmp_path / "out")
    import_file(tmp_path / "out", tmp_path / "again")
    assert set(compressor.unpack(tmp_path / "again")) == set(state)
