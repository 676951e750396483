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
from compressor.methods import METHODS, prune
from compressor.runs import ONNX, Run
from compressor.stages.prune import weights_of
from compressor.weights import Mask


def plan(run: Run) -> dict[str, Any]:
    """Return what a run would prune and write.

    "exact": the mask does not depend on a training that would come first; elsewhere the layers, and the
    sizes, are those of the largest weights of the network as it starts.
    """
    recipe = run.recipe
    source = weights_of(recipe)
    model = run.network(given=source == "given")
    exact = recipe.prune.method in METHODS and source != "dense"
    mask = prune(
        model,
        recipe.prune.method if exact else "magnitude",
        density=recipe.prune.density,
        data=run.batch(recipe.prune.train.batch),
        scope=recipe.prune.scope,
        exclude=recipe.prune.exclude,
        generator=torch.Generator().manual_seed(recipe.seed),
    )
    mask.apply_(model)
    if recipe.tune.tied:
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
        "epochs": {
            name: stage.train.epochs
            for name, stage in (("dense", recipe.dense), ("prune", recipe.prune), ("tune", recipe.tune))
            if getattr(stage, "enabled", not exact)
        },
    }


def _sizes(run: Run, model: nn.Module, mask: Mask) -> dict[str, Any]:
    """Write the files of the plan into a folder that goes away, and weigh them."""
    pack = run.recipe.pack
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        sizes = packed.pack(model, path, mask=mask, format=pack.format, values=pack.values or None)
        found = {key: value for key, value in asdict(sizes).items() if key not in {"tensors", "file"}}
        found["packed"] = sizes.file
        if run.recipe.export.enabled:
            x, _ = run.data().test.take(torch.arange(1))
            for encoding, name in ONNX.items():
                out = Path(folder) / name
                exporters.export(model, out, x, mask=mask, encoding=encoding, packed=path)
                found[f"onnx_{encoding}"] = out.stat().st_size
    return found
