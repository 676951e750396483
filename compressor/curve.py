"""The curve of a run: accuracy along the epochs and the density over it, as points of a 100 by 100 SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any


@dataclass(frozen=True, slots=True)
class Stage:
    """One training of the run. start, width: percent of the whole; accuracy, density: points "x,y x,y".

    A single accuracy is there twice: the line from a point to itself is a dot.
    """

    name: str
    epochs: int
    start: float
    width: float
    accuracy: str
    density: str


@dataclass(frozen=True, slots=True)
class Curve:
    """The whole chart. low, high: the accuracies, as fractions, at the bottom and at the top."""

    stages: tuple[Stage, ...]
    epochs: int
    low: float
    high: float


def curve(epochs: Sequence[Mapping[str, Any]]) -> Curve | None:
    """Return the chart of these epochs, as report.json has them; None if there are none."""
    if not epochs:
        return None
    values = [epoch["accuracy"] for epoch in epochs if epoch.get("accuracy") is not None]
    low, high = math.floor(min(values, default=0) * 20) / 20, math.ceil(max(values, default=1) * 20) / 20
    high = min(1.0, max(high, low + 0.05))
    low = min(low, high - 0.05)  # every epoch at 100 %
    stages, done, total = [], 0, len(epochs)
    for name, group in groupby(epochs, key=lambda epoch: str(epoch["stage"])):
        part = list(group)
        spots = [100 * (done + index + 0.5) / total for index in range(len(part))]
        left, right = 100 * done / total, 100 * (done + len(part)) / total
        accuracy = [
            (x, 100 * (high - epoch["accuracy"]) / (high - low))
            for x, epoch in zip(spots, part, strict=True)
            if epoch.get("accuracy") is not None
        ]
        accuracy *= 2 if len(accuracy) == 1 else 1
        stages.append(
            Stage(name, len(part), left, right - left, _points(accuracy), _points(_steps(part, left, right)))
        )
        done += len(part)
    return Curve(tuple(stages), total, low, high)


def _steps(part: Sequence[Mapping[str, Any]], left: float, right: float) -> list[tuple[float, float]]:
    """Return the outline of the density from the bottom and back: a mask holds for a whole epoch."""
    width = (right - left) / len(part)
    outline = [(left, 100.0)]
    for index, epoch in enumerate(part):
        height = 100 * (1 - (epoch.get("density") or 0))
        outline += [(left + index * width, height), (left + (index + 1) * width, height)]
    return [*outline, (right, 100.0)]


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
