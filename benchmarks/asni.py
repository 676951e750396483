"""Accuracy of ASNI-I, of ASNI-II as an initialisation, and of the two-level network as deployed.

    python benchmarks/asni.py mnist     LeNet-300-100, complete MNIST, 20 epochs per training (25 tied)
    python benchmarks/asni.py author    the same network in the author's own setting, 50 epochs per training
    python benchmarks/asni.py conv4     conv4 on the exact part of CIFAR-10, 8 epochs per training, one seed

Prints a Markdown table: mean [lowest, highest] test top-1 in percent over the seeds, of the last epoch, nothing
selected. Two-level networks are measured as shipped: packed with format asni2, read back, evaluated.
Data: COMPRESSOR_DATA, default ../shared/data. Two processes of one thread each.
"""

import copy
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from torch import nn

import compressor
from compressor.data import Data, load
from compressor.methods.asni import Schedule
from compressor.models import build
from compressor.recipe import Train
from compressor.train import evaluate, fit
from compressor.two_level import TwoLevel

DATA = Path(os.environ.get("COMPRESSOR_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()
SGD = Train()
MOVE = Train(optimizer="adam", lr=1e-3, weight_decay=1e-4, epochs=25)
ADAM = Train(optimizer="adam", lr=1.2e-4, weight_decay=0.0, batch=60, epochs=50, schedule="constant")
Rows = dict[str, float]


class Bench:
    """One seed of one network on one data set; every method returns a test accuracy in percent."""

    def __init__(self, name: str, data: Data, seed: int) -> None:
        self.name, self.data, self.seed = name, data, seed

    def start(self) -> nn.Module:
        """Return the network on its random start."""
        return build(self.name, shape=self.data.shape, classes=self.data.classes, seed=self.seed)

    def dense(self, settings: Train) -> float:
        """Train without a mask."""
        epochs, _ = fit(self.start(), self.data, settings, seed=self.seed, stage="dense")
        return 100 * epochs[-1].accuracy

    def asni(self, settings: Train, density: float) -> tuple[float, nn.Module, compressor.Mask]:
        """Train ASNI-I; return the accuracy, the network and its mask."""
        model = self.start()
        schedules = []

        def attach(m: nn.Module, o: torch.optim.Optimizer, total: int, per_epoch: int) -> Schedule:
            schedules.append(compressor.asni(m, o, density=density, steps=total, every=per_epoch))
            return schedules[0]

        epochs, _ = fit(model, self.data, settings, seed=self.seed, stage="asni", attach=attach)
        return 100 * epochs[-1].accuracy, model, schedules[0].mask

    def free(self, settings: Train, model: nn.Module, mask: compressor.Mask) -> float:
        """Train from the ASNI-II start, read from its file, with free floats."""
        started = copy.deepcopy(model)
        compressor.to_levels(started, mask, compressor.centroids(started, mask), reset=True)
        with tempfile.TemporaryDirectory() as folder:
            compressor.save_start(started, mask, f"{folder}/start.safetensors")
            again = self.start()
            kept = compressor.load_start(again, f"{folder}/start.safetensors")
        return self.tune(settings, again, kept)

    def tune(self, settings: Train, model: nn.Module, mask: compressor.Mask) -> float:
        """Train on under the mask with free floats: as long as `tied` gets, for a fair comparison."""
        tuned = copy.deepcopy(model)
        epochs, _ = fit(
            tuned,
            self.data,
            settings,
            seed=self.seed,
            stage="tune",
            attach=lambda m, o, _t, _p: compressor.hold(m, o, mask),
        )
        return 100 * epochs[-1].accuracy

    def tied(self, settings: Train, model: nn.Module, mask: compressor.Mask, *, move: bool = True) -> float:
        """Train the two-level network that is deployed; measured from its packed file."""
        tied = copy.deepcopy(model)
        handles = []

        def attach(m: nn.Module, o: torch.optim.Optimizer, total: int, _: int) -> TwoLevel:
            handles.append(compressor.tied(m, o, mask, steps=total, move=move))
            return handles[0]

        fit(tied, self.data, settings, seed=self.seed, stage="tune", attach=attach)
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/model.safetensors"
            compressor.pack(tied, path, mask=handles[0].mask, format="asni2")
            shipped = self.start()
            compressor.load(shipped, path)
        return 100 * evaluate(shipped, self.data.test)


def mnist(seed: int) -> Rows:
    """LeNet-300-100 on the complete MNIST (issue of the walk, claim 2)."""
    bench = Bench("lenet-300-100", load("mnist", data_dir=DATA), seed)
    rows = {"dense": bench.dense(SGD)}
    for density in (0.05, 0.02, 0.01):
        rows[f"ASNI-I, {density:.0%}"], model, mask = bench.asni(SGD, density)
        rows[f"ASNI-II start, then free, {density:.0%}"] = bench.free(SGD, model, mask)
        rows[f"two levels as shipped, {density:.0%}"] = bench.tied(MOVE, model, mask)
    return rows


def author(seed: int) -> Rows:
    """The author's setting as his logs print it (papers/asni.md §4.1), pruning ended at 0.75 T."""
    bench = Bench("lenet-300-100", load("mnist", data_dir=DATA, mean=[0.1307], std=[0.3081]), seed)
    rows = {"dense": bench.dense(replace(ADAM, lr=1.2e-3))}
    rows["ASNI-I, 2.977%"], model, mask = bench.asni(ADAM, 0.02977)
    rows["ASNI-II start, then free, 2.977%"] = bench.free(ADAM, model, mask)
    return rows


def conv4(seed: int) -> Rows:
    """conv4 on 7,051 exact CIFAR-10 images: does `move` work on a convolutional network?"""
    data = load(f"npz:{DATA / 'cifar10-small.npz'}", data_dir=DATA, augment="crop+flip")
    bench = Bench("conv4", data, seed)
    adam = Train(optimizer="adam", lr=1e-3, weight_decay=1e-4, epochs=8, augment="crop+flip")
    rows = {"dense": bench.dense(adam)}
    rows["ASNI-I, 5%"], model, mask = bench.asni(adam, 0.05)
    rows["ASNI-I, tuned free, 5%"] = bench.tune(adam, model, mask)
    rows["two levels as shipped, mask fixed, 5%"] = bench.tied(adam, model, mask, move=False)
    rows["two levels as shipped, 5%"] = bench.tied(adam, model, mask)
    return rows


PARTS: dict[str, tuple[Callable[[int], Rows], int]] = {
    "mnist": (mnist, 3),
    "author": (author, 3),
    "conv4": (conv4, 1),
}


def work(job: tuple[str, int]) -> Rows:
    """Run one seed of one part on one thread."""
    torch.set_num_threads(1)
    return PARTS[job[0]][0](job[1])


def main() -> None:
    """Print one table per part that was asked for, or all."""
    asked = sys.argv[1:] or list(PARTS)
    for part in asked:
        begin, seeds = time.time(), range(PARTS[part][1])
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            found = pool.map(work, [(part, seed) for seed in seeds], chunksize=1)
        print(
            f"\n`python benchmarks/asni.py {part}` - {len(seeds)} seed(s), torch {torch.__version__}, ",
            end="",
        )
        print(f"{(time.time() - begin) / 60:.0f} minutes\n\n| network | test top-1 % |\n| --- | --- |")
        for row in found[0]:
            values = sorted(rows[row] for rows in found)
            spread = f" [{values[0]:.2f}, {values[-1]:.2f}]" if len(values) > 1 else ""
            print(f"| {row} | {mean(values):.2f}{spread} |", flush=True)


if __name__ == "__main__":
    main()
