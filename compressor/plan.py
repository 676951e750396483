"""`--dry-run`: what is prunable, what would be pruned, how large the files would be; nothing is trained."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import exporters
from compressor import packed
from compressor.levels import centroids, to_levels
from compressor.methods import METHODS, TRAINING_METHODS, prune
from compressor.methods.magnitude import magnitude
from compressor.recipe import Recipe, replays_from, rounds_of, weights_of
from compressor.runs import ONNX, Run
from compressor.stages.prune import scope_of, signed
from compressor.stages.rounds import counts, named
from compressor.weights import Mask


def plan(run: Run) -> dict[str, Any]:
    """Return what a run would prune and write.

    "exact": the mask does not depend on a training that would come first; elsewhere the layers, and the
    sizes, are those of the largest weights of the network as it starts. "rounds": how many weights each keeps;
    "epochs": by stage, both as many as there are if no round loses more than "max_drop".
    """
    recipe = run.recipe
    source = weights_of(recipe)
    model = run.network(given=source == "given")
    exact = recipe.prune.method in METHODS and source != "dense" and rounds_of(recipe.prune) == 1
    mask = _mask(run, model, exact)
    mask.apply_(model)
    if recipe.tune.tied or signed(recipe):
        to_levels(model, mask, centroids(model, mask))
    rest = sum(parameter.numel() for name, parameter in model.named_parameters() if name not in mask)
    return {
        "method": recipe.prune.method,
        "density": mask.density,
        "kept": mask.kept,
        "total": mask.total,
        "exact": exact,
        "layers": [
            {"name": n, "kept": kept, "total": total} for n, (kept, total) in mask.per_layer().items()
        ],
        "not_prunable": rest,
        "bytes": _sizes(run, model, mask),
        "rounds": list(counts(recipe.prune, mask.total)),
        "max_drop": recipe.prune.max_drop,
        "epochs": _epochs(recipe),
    }


def _mask(run: Run, model: nn.Module, exact: bool) -> Mask:
    settings = run.recipe.prune
    if not exact:  # unguarded: a mask that no run will have proves no collapse
        return magnitude(model, settings.density, scope=scope_of(run.recipe), exclude=settings.exclude)
    return prune(
        model,
        settings.method,
        density=settings.density,
        data=run.batch(settings.train.batch),
        scope=scope_of(run.recipe),
        exclude=settings.exclude,
        generator=torch.Generator().manual_seed(run.recipe.seed),
    )


def _epochs(recipe: Recipe) -> dict[str, int]:
    """Return how long every stage trains that does."""
    rounds = range(1, rounds_of(recipe.prune) + 1)
    tuned = recipe.tune.train.epochs - replays_from(recipe)
    found = {"dense": recipe.dense.train.epochs} if recipe.dense.enabled else {}
    if recipe.prune.method in TRAINING_METHODS:
        found["prune"] = recipe.prune.train.epochs
    for stage, wanted in (("tune", recipe.tune.enabled), ("control", recipe.dense.control)):
        found |= {named(stage, number): tuned for number in rounds if wanted}
    return found


def _sizes(run: Run, model: nn.Module, mask: Mask) -> dict[str, Any]:
    """Write the files of the plan into a folder that goes away, and weigh them."""
    pack = run.recipe.pack
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        values, biases = pack.values or None, pack.biases or None
        sizes = packed.pack(model, path, mask=mask, format=pack.format, values=values, biases=biases)
        found = {key: value for key, value in asdict(sizes).items() if key not in {"tensors", "file"}}
        found["packed"] = sizes.file
        if run.recipe.export.enabled:
            x, _ = run.data().test.take(torch.arange(1))
            for encoding, name in ONNX.items():
                out = Path(folder) / name
                exporters.export(model, out, x, mask=mask, encoding=encoding, packed=path)
                found[f"onnx_{encoding}"] = out.stat().st_size
    return found
