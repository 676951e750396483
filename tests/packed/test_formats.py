"""What the formats weigh: worked numbers, the choice of auto, and what sizes() says beside them."""

import gzip
import math
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import lenet

from compressor.packed import container, csr, pack, positions, reader
from compressor.packed.item import make
from compressor.packed.reader import DTYPES, POSITIONS, ROLES, VALUES, Entry
from compressor.packed.sizing import FORMATS

LAYERS = (235_200, 30_000, 1_000)
ASNI = {  # papers/asni.md 8: kept weights per layer at these densities
    0.10: (17_806, 8_148, 666),
    0.05: (7_479, 5_222, 609),
    0.02: (2_154, 2_646, 524),
    0.01: (762, 1_444, 456),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize(
    ("density", "total"), [(0.10, 38_267), (0.05, 36_603), (0.02, 35_605), (0.01, 35_272)]
)
def test_e11_a_raw_mask_with_signs_levels_and_biases(density, total):
    entries = [
        Entry(f"{layer}", "sparse", "F32", (n,), kept, "bitmask", "levels")
        for layer, (n, kept) in enumerate(zip(LAYERS, ASNI[density], strict=True))
    ]
    signs = [math.ceil(kept / 8) for kept in ASNI[density]]
    biases = 410 * 4
    found = sum(entry.section for entry in entries) + biases
    # The sheet rounds the signs of the whole network up to a byte, the file those of each layer.
    assert found - total == sum(signs) - math.ceil(sum(ASNI[density]) / 8)


def test_e11_the_bound_is_the_sheets_ideal_per_layer(path):
    state, mask = lenet(ASNI[0.05], two_level=True)
    masks = [n * entropy(kept / n) for n, kept in zip(LAYERS, ASNI[0.05], strict=True)]
    expected = (sum(masks) + sum(ASNI[0.05])) / 8 + 24 + 1_640
    assert pack(state, path, mask=mask).bound == math.ceil(expected)


def entropy(density: float) -> float:
    return -density * math.log2(density) - (1 - density) * math.log2(1 - density)


@pytest.mark.parametrize("density", ASNI)
@pytest.mark.parametrize("two_level", [True, False])
def test_auto_is_never_larger_than_any_format_and_takes_the_smallest(path, density, two_level):
    state, mask = lenet(ASNI[density], two_level=two_level)
    weighed = pack(state, path, mask=mask)
    assert weighed.file == path.stat().st_size == min(weighed.formats.values())
    assert set(weighed.formats) == {"dense", "csr", "bitmask", "asni2" if two_level else "entropy"}
    for form, expected in weighed.formats.items():
        assert pack(state, path, mask=mask, format=form).file == expected == path.stat().st_size


@pytest.mark.parametrize("density", ASNI)
def test_random_masks_and_signs_take_half_a_percent_more_than_their_entropy_at_most(path, density):
    state, mask = lenet(ASNI[density], two_level=True)
    pack(state, path, mask=mask)
    masks = sum(entry.section - 8 for entry in reader.head(path).entries if entry.role == "sparse")
    bound = sum(n * entropy(kept / n) + kept for n, kept in zip(LAYERS, ASNI[density], strict=True)) / 8
    assert masks <= bound * (1.005 if sum(ASNI[density]) > 10_000 else 1.02)


@pytest.mark.parametrize("density", ASNI)
def test_float32_values_take_less_than_their_own_bytes_by_an_eighth(path, density):
    state, mask = lenet(ASNI[density])
    weighed = pack(state, path, mask=mask)
    entries = {entry.name: entry for entry in reader.head(path).entries}
    for name, (layer, kept) in zip(mask, zip(LAYERS, ASNI[density], strict=True), strict=True):
        assert entries[name].planes
        free = entries[name].section - layer * entropy(kept / layer) / 8
        assert free < 4 * kept * (0.875 if kept > 1000 else 0.93)
    assert weighed.file < weighed.bound


@pytest.mark.parametrize("density", ASNI)
@pytest.mark.parametrize("two_level", [True, False])
def test_all_but_the_sections_of_lenet_takes_260_bytes_at_most(path, density, two_level):
    state, mask = lenet(ASNI[density], two_level=two_level)
    for options in ({}, {"biases": "float16"}):
        weighed = pack(state, path, mask=mask, **options)
        sections = sum(entry.section for entry in reader.head(path).entries)
        assert sections + 260 >= weighed.file == path.stat().st_size


def test_the_dense_size_is_that_of_safetensors_and_gzip_that_of_gzip(path):
    state, mask = lenet(ASNI[0.05])
    weighed = pack(state, path, mask=mask)
    plain = safetensors.numpy.save({name: tensor.numpy() for name, tensor in state.items()})
    assert weighed.dense == len(plain)
    assert weighed.gzip == pytest.approx(len(gzip.compress(plain, 6, mtime=0)), rel=1e-3)


def test_a_file_is_what_safetensors_itself_would_write(path):
    pack(*lenet(ASNI[0.01])[:1], path)
    tensor = safetensors.numpy.load_file(path)["compressor"]
    assert tensor.dtype == np.uint8
    again = safetensors.numpy.save({"compressor": tensor}, metadata={"format": "compressor"})
    assert again == path.read_bytes()


@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 40),
    density=st.sampled_from([0.01, 0.05, 0.2, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 999),
)
def test_column_indices_with_row_counts_are_never_smaller_than_gaps(rows, columns, density, seed):
    mask = np.random.default_rng(seed).random((rows, columns)) < density
    gaps = csr.plan(make("w", "U8", mask.shape, mask.astype(np.uint8), mask)).entry
    kept = int(mask.sum())
    counts = (rows * columns.bit_length() + 7) // 8
    indices = (kept * (columns - 1).bit_length() + 7) // 8
    assert gaps.section - kept <= counts + indices


