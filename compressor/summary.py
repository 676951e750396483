"""report.json: what the stages of a run found, put together under stable keys (DESIGN §10)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from compressor import recipes
from compressor.recipe import Recipe
from compressor.records import Result

VERSION: Final = 1
_ACCURACIES: Final = ("given", "dense", "pruned", "asni1", "final")


def summary(
    recipe: Recipe, results: Mapping[str, Result], environment: Mapping[str, Any], samples: int
) -> dict[str, Any]:
    """Return the report of a run; results: those of its stages by name; samples: of the test set."""
    pack = results["pack"]
    found = {key: value for result in results.values() for key, value in result.get("accuracy", {}).items()}
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
        "accuracy": {key: found[key] for key in _ACCURACIES if key in found},
        "accuracy_samples": samples,
        "epochs": [epoch for result in results.values() for epoch in result.get("epochs", ())],
        "bytes": _bytes(pack["sizes"]) | results.get("export", {}).get("bytes", {}),
        "layers": [
            {key: tensor[key] for key in ("name", "shape", "kept", "total", "format", "bytes")}
            for tensor in pack["sizes"]["tensors"]
            if tensor["role"] != "alias"
        ],
        "verification": results.get("verify", {}).get("verification", {}),
    }


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
