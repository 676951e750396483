"""The stages on single files, each callable alone: what the commands beside `run` do (DESIGN §2, §7).

The network and the data are those of the recipe beside the file, unless they are named.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

import exporters
from compressor import models, packed, recipes
from compressor.compare import PLOTS, Comparison, compare, plot
from compressor.data import Loader
from compressor.environment import peak_memory
from compressor.errors import InputError, VerificationError
from compressor.files import read_bytes
from compressor.flow import Survey, survey
from compressor.levels import load_start
from compressor.methods import prune
from compressor.packed import Sizes, reader
from compressor.recipe import DataSet, Model, Recipe
from compressor.runs import OnEvent, Run
from compressor.show import refuse_foreign
from compressor.stages.ship import pack_as_asked
from compressor.stages.tune import tune_network
from compressor.weights import Mask, find_mask

if TYPE_CHECKING:
    from exporters import Verdict

RECIPE: Final = "recipe.toml"


def context(
    file: Path | None,
    data_dir: Path,
    *,
    recipe: str = "",
    model: str | None = "",
    data: str = "",
    weights: Path | None = None,
    seed: int | None = None,
    sets: Sequence[str] = (),
    on_event: OnEvent | None = None,
) -> Run:
    """Return the recipe that a file belongs to: the named one, the one beside it, or `model` and `data`.

    model: None for a command that has --recipe in place of such options.
    Raises InputError if nothing says what the network and its inputs are.
    """
    if file is not None:
        read_bytes(file)  # a file that is not there is the first thing to say
    beside = file.parent / RECIPE if file is not None else None
    if recipe:
        found = recipes.load(recipe, sets)
    elif beside is not None and beside.is_file():
        found = recipes.load(beside, sets)
    elif model and data:
        found = recipes.load(Recipe(Model(model), DataSet(data), folder=str(Path.cwd())), sets)
    else:
        wanted = "--recipe NAME|FILE"
        if model is not None:
            missing = [name for name, value in (("--model NAME", model), ("--data NAME", data)) if not value]
            wanted = " and ".join(missing)
            wanted += " (the data gives input shape and classes)" if not data else ""
        raise InputError(f"there is no {beside}; say {wanted}" if beside else f"say {wanted}")
    if model and model != found.model.name:
        found = replace(found, model=Model(model))
    if data and data != found.data.name:
        found = replace(found, data=DataSet(data))
    if weights is not None:
        found = replace(found, model=replace(found.model, weights=str(weights)))
    if seed is not None:
        found = replace(found, seed=seed)
    return Run(found, file.parent if file is not None else Path(), data_dir, on_event, recorded=False)


@dataclass(frozen=True, slots=True)
class Pruned:
    """What `prune_file` wrote. peak_memory: bytes, the highest resident set of this process so far."""

    sizes: Sizes
    survey: Survey
    peak_memory: int


def prune_file(
    run: Run, out: Path, *, method: str, density: float, scope: str, exclude: Sequence[str]
) -> Pruned:
    """Prune the recipe's network, with the weights it names, and write it as a packed file."""
    model = run.network(given=True)
    data = run.batch(run.recipe.prune.train.batch)
    generator = torch.Generator().manual_seed(run.recipe.seed)
    mask = prune(model, method, density=density, data=data, scope=scope, exclude=exclude, generator=generator)
    mask.apply_(model)
    found = survey(model, mask, data)
    return Pruned(packed.pack(model, out, mask=mask), found, peak_memory())


def compare_methods(
    run: Run, out: Path, *, methods: Sequence[str], density: float, scope: str, exclude: Sequence[str]
) -> Comparison:
    """Compare scoring methods on the recipe's network, with the weights it names, and write the plot."""
    if out.suffix not in PLOTS:
        raise InputError(f"{out}: a plot ends in {', '.join(PLOTS)}")
    found = compare(
        run.network(given=True),
        methods,
        density=density,
        data=run.batch(run.recipe.prune.train.batch),
        scope=scope,
        exclude=exclude,
        seed=run.recipe.seed,
    )
    plot(found, out)
    return found


