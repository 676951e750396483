"""Train the networks whose masks `benchmarks/pack.py` packs, and keep them in runs/pack.

    python benchmarks/pack_networks.py [NAME]...     all of them take about an hour on one core

Everything is shortened: MNIST is complete (20 epochs, 25 tied), CIFAR-10 is the exact part of 7,051 images. ResNet-20
is one that somebody else trained on all of CIFAR-10 (COMPRESSOR_DATA/resnet20), pruned by magnitude and tuned here for
a few epochs; conv6 is trained here for 7 epochs, pruned by magnitude and tuned for 2. One thread, seed 0.
Data: COMPRESSOR_DATA, default ../shared/data.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import compressor
from compressor.data import Data, load
from compressor.models import build
from compressor.recipe import Train
from compressor.train import fit

DATA = Path(os.environ.get("COMPRESSOR_DATA", Path(__file__).parents[1] / ".." / "shared" / "data")).resolve()
KEPT = Path(__file__).parents[1] / "runs" / "pack"
SGD = Train()
MOVE = Train(optimizer="adam", lr=1e-3, weight_decay=1e-4, epochs=25)
ADAM = Train(optimizer="adam", lr=1e-3, weight_decay=1e-4)
Found = tuple[nn.Module, Mapping[str, Tensor], float]


class Block(nn.Module):
    """A basic block of ResNet-20 for CIFAR-10 with option A shortcuts (He et al. 2015, section 4.2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs // 4

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return F.relu(x + y)


class ResNet20(nn.Module):
    """The network of COMPRESSOR_DATA/resnet20."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of (N, 3, 32, 32)."""
        x = F.relu(self.bn1(self.conv1(x)))
        features: Tensor = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


@cache
def mnist() -> Data:
    """Return the complete MNIST."""
    return load("mnist", data_dir=DATA)


@cache
def cifar() -> Data:
    """Return the exact part of CIFAR-10: 7,051 training and 1,017 test images."""
    with np.load(DATA / "cifar10-small.npz") as found, tempfile.TemporaryDirectory() as folder:
        wanted = {name: found[name] for name in ("x_train", "y_train", "x_test", "y_test")}
        np.savez(f"{folder}/cifar.npz", **wanted)
        return load(f"npz:{folder}/cifar.npz", data_dir=DATA)


def asni(name: str, data: Data, settings: Train, density: float, seed: int = 0) -> Found:
    """Train ASNI-I from a random start."""
    model = build(name, shape=data.shape, classes=data.classes, seed=seed)
    handles: list[Any] = []

    def attach(m: nn.Module, o: torch.optim.Optimizer, total: int, per_epoch: int) -> Any:
        handles.append(compressor.asni(m, o, density=density, steps=total, every=per_epoch))
        return handles[0]

    epochs, _ = fit(model, data, settings, seed=seed, stage="asni", attach=attach)
    return model, handles[0].mask, epochs[-1].accuracy


def move(density: float, seed: int = 0) -> Found:
    """Train ASNI-I on MNIST, then the two-level network that is deployed, whose mask moves."""
    model, mask, _ = asni("lenet-300-100", mnist(), SGD, density, seed)
    handles: list[Any] = []

    def attach(m: nn.Module, o: torch.optim.Optimizer, total: int, _: int) -> Any:
        handles.append(compressor.tied(m, o, mask, steps=total, move=True))
        return handles[0]

    epochs, _ = fit(model, mnist(), MOVE, seed=seed, stage="tune", attach=attach)
    return model, handles[0].mask, epochs[-1].accuracy


def magnitude(model: nn.Module, density: float, settings: Train) -> Found:
    """Prune a trained network by magnitude and tune it under the mask."""
    data = cifar()
    mask = compressor.prune(model, "magnitude", density=density, data=data.train.take(torch.arange(2)))
    epochs, _ = fit(
        model, data, settings, seed=0, stage="tune", attach=lambda m, o, _t, _p: compressor.hold(m, o, mask)
    )
    return model, mask, epochs[-1].accuracy


def resnet20(density: float) -> Found:
    """Prune the ResNet-20 of somebody else."""
    model = ResNet20()
    with np.load(DATA / "resnet20" / "resnet20.npz") as found:
        model.load_state_dict({name: torch.from_numpy(found[name]) for name in found.files})
    return magnitude(model, density, Train(epochs=4, lr=0.02))


def conv6(density: float) -> Found:
    """Train conv6 densely, then prune it."""
    model = build("conv6", shape=cifar().shape, classes=10, seed=0)
    fit(model, cifar(), replace(ADAM, epochs=7), seed=0, stage="dense")
    return magnitude(model, density, replace(ADAM, lr=5e-4, epochs=2))


NETWORKS: dict[str, Callable[[], Found]] = {
    "mnist-asni-10": lambda: asni("lenet-300-100", mnist(), SGD, 0.1),
    "mnist-asni-5": lambda: asni("lenet-300-100", mnist(), SGD, 0.05),
    "mnist-asni-2": lambda: asni("lenet-300-100", mnist(), SGD, 0.02),
    "mnist-asni-1": lambda: asni("lenet-300-100", mnist(), SGD, 0.01),
    "mnist-move-1": lambda: move(0.01),
    "mnist-move-1-seed-1": lambda: move(0.01, 1),
    "resnet20-magnitude-10": lambda: resnet20(0.1),
    "resnet20-asni-10": lambda: asni("resnet20", cifar(), replace(SGD, epochs=24), 0.1),
    "conv6-magnitude-10": lambda: conv6(0.1),
}


def main(names: list[str]) -> None:
    """Train what is named, or all that is not there yet."""
    torch.set_num_threads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in names or [each for each in NETWORKS if not (KEPT / f"{each}.pt").exists()]:
        begun = time.perf_counter()
        model, mask, accuracy = NETWORKS[name]()
        state = {"state": model.state_dict(), "mask": dict(mask), "accuracy": accuracy}
        torch.save(state, KEPT / f"{name}.pt")
        print(f"{name}: {accuracy:.2%}, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
