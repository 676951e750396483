"""report.json: what the stages of a run found, put together under stable keys (DESIGN §10)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from compressor import recipes
from compressor.recipe import Recipe, weights_of
from compressor.records import Result
from compressor.stages.rounds import counts, named

VERSION: Final = 1
_ACCURACIES: Final = ("given", "dense", "control", "pruned", "asni1", "final")


def summary(
    recipe: Recipe, results: Mapping[str, Result], environment: Mapping[str, Any], samples: int
) -> dict[str, Any]:
    """Return the report of a run; results: those of its stages by name; samples: of the test set."""
    pack = results["pack"]
    found = {key: value for result in results.values() for key, value in result.get("accuracy", {}).items()}
    found |= results[named("prune", pack["round"])].get("accuracy", {})  # not of a round that was rejected
    if "given" in found:
        found.setdefault("dense", found["given"])
    return {
        "version": VERSION,
        "recipe": _public(recipe),
        "environment": dict(environment),
        "density": {
            "asked": recipe.prune.density,
            "kept": pack["kept"],
            "total": pack["total"],
            "all_parameters": pack["parameters"],
        },
        "cut_off": pack["cut_off"],
        "accuracy": {key: found[key] for key in _ACCURACIES if key in found},
        "accuracy_samples": samples,
        "accuracy_epochs": _trained(recipe, results),
        "validation": _validation(results),
        "rounds": _rounds(recipe, results) if pack["rounds"] else [],
        "epochs": [epoch for result in results.values() for epoch in result.get("epochs", ())],
        "transforms": pack["transforms"],
        "bytes": _bytes(pack["sizes"]) | results.get("export", {}).get("bytes", {}),
        "layers": [
            {key: tensor[key] for key in ("name", "shape", "kept", "total", "format", "bytes")}
            for tensor in pack["sizes"]["tensors"]
            if tensor["role"] != "alias"
        ],
        "verification": results.get("verify", {}).get("verification", {}),
    }


def _trained(recipe: Recipe, results: Mapping[str, Result]) -> dict[str, int]:
    """Return how many epochs went into the dense network, its control and the one that ships; given weights count 0."""
    rounds = range(1, results["pack"]["round"] + 1)

    def spent(*stages: str) -> int:
        every = [name for stage in stages for name in (named(stage, number) for number in rounds)]
        return sum(len(results[name].get("epochs", ())) for name in every if name in results)

    dense = len(results.get("dense", {}).get("epochs", ()))
    before = dense if weights_of(recipe) == "dense" else 0
    found = {"dense": dense} if {"dense", "given"} & set(results) else {}
    if "control" in results:
        found["control"] = before + spent("control")
    return found | {"final": before + spent("prune", "tune")}


def _validation(results: Mapping[str, Result]) -> dict[str, float]:
    """Return the accuracies on the validation images, by which rounds are judged; {} where there are none."""
    stages = {"given": "given", "dense": "dense", "final": named("tune", results["pack"]["round"])}
    found = {key: results.get(stage, {}).get("validation") for key, stage in stages.items()}
    return {key: value for key, value in found.items() if value is not None}


def _rounds(recipe: Recipe, results: Mapping[str, Result]) -> list[dict[str, Any]]:
    """Return a row per round; control: the accuracy of the dense network after as many trainings, if it was trained.

    A round through whose mask nothing flows has no network, and says why under "collapse".
    """
    pack, rows = results["pack"], []
    for row in pack["rounds"]:
        control = results.get(named("control", row["round"]), {}).get("accuracy", {})
        validation = results[named("tune", row["round"])]["validation"]
        rows.append(row | {"validation": validation, "shipped": row["round"] == pack["round"]} | control)
    last = results.get(named("prune", len(rows) + 1), {})
    if "collapse" in last:
        kept = counts(recipe.prune, pack["total"])[len(rows)]
        row = {"round": len(rows) + 1, "density": kept / pack["total"], "kept": kept, "shipped": False}
        rows.append(row | dict.fromkeys(("accuracy", "packed", "validation")) | last)
    return rows


def _bytes(sizes: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: sizes[key] for key in ("dense", "gzip", "bound", "formats")}
    return {"packed": sizes["file"], "max_error": sizes["max_error"], **kept}


def _public(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe without the paths of this machine: a report is sent to colleagues."""
    table = recipes.table_of(recipe)
    del table["folder"]
    kind, colon, path = recipe.data.name.partition(":")
    if kind in {"npz", "folder"}:
        table["data"]["name"] = f"{kind}{colon}{Path(path).name}"
    table["model"]["weights"] = Path(recipe.model.weights).name
    return table
