"""Giants are coded block by block: wherever the blocks end, the bytes and the tensors are the same."""

import numpy as np
import pytest
import torch

from compressor.packed import pack, positions, reader, unpack, values

SHAPES = [(), (1,), (8,), (64, 1), (1, 64), (9, 7), (3, 64), (5, 2, 3, 3), (130, 3), (0, 4), (4, 0)]
PACKING = [
    {"format": "csr"},
    {"format": "entropy"},
    {"format": "bitmask", "values": "int8"},
    {"format": "csr", "values": "float16"},
    {"format": "dense"},
]


def networks():
    """Masks whose ends and gaps fall into, upon and across blocks, over values of every sort."""
    generator = np.random.default_rng(0)
    for shape in SHAPES:
        size = int(np.prod(shape))
        masks = [generator.random(size) < density for density in (0.02, 0.3, 0.9, 1.1, -1)]
        masks += [np.arange(size) < size // 2, np.arange(size) >= size // 2, np.arange(size) % 16 == 15]
        for mask in masks:
            kept = torch.from_numpy(mask.reshape(shape))
            weight = torch.from_numpy(generator.standard_normal(size).astype("f4").reshape(shape))
            yield torch.where(kept, weight, torch.zeros(())), kept
            yield torch.where(kept, weight.sign() * 0.5 + 0.25, torch.zeros(())), kept


@pytest.mark.parametrize("block", [8, 16, 64])
@pytest.mark.parametrize("packing", PACKING, ids=lambda one: "-".join(one.values()))
def test_the_size_of_a_block_changes_nothing(tmp_path, monkeypatch, block, packing):
    monkeypatch.setattr(reader, "MAX_MIXED", 0)  # giants have no models
    for weight, kept in networks():
        state, mask, path = {"w": weight, "v": weight.clone()}, {"w": kept}, tmp_path / "net"
        found = []
        for size in (reader.BLOCK, block):
            with monkeypatch.context() as patch:
                patch.setattr(reader, "BLOCK", size)
                weighed = pack(state, path, mask=mask, **packing)
                tensors = {name: one.numpy().tobytes() for name, one in unpack(path).items()}
                found.append((path.read_bytes(), tensors, weighed))
        assert found[0] == found[1]
        if "values" not in packing:
            assert found[0][1] == {name: one.numpy().tobytes() for name, one in state.items()}


def test_planes_are_tried_on_runs_that_see_every_column(tmp_path):
    """Every 16th column is noise that no plane shortens, the others are."""
    generator = np.random.default_rng(0)
    bits = np.full((1 << 15, 64), 0x3F800000, "<u4")
    bits[:, ::16] = generator.integers(0, 1 << 32, (1 << 15, 4), dtype=np.uint32)
    assert bits.nbytes > values.MANY
    weighed = pack({"w": torch.from_numpy(bits.view("<i4"))}, tmp_path / "net")
    assert weighed.file < bits.nbytes // 3
    assert np.array_equal(unpack(tmp_path / "net")["w"].numpy(), bits.view("<i4"))


@pytest.mark.parametrize("block", [8, 1 << 18])
def test_descending_rows_are_found_wherever_a_block_ends(monkeypatch, block):
    monkeypatch.setattr(reader, "BLOCK", block)
    generator = np.random.default_rng(0)
    for columns in (1, 3, 9, 20):
        rows = generator.random((30, columns)) < 0.3
        down = np.array(sorted(rows.tolist(), reverse=True))
        assert positions._descending(down)
        for at in range(len(down) - 1):
            swapped = down.copy()
            swapped[[at, at + 1]] = down[[at + 1, at]]
            assert positions._descending(swapped) == bool((down[at] == down[at + 1]).all())
