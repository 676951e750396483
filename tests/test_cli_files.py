"""The command line and the files of an ordinary, careless machine: long names, full disks, folders, signals."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import compressor
from compressor.cli import app

COMMAND = [str(Path(sys.executable).parent / "compressor")]
SHARED = {"a.weight": torch.eye(4), "b.weight": torch.ones(2, 2)}


def call(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def told(result, code: int) -> str:
    """The one sentence of an error."""
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    return line


@pytest.fixture
def packed(tmp_path):
    path = tmp_path / "packed.safetensors"
    compressor.pack(
        {name: one.clone() for name, one in SHARED.items()}, path, mask=compressor.find_mask(SHARED)
    )
    return path


def test_the_index_of_a_folder_is_never_written_over(tmp_path):
    save_file(SHARED, tmp_path / "model-1.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a.weight": "model-1.safetensors", "b.weight": "model-1.safetensors"}}')
    before = index.read_bytes()
    for given in (tmp_path, index):
        line = told(call("pack", given, "--mask-from-zeros", "--out", index), 3)
        assert line.endswith("is the file that is read; give another --out")
        assert index.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("pack", "LONG", "--mask-from-zeros", "--out", "x"), 3),
        (("pack", "FILE", "--mask", "LONG", "--out", "x"), 3),
        (("pack", "FILE", "--mask-from-zeros", "--out", "LONG"), 4),
        (("unpack", "LONG", "--to", "safetensors", "--out", "x"), 3),
        (("unpack", "FILE", "--to", "safetensors", "--out", "LONG"), 4),
        (("import", "LONG", "--out", "x"), 3),
        (("import", "LONG.json", "--out", "x"), 3),
        (("show", "LONG"), 3),
    ],
)
def test_a_name_that_no_file_can_have_is_one_sentence(tmp_path, packed, monkeypatch, words, code):
    monkeypatch.chdir(tmp_path)
    places = {"LONG": "x" * 300, "LONG.json": "x" * 300 + ".json", "FILE": packed}
    assert "File name too long" in told(call(*(places.get(word, word) for word in words)), code)


def test_a_file_may_have_the_longest_name_that_the_system_allows(tmp_path, packed):
    out = tmp_path / ("x" * 255)
    assert call("unpack", packed, "--to", "safetensors", "--out", out).exit_code == 0
    assert torch.equal(load_file(out)["a.weight"], torch.eye(4))


@pytest.mark.parametrize("to", ["safetensors", "npz-csr", "torch-csr"])
def test_a_full_disk_is_exit_4_and_leaves_nothing(tmp_path, to):
    """A limit on the size of files stands for the disk."""
    compressor.pack({"w": torch.randn(300, 300)}, tmp_path / "packed")
    (tmp_path / "out").mkdir()
    limit = (100_000, 100_000)
    result = subprocess.run(
        [*COMMAND, "unpack", str(tmp_path / "packed"), "--to", to, "--out", str(tmp_path / "out" / "x")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert result.returncode == 4
    (line,) = result.stderr.splitlines()
    assert "cannot be written" in line
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "words", [["reader"], ["show", "FILE"], ["methods"], ["--version"], ["--help"], ["show", "--help"]]
)
def test_an_output_that_cannot_be_written_is_exit_4_and_one_sentence(packed, words):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*COMMAND, *(str(packed) if word == "FILE" else word for word in words)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert result.returncode == 4
    assert result.stderr == "compressor: the output cannot be written (No space left on device)\n"


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the output")
def test_a_closed_output_changes_nothing_but_what_is_seen(packed):
    words = " ".join([*COMMAND, "show", str(packed)])
    result = subprocess.run(["sh", "-c", f"{words} >&-"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_a_polite_kill_leaves_nothing_half_written(tmp_path):
    save_file({f"{at}.weight": torch.randn(1500, 1500) for at in range(8)}, tmp_path / "net.safetensors")
    compressor.pack(load_file(tmp_path / "net.safetensors"), tmp_path / "packed", format="dense")
    out = tmp_path / "out"
    out.mkdir()
    process = subprocess.Popen(
        [*COMMAND, "unpack", str(tmp_path / "packed"), "--to", "npz-csr", "--out", str(out / "x")],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(out.iterdir()):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was faster than the signal")
    assert process.returncode == 130
    assert errors == "compressor: interrupted\n"
    assert not list(out.iterdir())


def test_scales_that_have_no_zero_stay_dense(tmp_path):
    scales = torch.full((3, 4), 127, dtype=torch.uint8).view(torch.float8_e8m0fnu)
    torch.save({"w.weight": torch.eye(3), "w.scales": scales}, tmp_path / "net.pt")
    result = call("pack", tmp_path / "net.pt", "--mask-from-zeros", "--out", tmp_path / "packed")
    assert result.exit_code == 0, result.output
    assert "left dense (not masked): w.scales" in result.stdout


def test_a_prefix_that_is_left_out_is_told(tmp_path, caplog):
    state = {f"module.{name}": one for name, one in SHARED.items()}
    save_file(state, tmp_path / "net.safetensors")
    torch.save(state, tmp_path / "net.pt")
    for name in ("net.safetensors", "net.pt"):
        caplog.clear()
        assert call("pack", tmp_path / name, "--mask-from-zeros", "--out", tmp_path / "packed").exit_code == 0
        assert "all names begin with module., which is left out" in caplog.messages
        assert list(compressor.unpack(tmp_path / "packed")) == list(SHARED)


def test_what_a_terminal_would_obey_is_shown_as_text(tmp_path):
    name = "w\x9b31m\u202e[red]"
    torch.save({name: torch.eye(3)}, tmp_path / "net.pt")
    packing = call("pack", tmp_path / "net.pt", "--mask-from-zeros", "--out", tmp_path / "packed")
    shown = call("show", tmp_path / "packed")
    refused = call("unpack", tmp_path / "packed", "--to", "npz-csr", "--out", tmp_path / "packed")
    assert r"w\x9b31m\u202e[red]" in shown.stdout
    for text in (packing.output, shown.output, refused.output):
        assert "\x9b" not in text
        assert "\u202e" not in text
    assert list(compressor.unpack(tmp_path / "packed")) == [name]


def test_a_reason_is_told_once_for_all_its_tensors(tmp_path):
    state = {f"{at}.bias": torch.ones(3) for at in range(40)} | {"w": torch.eye(3)}
    save_file(state, tmp_path / "net.safetensors")
    result = call("pack", tmp_path / "net.safetensors", "--mask-from-zeros", "--out", tmp_path / "packed")
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("left dense")]
    assert line.endswith("and 35 more")


def test_causal_masks_of_buffers_take_less_than_zstd_makes_of_them(tmp_path):
    zstd = pytest.importorskip("zstandard")
    state = {f"h.{at}.attn.bias": torch.tril(torch.ones(1, 1, 256, 256, dtype=torch.bool)) for at in range(2)}
    state["w.weight"] = torch.randn(256, 256) * (torch.rand(256, 256) < 0.1)
    save_file(state, tmp_path / "net.safetensors")
    dense = (tmp_path / "net.safetensors").read_bytes()
    sizes = compressor.pack(load_file(tmp_path / "net.safetensors"), tmp_path / "packed")
    assert sum(one.bytes for one in sizes.tensors if "attn" in one.name) < 3000
    assert sizes.file < len(zstd.ZstdCompressor(19).compress(dense))
    found = compressor.unpack(tmp_path / "packed")
    assert all(np.array_equal(found[name].numpy(), one.numpy()) for name, one in state.items())
    assert os.path.getsize(tmp_path / "packed") == sizes.file
