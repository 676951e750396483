"""Fine-tuning, learning-rate rewinding and weight rewinding at equal epochs, beside the dense network trained as long.

    python benchmarks/rewinding.py

LeNet-300-100 on Fashion-MNIST, 3 % of the weights by one-shot magnitude, in the setting of papers/lr-rewinding.md §5:
12 epochs, lr 0.05 times 0.1 after 6 and 9, weight decay 5e-4, 10 epochs of retraining; fine-tuning at peak / 100.
Every number is that of a whole walk, of the network in its packed file, the last epoch, nothing selected.
Prints a Markdown table: mean [lowest, highest] test top-1 in percent over 3 seeds, and how far rewinding is above
fine-tuning against the range of the seeds. Data: COMPRESSOR_DATA, default ../shared/data. Two processes of one thread.
"""

import multiprocessing
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch

import compressor
from compressor.data import load
from compressor.pipeline import Report
from compressor.recipe import DataSet, Dense, Export, Model, Prune, Recipe, Train, Tune, Verify

DATA = Path(os.environ.get("COMPRESSOR_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()
SEEDS = (0, 1, 2)
SETTINGS = Train(
    lr=0.05, weight_decay=5e-4, epochs=12, schedule="multistep", milestones=(6, 9), device="cpu", threads=1
)
REPLAY = 2 / 12
TUNES = {
    "fine-tuning": Tune(train=replace(SETTINGS, lr=SETTINGS.lr / 100, schedule="constant", epochs=10)),
    "learning-rate rewinding": Tune(replay_from=REPLAY, train=SETTINGS),
    "weight rewinding": Tune(start="rewind", replay_from=REPLAY, train=SETTINGS),
}
Row = tuple[str, int]  # the network, and the epochs that went into it


def walk(seed: int) -> dict[Row, float]:
    """Return the accuracies of one seed in percent; walks in one folder share the dense network where they can."""
    rows: dict[Row, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, tune in TUNES.items():
            recipe = Recipe(
                Model("lenet-300-100"),
                DataSet("fashion-mnist"),
                seed=seed,
                train=SETTINGS,
                dense=Dense(enabled=True, control=tune.start == "trained", train=SETTINGS),
                prune=Prune(method="magnitude", density=0.03, train=SETTINGS),
                tune=tune,
                export=Export(enabled=False),
                verify=Verify(enabled=False),
            )
            report = compressor.run(recipe, out=folder, data_dir=DATA)
            assert not isinstance(report, list)
            rows |= measured(report, name)
    return rows


def measured(report: Report, name: str) -> dict[Row, float]:
    """Return the rows of one walk."""
    accuracy, epochs = report["accuracy"], report["accuracy_epochs"]
    labels = {"dense": "dense", "control": f"dense, then {name} without pruning", "final": f"3 %, {name}"}
    rows = {(label, epochs[key]): 100 * accuracy[key] for key, label in labels.items() if key in accuracy}
    return rows | {("3 %, not retrained", epochs["dense"]): 100 * accuracy["pruned"]}


def main() -> None:
    """Print the table and what it says of the claim."""
    begin = time.time()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(walk, SEEDS, chunksize=1)
    minutes, data = (time.time() - begin) / 60, load("fashion-mnist", data_dir=DATA)
    print(
        f"`python benchmarks/rewinding.py` - {len(SEEDS)} seeds, {len(data.train):,} training and {len(data.test):,} "
        f"test images, torch {torch.__version__}, {minutes:.0f} minutes\n"
    )
    print("| network | epochs | test top-1 % |\n| --- | --- | --- |")
    for row in sorted(found[0], key=lambda row: (row[0].startswith("3"), row[1])):
        values = sorted(rows[row] for rows in found)
        print(f"| {row[0]} | {row[1]} | {mean(values):.2f} [{values[0]:.2f}, {values[-1]:.2f}] |")
    tuned, rewound = ([rows[f"3 %, {name}", 22] for rows in found] for name in list(TUNES)[:2])
    spread = max(max(values) - min(values) for values in (tuned, rewound))
    gain = mean(rewound) - mean(tuned)
    print(
        f"\nLearning-rate rewinding above fine-tuning: {gain:.2f} points; largest range of the seeds: {spread:.2f}."
    )


if __name__ == "__main__":
    main()
