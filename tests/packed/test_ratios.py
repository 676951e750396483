"""Trained masks and signs are coded below what everybody calls the bound: sum of N H(density) + kept per layer."""

import math

import numpy as np
import pytest
import torch

from compressor.packed import pack, reader

REACHED = {  # density: as it is, with the hidden units in order; of the measured prototype
    "0.1": (0.969, 0.954),
    "0.05": (0.957, 0.931),
    "0.02": (0.947, 0.893),
    "0.01": (0.947, 0.868),
}


def masks_and_signs(data_dir, density: str) -> list[tuple[np.ndarray, np.ndarray]]:
    if reader.core is None and density != "0.01":
        pytest.skip("takes minutes without the C++ core, which was not built here")
    path = data_dir / "asni" / f"fashion-{density}.npz"
    if not path.is_file():
        pytest.skip("COMPRESSOR_DATA has no asni networks")
    with np.load(path) as file:
        return [(file[f"m{layer}"].astype(bool), file[f"W{layer}"] > 0) for layer in (1, 2, 3)]


def ordered(layers: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same network with the units of each hidden layer in the order that its format page wants."""
    done = []
    columns = np.arange(layers[0][0].shape[1])
    for mask, positive in layers[:-1]:
        rows = mask[:, columns].tolist()
        order = sorted(range(len(rows)), key=rows.__getitem__, reverse=True)
        done.append((mask[order][:, columns], positive[order][:, columns]))
        columns = np.array(order)
    return [*done, tuple(each[:, columns] for each in layers[-1])]


def entropy(density: float) -> float:
    return -density * math.log2(density) - (1 - density) * math.log2(1 - density)


def ratio(layers: list[tuple[np.ndarray, np.ndarray]], path) -> float:
    """Sections of masks and signs and 4 bytes a layer, in multiples of the bound."""
    mask = {f"fc{i}.weight": torch.from_numpy(kept) for i, (kept, _) in enumerate(layers, 1)}
    state = {
        f"fc{i}.weight": torch.from_numpy(np.where(kept, np.where(positive, 0.3, -0.2), 0).astype(np.float32))
        for i, (kept, positive) in enumerate(layers, 1)
    }
    pack(state, path, mask=mask, format="asni2")
    levels = 8
    coded = sum(entry.section - levels + 4 for entry in reader.head(path).entries)
    return 8 * coded / sum(kept.size * entropy(kept.mean()) + kept.sum() for kept, _ in layers)


@pytest.mark.parametrize("density", REACHED)
def test_trained_masks_and_signs_take_less_than_the_bound(data_dir, tmp_path, density):
    layers = masks_and_signs(data_dir, density)
    as_it_is, in_order = REACHED[density]
    assert ratio(layers, tmp_path / "net") <= as_it_is
    again = ordered(layers)
    assert [kept.sum() for kept, _ in again] == [kept.sum() for kept, _ in layers]
    assert ratio(again, tmp_path / "net") <= in_order


def test_the_same_densities_without_that_structure_take_what_the_bound_says(data_dir, tmp_path):
    generator = np.random.default_rng(0)
    layers = [
        (generator.permutation(kept.reshape(-1)).reshape(kept.shape), generator.random(kept.shape) < 0.5)
        for kept, _ in masks_and_signs(data_dir, "0.05")
    ]
    assert 0.995 < ratio(layers, tmp_path / "net") <= 1.005