def tune_file(run: Run, start: Path, out: Path) -> tuple[Sizes, float]:
    """Train an ASNI-II start, or a pruned network, by the recipe's tune stage; return sizes and accuracy.

    From start.safetensors of a run with `[tune] start = "levels"` this gives that run's model.safetensors.
    """
    refuse_foreign(start, "safetensors")
    model = run.network()
    models.check_fits(model, run.recipe.model.name, run.data())
    if reader.parse(start).kind == "start":
        mask = load_start(model, start)
    else:
        packed.load(model, start)
        mask = Mask(packed.unpack_mask(start))
    if not mask:
        raise InputError(f"{start}: no tensor in it has a mask; pack it with --mask or --mask-from-zeros")
    mask, _ = tune_network(run, model, mask)
    sizes, model, _ = pack_as_asked(run, model, mask, out)
    return sizes, run.accuracy(model)


def pack_file(
    path: Path,
    out: Path,
    packing: Mapping[str, Any],
    *,
    mask: Path | None = None,
    from_zeros: bool = False,
    base: Path | None = None,
) -> Sizes:
    """Pack the state dict of a safetensors file, a checkpoint or a packed file (whose own mask counts)."""
    state, chosen = masked_state(path, mask, from_zeros=from_zeros)
    return packed.pack(state, out, mask=chosen, base=base, **packing)


def masked_state(
    path: Path, mask: Path | None, *, from_zeros: bool
) -> tuple[dict[str, torch.Tensor], Mapping[str, torch.Tensor]]:
    """Return the weights in a file and their mask: the given one, that of the zeros, or the file's own.

    Raises InputError for a file that is no network, or where nothing says what is pruned.
    """
    is_packed = reader.is_packed(path)
    found = reader.look(path) if is_packed else None
    if found is not None and found.kind == "start":
        raise InputError(f"{path}: is an ASNI-II start, not a network; train it with compressor tune first")
    if found is not None and found.base:
        raise InputError(
            f"{path}: is a task file already; unpack it with its base, and pack what comes of it"
        )
    state = models.state_of(path)
    if mask is not None:
        return state, Mask.load(mask)
    if from_zeros:
        return state, find_mask(state)
    if is_packed:
        return state, packed.unpack_mask(path)
    raise InputError(
        f"{path}: which weights are pruned? give --mask FILE, or --mask-from-zeros if its zeros are"
    )


def export_file(run: Run, path: Path, out: Path, encoding: str) -> None:
    """Write the ONNX of a packed file."""
    refuse_foreign(path, "safetensors")
    model, mask = _network(run, path)
    x, _ = run.data().test.take(torch.arange(1))
    exporters.export(model, out, x, mask=mask, encoding=encoding, packed=path)


def verify_file(
    path: Path,
    onnx: Path,
    data_dir: Path,
    *,
    model: str,
    data: str,
    samples: str,
    runtimes: Sequence[str],
) -> "Verdict":
    """Hold an ONNX file against a packed one; without a network there is no reference, as the rows say."""
    refuse_foreign(path, "safetensors")
    kind = reader.parse(path).kind
    refuse_foreign(onnx, "onnx")
    if samples != "all" and not samples.isdigit():
        raise InputError(f'--samples {samples}: give a number of inputs, or "all"')
    count: int | str = samples if samples == "all" else int(samples)
    network, batches = None, None
    if kind == "network" and (model or (path.parent / RECIPE).is_file()):
        run = context(path, data_dir, model=model, data=data)
        network, _ = _network(run, path)
        batches = Loader(run.data().test, run.recipe.train.batch)
    return exporters.verify(path, onnx, model=network, data=batches, samples=count, runtimes=runtimes or None)


def refuse(verdict: "Verdict") -> None:
    """Raise VerificationError if the verdict is no."""
    if not verdict.passed:
        raise VerificationError("; ".join(verdict.failures()))


def _network(run: Run, path: Path) -> tuple[nn.Module, Mask]:
    model = run.network()
    packed.load(model, path)
    return model, Mask(packed.unpack_mask(path))
