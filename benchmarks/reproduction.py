"""Every method at every density on the same networks: writes docs/reproduction.md and docs/reproduction.svg.

    python benchmarks/reproduction.py                 the whole page, about an hour of two cores; killed, it goes on
    python benchmarks/reproduction.py FULL.npz        ResNet-20 and VGG-16 on a full CIFAR-10 as well; wants CUDA

LeNet-300-100 on the complete MNIST, 7 epochs, 3 seeds; conv4 on 2,115 images of CIFAR-10, 4 epochs of Adam, one seed.
Methods at initialisation score the start weights on 100 training images (SynFlow: on none) and train under the mask
as long as the dense network; ASNI-I and edge-popup find theirs during that training. "magnitude, trained" is the
rival of all of them: dense training, magnitude, and the training again, twice the epochs. Test top-1 in percent of
the last epoch, nothing selected. Data: COMPRESSOR_DATA, default ../shared/data. Two processes of one thread each.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import nn

import compressor
from compressor.data import Data, load
from compressor.errors import InputError
from compressor.methods import METHODS
from compressor.models import build
from compressor.recipe import Train
from compressor.train import Attach, fit

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("COMPRESSOR_DATA", ROOT / ".." / "shared" / "data")).resolve()
DONE = ROOT / "runs" / "reproduction.json"  # what is finished; delete it to measure anew
SCORED = 100  # training images that methods with data see
RIVAL, TRAINING = "magnitude, trained", ("asni", "edge-popup")
ROWS = ("magnitude", "random", "random, erk", *list(METHODS)[2:], *TRAINING, RIVAL)


@dataclass(frozen=True, slots=True)
class Part:
    """One network on one data set. left_out: share of the training images that is not used."""

    title: str
    model: str
    data: str
    densities: tuple[float, ...]
    seeds: int
    train: Train
    augment: str = "none"
    left_out: float = 0.0


SGD = Train(epochs=7, device="cpu", threads=1)
PARTS = {
    "lenet": Part(
        "LeNet-300-100, complete MNIST", "lenet-300-100", "mnist", (0.2, 0.05, 0.02, 0.01, 0.003), 3, SGD
    ),
    "conv4": Part(
        "conv4, 2,115 images of CIFAR-10 (few, and few epochs: a smoke test, not a result)",
        "conv4",
        f"npz:{DATA / 'cifar10-small.npz'}",
        (0.2, 0.05, 0.01),
        1,
        replace(SGD, optimizer="adam", lr=1e-3, epochs=4, batch=64),
        left_out=0.7,
    ),
}
FULL = Train(epochs=160, lr=0.1, schedule="multistep", milestones=(80, 120), device="cuda")
Job = tuple[Part, str, float, int]  # part, row, density, seed


def full(path: str) -> dict[str, Part]:
    """Return the parts that want a GPU and a whole CIFAR-10."""
    name = f"npz:{Path(path).resolve()}"
    return {
        "resnet20": Part(
            "ResNet-20, full CIFAR-10", "resnet20", name, (0.2, 0.05, 0.02), 1, FULL, "crop+flip"
        ),
        "vgg16": Part("VGG-16, full CIFAR-10", "vgg16", name, (0.1, 0.01, 0.001), 1, FULL, "crop+flip"),
    }


@cache
def data_of(name: str, augment: str, left_out: float) -> Data:
    """Return a data set without the share that is left out of its training images."""
    return load(name, data_dir=DATA, augment=augment, validation=left_out)


def trained(model: nn.Module, data: Data, train: Train, seed: int, attach: Attach | None = None) -> float:
    """Train in place; return the test accuracy in percent."""
    epochs, _ = fit(model, data, train, seed=seed, stage="tune", attach=attach)
    return 100 * epochs[-1].accuracy


def work(job: Job) -> float | None:
    """Return the accuracy of one job; None where the layers collapse."""
    part, row, density, seed = job
    torch.set_num_threads(part.train.threads or torch.get_num_threads())
    data = data_of(part.data, part.augment, part.left_out)
    model = build(part.model, shape=data.shape, classes=data.classes, seed=seed)
    if row == "dense":
        return trained(model, data, part.train, seed)
    if row in TRAINING:
        return trained(model, data, part.train, seed, _attach(row, density, seed))
    if row == RIVAL:
        trained(model, data, part.train, seed)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:SCORED]
    try:
        mask = compressor.prune(
            model,
            row.partition(",")[0],
            density=density,
            data=data.train.take(order),
            scope="erk" if row.endswith("erk") else "global",
            generator=torch.Generator().manual_seed(seed),
        )
    except InputError as error:
        if "layer collapse" not in str(error):
            raise
        return None
    return trained(model, data, part.train, seed, lambda m, o, _t, _p: compressor.hold(m, o, mask))


def _attach(row: str, density: float, seed: int) -> Attach:
    def attach(model: nn.Module, optimizer: torch.optim.Optimizer, total: int, per_epoch: int) -> Any:
        if row == "asni":
            return compressor.asni(model, optimizer, density=density, steps=total, every=per_epoch)
        generator = torch.Generator().manual_seed(seed)
        return compressor.edge_popup(model, optimizer, density=density, generator=generator)

    return attach


def cell(values: Sequence[float | None]) -> str:
    """Return mean [lowest, highest], and how many seeds collapsed."""
    alive = sorted(value for value in values if value is not None)
    if not alive:
        return "collapse"
    spread = f" [{alive[0]:.2f}, {alive[-1]:.2f}]" if len(alive) > 1 else ""
    lost = len(values) - len(alive)
    return f"{mean(alive):.2f}{spread}" + (f", {lost} of {len(values)} collapse" if lost else "")


def page(found: Mapping[Job, float | None], parts: Mapping[str, Part], minutes: float) -> str:
    """Return docs/reproduction.md."""
    lines = [
        "# Reproduction",
        "",
        f"Written by `python benchmarks/reproduction.py` in {minutes:.0f} minutes (torch {torch.__version__}, "
        "two processes of one thread). " + " ".join((__doc__ or "").split("\n\n")[2].split()),
        "",
        "Mean [lowest, highest] over the seeds. *collapse*: nothing could flow through the mask, so it was refused. "
        "Read beside [methods.md](methods.md), which says what the papers report and where this differs.",
        "",
        "![accuracy over density](reproduction.svg)",
    ]
    for part in parts.values():
        dense = [found[(part, "dense", 1.0, seed)] for seed in range(part.seeds)]
        lines += [
            "",
            f"## {part.title}",
            "",
            f"{part.seeds} seed(s), {part.train.epochs} epochs, dense {cell(dense)}.",
        ]
        lines += ["", "| method | " + " | ".join(f"{100 * d:g} %" for d in part.densities) + " |"]
        lines += ["| --- |" + " --- |" * len(part.densities)]
        for row in ROWS:
            cells = [cell([found[(part, row, d, s)] for s in range(part.seeds)]) for d in part.densities]
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(found: Mapping[Job, float | None], parts: Mapping[str, Part], path: Path) -> None:
    """Draw accuracy over density, one panel per network."""
    figure = Figure(figsize=(6 * len(parts), 4.5), layout="constrained")
    for axis, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.values(), strict=True):
        for number, row in enumerate(ROWS):
            values = {d: [found[(part, row, d, s)] for s in range(part.seeds)] for d in part.densities}
            alive = {d: [v for v in some if v is not None] for d, some in values.items()}
            drawn = {d: mean(some) for d, some in alive.items() if some}
            style = "--" if number >= len(ROWS) // 2 else "-"
            axis.plot(list(drawn), list(drawn.values()), style, marker="o", markersize=3, label=row)
        axis.set_xscale("log")
        axis.set_xticks(part.densities, [f"{100 * d:g} %" for d in part.densities])
        axis.set_title(part.title.partition(" (")[0], fontsize=9)
        axis.set_xlabel("density")
        axis.set_ylabel("test top-1, %")
    axis.legend(fontsize=7)
    with mpl.rc_context({"svg.hashsalt": "compressor"}):
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run everything and write the page."""
    parts = PARTS | (full(sys.argv[1]) if len(sys.argv) > 1 else {})
    if len(sys.argv) > 1 and not torch.cuda.is_available():
        sys.exit("the full trainings want a CUDA device")
    jobs: list[Job] = [(part, "dense", 1.0, seed) for part in parts.values() for seed in range(part.seeds)]
    jobs += [
        (part, row, density, seed)
        for part in parts.values()
        for row in ROWS
        for density in part.densities
        for seed in range(part.seeds)
    ]
    kept: dict[str, Any] = {"minutes": 0.0, "jobs": {}}
    if DONE.is_file():
        kept = json.loads(DONE.read_text(encoding="utf-8"))
    begin, done = time.time() - 60 * kept["minutes"], kept["jobs"]
    DONE.parent.mkdir(exist_ok=True)
    open_jobs = [job for job in jobs if str(job) not in done]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for job, value in zip(open_jobs, pool.imap(work, open_jobs), strict=True):
            done[str(job)] = value
            kept["minutes"] = (time.time() - begin) / 60
            DONE.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            print(
                f"{len(done)} of {len(jobs)}: {job[0].model}, {job[1]}, {job[2]:g}, seed {job[3]}: {value}",
                flush=True,
            )
    found = {job: done[str(job)] for job in jobs}
    (ROOT / "docs" / "reproduction.md").write_text(page(found, parts, kept["minutes"]), encoding="utf-8")
    plot(found, parts, ROOT / "docs" / "reproduction.svg")


if __name__ == "__main__":
    main()
