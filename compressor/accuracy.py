"""Which network of a run is how good: its accuracies, its rounds, and what must not be read out of them.

Every function takes the report as it is in report.json; what is missing there is left out here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from compressor.figures import NONE, Report, size

# Keys of report.json that are columns; those that no round has are left out.
_ROUND: Final = ("round", "density", "accuracy", "packed", "control", "validation")


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Top-1 of one network of the run, with the standard error of a binomial share; both fractions.

    epochs: how many went into it, None where the report does not say.
    """

    key: str
    label: str
    value: float
    error: float | None
    epochs: int | None

    @property
    def text(self) -> str:
        """Percent, with the standard error where the number of test images is known."""
        error = "" if self.error is None else f" ± {100 * self.error:.2f}"
        return f"{100 * self.value:.2f}{error} %"


def shipped(report: Report) -> str:
    """Name the network that ships: ASNI-II as deployed only where it was tied to two levels (DESIGN 2)."""
    recipe = report.get("recipe") or {}
    tune, method = recipe.get("tune") or {}, (recipe.get("prune") or {}).get("method")
    if method == "edge-popup" and not tune.get("enabled", True):
        return "edge-popup network as shipped"
    if tune.get("enabled", True) and tune.get("tied"):
        return "two-level network as shipped"
    if tune.get("enabled", True) and tune.get("start") == "levels":
        return "sparse network as shipped, trained freely from the ASNI-II start"
    return "sparse network as shipped"


def accuracies(report: Report) -> list[Accuracy]:
    """Return every accuracy of the run in the order in which they came about."""
    found = {key: value for key, value in (report.get("accuracy") or {}).items() if value is not None}
    if "given" in found and found.get("dense") == found["given"]:
        del found["dense"]
    labels = {
        "given": "network as given",
        "dense": "dense network",
        "control": "control: dense, trained as long",
        "pruned": "after pruning, before tuning",
        "asni1": "ASNI-I, sparse network",
        "final": shipped(report),
    }
    if labels["final"].startswith("edge-popup"):
        labels["pruned"] = "edge-popup, as it was trained"
    count, epochs = samples(report), report.get("accuracy_epochs") or {}
    return [
        Accuracy(
            key, label, value, math.sqrt(value * (1 - value) / count) if count else None, epochs.get(key)
        )
        for key, label, value in ((key, label, found.get(key)) for key, label in labels.items())
        if value is not None
    ]


def caution(report: Report) -> str:
    """Return what has to stand beside a sparse network above a dense one that was trained less; else nothing."""
    rows = {row.key: row for row in accuracies(report)}
    dense, final = rows.get("dense") or rows.get("given"), rows.get("final")
    if dense is None or final is None or "control" in rows or final.value <= dense.value:
        return ""
    epochs = report.get("accuracy_epochs") or {}
    more, trained = epochs.get("final", 0), epochs.get("dense", 0)
    if more <= trained:
        return ""
    what = "This does not say that sparse beats dense: it had"
    if not trained:  # by whoever brought it, for nobody here knows how long
        return (
            f"{what} {more} epochs of training on top of those of the network as given. [dense] control = true "
            "would tell."
        )
    return (
        f"{what} {more} epochs of training, the dense network {trained}. [dense] control = true, or as many [dense] "
        "epochs, would tell."
    )


def samples(report: Report) -> int:
    """Return the number of test images that the accuracies were counted on, 0 if the report does not say."""
    return report.get("accuracy_samples") or (report.get("data") or {}).get("test_samples") or 0


def rounds(report: Report) -> list[dict[str, str]]:
    """Return the rounds of prune and tune, if there were several, below the dense network: by column, in words."""
    rows = report.get("rounds") or []
    ships = max((row["round"] for row in rows if row.get("shipped")), default=0)
    every = [*_reference(report), *rows] if rows else []
    known = [key for key in _ROUND if any(row.get(key) is not None for row in rows)]
    return [{"": _remark(row, ships)} | {key: _worded(key, row.get(key)) for key in known} for row in every]


def _reference(report: Report) -> list[dict[str, Any]]:
    """Return the row of the network that the rounds are held against, if it was measured."""
    accuracies, validation = report.get("accuracy") or {}, report.get("validation") or {}
    if accuracies.get("dense") is None:
        return []
    found = {"round": "dense", "density": 1.0, "accuracy": accuracies["dense"]}
    packed = (report.get("bytes") or {}).get("dense")
    return [found | {"packed": packed, "validation": validation.get("dense", validation.get("given"))}]


def _worded(key: str, value: Any) -> str:
    if value is None:
        return NONE
    if key == "round":
        return str(value)
    if key == "packed":
        return size(value)
    return f"{100 * value:.3g} %" if key == "density" else f"{100 * value:.2f} %"


def _remark(row: Mapping[str, Any], ships: int) -> str:
    if row["round"] in ("dense", ships):
        return "ships" if row["round"] == ships else ""
    if row.get("collapse"):
        return "layer collapse"
    return "over max_drop" if row["round"] > ships else ""
