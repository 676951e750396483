"""The stages that ship: the packed file, the ONNX files made from it, and the proof."""

from dataclasses import asdict

import torch

import exporters
from compressor import packed
from compressor.data import Loader
from compressor.environment import versions
from compressor.records import Result, Step
from compressor.runs import MODEL, ONNX, PRUNED, TUNED, Run


def _last_weights(run: Run) -> str:
    return TUNED if run.recipe.tune.enabled else PRUNED


def pack_step(run: Run) -> Step:
    """Return what `pack` depends on and writes."""
    settings = run.settings() | {"pack": asdict(run.recipe.pack)}
    return Step("pack", settings, run.inputs() | run.digests(_last_weights(run)), (MODEL,))


def pack(run: Run) -> Result:
    """Write the packed file, read it back, and measure what was read."""
    model, mask = run.stored(_last_weights(run))
    pack = run.recipe.pack
    sizes = packed.pack(model, run.folder / MODEL, mask=mask, format=pack.format, values=pack.values or None)
    shipped, mask = run.stored(MODEL)
    return {
        "sizes": asdict(sizes),
        "kept": mask.kept,
        "total": mask.total,
        "parameters": sum(parameter.numel() for parameter in shipped.parameters()),
        "accuracy": {"final": run.accuracy(shipped)},
    }


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
