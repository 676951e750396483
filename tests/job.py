"""A job that runs in a second: learnable npz data and a small recipe in a folder of its own."""

from pathlib import Path

import numpy as np

RECIPE = """
seed = 3

[model]
name = "lenet-300-100"

[data]
name = "npz:data.npz"

[train]
lr = 0.05
batch = 32
epochs = 4
threads = 1
device = "cpu"

[dense]

[prune]
method = "asni"
density = 0.05

[tune]
optimizer = "adam"
lr = 1e-3
epochs = 3
"""


def write_job(folder: Path, text: str = RECIPE) -> Path:
    """Write job.toml and data.npz; return the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(4, 1, 6, 6))
    arrays = {}
    for split, count in (("train", 256), ("test", 64)):
        y = np.arange(count) % 4
        noise = generator.normal(size=(count, 1, 6, 6))
        arrays |= {
            f"x_{split}": (centres[y] + 0.7 * noise).astype(np.float32),
            f"y_{split}": y.astype(np.int64),
        }
    np.savez(folder / "data.npz", **arrays)
    recipe = folder / "job.toml"
    recipe.write_text(text)
    return recipe


NO_EXPORT = ("export.enabled=false", "verify.enabled=false")