@given(gaps=st.lists(st.integers(0, 200_000), max_size=30))
def test_the_width_of_the_gaps_is_the_best_one(gaps):
    width, escapes = positions.best_width(np.array(gaps, np.int64), np.ones(len(gaps), np.int64))
    bits = {w: sum(gap // (2**w - 1) + 1 for gap in gaps) * w for w in range(1, 33)}
    assert bits[width] == min(bits.values()) == (len(gaps) + escapes) * width
    assert all(bits[w] > bits[width] for w in range(1, width))


def test_auto_says_why_a_tensor_is_dense(path):
    generator = np.random.default_rng(0)
    full = torch.from_numpy(generator.standard_normal((20, 20)).astype(np.float32))
    nearly = torch.from_numpy(generator.integers(1, 256, (20, 20), np.uint8))  # no byte of it can be coded
    nearly[0, 0] = 0
    few = torch.zeros(20, 20)
    few[3, 4] = 1.5
    few[3, 5] = 2.5
    few[3, 6] = 3.5
    mask = {"nearly": nearly != 0, "few": few != 0}
    state = {"full": full, "nearly": nearly, "few": few}
    reasons = {one.name: one.reason for one in pack(state, path, mask=mask).tensors}
    assert reasons == {"full": "not masked", "nearly": "dense is the smallest", "few": ""}
    reasons = {one.name: one.reason for one in pack(state, path, mask=mask, format="dense").tensors}
    assert reasons["few"] == "dense was asked for"


def test_the_page_names_the_numbers_of_the_code():
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    assert re.search(r"^Dtypes, from 0: (.*?) \(safe", page, re.M).group(1).split(", ") == list(DTYPES)
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.M)) == {*FORMATS, "base"}
    for names in (POSITIONS, VALUES):
        for code, name in enumerate(names):
            assert re.search(rf"{code} \*\*{name}\*\*", page), name
    assert "Roles: " + ", ".join(f"{code} {name}" for code, name in enumerate(ROLES)) in page.replace(
        " (no mask)", ""
    ).replace(" (has a mask)", "")
    assert f"{reader.MAX_TENSORS:,} tensors" in page
    assert f"{reader.MAX_NAMES:,} bytes of names" in page
    assert f"at most {reader.MAX_RANK}" in page
    assert "128 MiB + 16,384 " in page
    assert f"1 to {reader.MAX_NAME:,} bytes" in page
    assert reader.memory_limit(10) == 2**27 + 16_384 * 10
    assert container.number(300) == b"\xac\x02"
