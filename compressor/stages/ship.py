"""The stages that ship: the packed file, the ONNX files made from it, and the proof."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import exporters
from compressor import packed
from compressor.data import Loader
from compressor.environment import versions
from compressor.flow import survey
from compressor.packed import Sizes
from compressor.recipe import rounds_of
from compressor.records import Result, Step
from compressor.runs import MODEL, ONNX, Run
from compressor.stages.rounds import accepted, named, weights_file
from compressor.transforms.steps import SAMPLES, TRANSFORMS, packed_as_asked
from compressor.weights import Mask


def _weights(run: Run, number: int) -> str:
    return weights_file(_stage(run), number)


def _stage(run: Run) -> str:
    return "tune" if run.recipe.tune.enabled else "prune"


def _done(run: Run) -> range:
    """Return the rounds that left a network: those that were accepted, and the one that broke the budget."""
    done = range(1, min(accepted(run) + 1, rounds_of(run.recipe.prune)) + 1)
    return done if named(_stage(run), done[-1]) in run.results else done[:-1]


def pack_step(run: Run) -> Step:
    """Return what `pack` depends on and writes."""
    settings = run.settings() | {"pack": asdict(run.recipe.pack), "round": accepted(run)}
    inputs = run.inputs() | run.digests(*(_weights(run, number) for number in _done(run)))
    return Step("pack", settings, inputs, (MODEL,))


def pack(run: Run) -> Result:
    """Write the packed file of the round that ships, read it back, and measure what was read."""
    number = accepted(run)
    sizes, model, mask, transforms = _pack(run, number, run.folder / MODEL)
    return {
        "round": number,
        "rounds": [_row(run, each) for each in _done(run)] if rounds_of(run.recipe.prune) > 1 else [],
        "sizes": asdict(sizes),
        "transforms": transforms,
        "cut_off": asdict(survey(model, mask, run.batch(2))) if mask else {},
        "kept": mask.kept,
        "total": mask.total,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "accuracy": {"final": run.accuracy(model)},
    }


def _pack(run: Run, number: int, path: Path) -> tuple[Sizes, torch.nn.Module, Mask, list[dict[str, Any]]]:
    """Pack the network of a round; return its sizes, network and mask as they are in the file, and what was done."""
    model, mask = run.stored(_weights(run, number))
    sizes, model, transforms = pack_as_asked(run, model, mask, path)
    return sizes, model, Mask(packed.unpack_mask(path)), transforms


def pack_as_asked(
    run: Run, model: torch.nn.Module, mask: Mask, path: Path
) -> tuple[Sizes, torch.nn.Module, list[dict[str, Any]]]:
    """Transform and pack a network as [pack] says; return its sizes, the network as it is in the file, what was done.

    Raises the errors of `compressor.pack` and of the transforms; then there is no file.
    """
    pack = run.recipe.pack
    wanted = {name: getattr(pack, name) for name in TRANSFORMS}
    packing = {"format": pack.format, "values": pack.values or None, "biases": pack.biases or None}
    return packed_as_asked(model, mask, path, run.batch(SAMPLES), wanted, packing)


def _row(run: Run, number: int) -> dict[str, Any]:
    """Return what a round would have shipped: density, test accuracy and bytes."""
    with tempfile.TemporaryDirectory() as folder:
        sizes, model, mask, _ = _pack(run, number, Path(folder) / MODEL)
    found = {"density": mask.density, "kept": mask.kept, "accuracy": run.accuracy(model)}
    return {"round": number, **found, "packed": sizes.file}


def export_step(run: Run) -> Step:
    """Return what `export` depends on and writes."""
    inputs = run.inputs() | run.digests(MODEL)
    return Step("export", run.settings() | {"versions": versions()}, inputs, tuple(ONNX.values()))


def export(run: Run) -> Result:
    """Write both ONNX files from the packed file."""
    model, mask = run.stored(MODEL)
    x, _ = run.data().test.take(torch.arange(1))
    sizes = {}
    for encoding, name in ONNX.items():
        path = run.folder / name
        exporters.export(model, path, x, mask=mask, encoding=encoding, packed=run.folder / MODEL)
        sizes[f"onnx_{encoding}"] = path.stat().st_size
    return {"bytes": sizes}


def verify_step(run: Run) -> Step:
    """Return what `verify` depends on and writes."""
    verify = run.recipe.verify
    settings = run.settings() | {"verify": asdict(verify), "versions": versions()}
    settings["encoding"] = run.recipe.export.encoding
    return Step("verify", settings, run.inputs() | run.digests(MODEL, *ONNX.values()), ())


def verify(run: Run) -> Result:
    """Hold the ONNX file against the packed one."""
    model, _ = run.stored(MODEL)
    settings = run.recipe.verify
    verdict = exporters.verify(
        run.folder / MODEL,
        run.folder / ONNX[run.recipe.export.encoding],
        model=model,
        data=Loader(run.data().test, run.recipe.train.batch),
        dense=run.folder / ONNX["dense"],
        samples=settings.samples,
        runtimes=settings.runtimes or None,
    )
    return {"verification": verdict.as_dict(), "failures": verdict.failures()}
