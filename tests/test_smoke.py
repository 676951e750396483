"""The recipes of the large networks, a few steps each on random pixels: that they walk, not how well."""

import numpy as np
import pytest

import compressor
from compressor import recipes

LARGE = [name for name, text in recipes.menu().items() if "smoke-tested" in text]


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_the_recipe_walks_to_a_verified_file(tmp_path, name):
    generator = np.random.default_rng(0)
    side = 64 if name.startswith("imagenet") else 32
    arrays = {}
    for split, count in (("train", 16), ("test", 8)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 3, side, side), np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 10
    np.savez(tmp_path / "data.npz", **arrays)
    sets = (
        f"data.name=npz:{tmp_path / 'data.npz'}",
        "train.epochs=4",
        "train.batch=8",
        "train.threads=1",
        "train.device=cpu",
        "verify.samples=4",
        "verify.runtimes=ort_cpu",
    )
    report = compressor.run(name, out=tmp_path / "out", sets=sets)
    assert report["verification"]["passed"]
    assert report["density"]["kept"] == pytest.approx(
        report["density"]["asked"] * report["density"]["total"], abs=1
    )
