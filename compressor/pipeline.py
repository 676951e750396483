"""The walk over a run folder: dense?, prune, tune, pack, export, verify, report (DESIGN §2, §6)."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor import files, models, recipes, report
from compressor.environment import environment
from compressor.errors import (
    CollapseError,
    CompressorError,
    FormatError,
    InputError,
    VerificationError,
    unknown,
)
from compressor.methods import METHODS, TRAINING_METHODS
from compressor.optimizers import make_optimizer, steps_per_epoch
from compressor.packed import FORMATS
from compressor.plan import plan
from compressor.recipe import Recipe, weights_of
from compressor.records import (
    REPORT,
    Result,
    Step,
    adopt,
    begin,
    finish,
    finished,
    forget,
    forget_others,
    locked,
)
from compressor.runs import OnEvent, Run, threads
from compressor.stages import SHIPS, Stage, stages
from compressor.stages.prune import attached, signed
from compressor.stages.rounds import over_budget
from compressor.summary import summary
from compressor.weights import prunable

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a recipe.

    reports: by run folder, of every run that came to one; sweep: whether several runs were asked for;
    error: why a run has none, or why what it reports must not be shipped.
    """

    reports: dict[Path, Report]
    sweep: bool
    error: CompressorError | None


def run(
    recipe: str | Path | Recipe,
    *,
    out: str | Path | None = None,
    sets: Sequence[str] = (),
    data_dir: str | Path | None = None,
    dry_run: bool = False,
    on_event: OnEvent | None = None,
) -> Report | list[Report]:
    """Walk a recipe to its report, going on where an earlier run of it stopped; a sweep gives a list.

    recipe: a built-in name, a file, or a Recipe. out: the run folder, runs/NAME. sets: "prune.density=0.02" and
    the like; several values are a sweep, each in a folder of its own below `out`, and one that fails does not keep
    the others from running. data_dir: where data sets lie, $COMPRESSOR_DATA or data. dry_run: write and train
    nothing, return what would be (see `plan`). on_event: told what goes to log.jsonl.

    Raises InputError, FormatError, HostError as the stages do, InputError if not even the first round stays within
    [prune] max_drop, VerificationError if what would be shipped is not the network that was packed (the report is
    written all the same).
    """
    outcome = attempt(recipe, out=out, sets=sets, data_dir=data_dir, dry_run=dry_run, on_event=on_event)
    if outcome.error is not None:
        raise outcome.error
    reports = list(outcome.reports.values())
    return reports if outcome.sweep else reports[0]


def attempt(
    recipe: str | Path | Recipe,
    *,
    out: str | Path | None = None,
    sets: Sequence[str] = (),
    data_dir: str | Path | None = None,
    dry_run: bool = False,
    on_event: OnEvent | None = None,
) -> Outcome:
    """Do what `run` does, and return the reports there are beside the error. Raises the other errors."""
    members = recipes.sweep(recipe, sets)
    base = Path(out) if out is not None else Path("runs") / recipes.name_of(recipe)
    folders = [base / label for label, _ in members]
    place = Path(data_dir or os.environ.get("COMPRESSOR_DATA") or "data")
    runs = [
        Run(wanted, folder, place, on_event) for folder, (_, wanted) in zip(folders, members, strict=True)
    ]
    refused: dict[Path, CompressorError] = {}

    def kept(each: Run, act: Callable[[Run], Any]) -> Any:
        try:
            return act(each)
        except (InputError, FormatError) as error:
            refused[each.folder] = error

    for each in runs:
        kept(each, _check)
    walk = (lambda each: (plan(each), [])) if dry_run else (lambda each: _walk(each, folders))
    walks = {each.folder: kept(each, walk) for each in runs if each.folder not in refused}
    done = {folder: found for folder, found in walks.items() if found is not None}
    sweep = len(runs) > 1
    failures = {folder: failed for folder, (_, failed) in done.items() if failed}
    return Outcome(
        {folder: found for folder, (found, _) in done.items()}, sweep, _error(refused, failures, sweep)
    )


def _error(
    refused: dict[Path, CompressorError], failures: dict[Path, list[str]], sweep: bool
) -> CompressorError | None:
    """Return what a run raises at its end: of several the gravest, with the words of all."""
    if refused and not sweep:
        return next(iter(refused.values()))
    said = [f"{folder}: {'; '.join(failed)}" for folder, failed in failures.items()]
    said += [f"{folder}: {error}" for folder, error in refused.items()]
    if failures:
        return VerificationError("; ".join(said))
    return InputError("; ".join(said)) if refused else None


def _walk(walked: Run, siblings: Sequence[Path]) -> tuple[Report, list[str]]:
    """Do, or skip, every stage in turn; return the report and what failed in verification."""
    folder = walked.folder
    with locked(folder), threads(walked.recipe.train.threads):
        around = environment(walked.recipe) | {"inputs": walked.inputs()}
        files.write_bytes(folder / "recipe.toml", recipes.dumps(walked.recipe).encode())
        files.write_bytes(folder / "environment.json", (json.dumps(around, indent=1) + "\n").encode())
        walked.tell("run", folder=str(folder))
        every = stages(walked.recipe)
        forget_others(folder, every)
        try:
            for name, stage in every.items():
                if stage.wanted(walked):
                    walked.results[name] = _done(walked, name, stage, siblings)
            if "pack" not in walked.results:
                raise InputError(over_budget(walked))
        except InputError:
            _forget_shipped(walked)
            raise
        _forget_shipped(walked)
        return _report(walked, around), walked.results.get("verify", {}).get("failures", [])


def _forget_shipped(walked: Run) -> None:
    """Remove what an earlier recipe shipped from here and this one does not; what was trained stays, for another."""
    for name in SHIPS:
        if name not in walked.results:
            forget(walked.folder, name)
    if "pack" not in walked.results:
        forget(walked.folder, REPORT)


def _done(walked: Run, name: str, stage: Stage, siblings: Sequence[Path]) -> Result:
    """Return what a stage found; with max_drop, a later round that collapses is one that breaks the budget."""
    try:
        return _do(walked, name, stage, siblings)
    except CollapseError as error:
        if walked.recipe.prune.max_drop is None or name == "prune":
            raise
        return {"collapse": str(error)}


def _do(walked: Run, name: str, stage: Stage, siblings: Sequence[Path]) -> Result:
    """Return what a stage found: before, in another member of the sweep, or now."""
    step = stage.step(walked)
    done = finished(walked.folder, step) or adopt(walked.folder, step, siblings)
    if done is not None:
        walked.tell("kept", stage=name)
        return done
    forget(walked.folder, REPORT)
    begin(walked.folder, step)
    walked.tell("stage", stage=name)
    done = stage.act(walked)
    if not done.get("failures"):  # what failed is looked at again
        finish(walked.folder, step, done)
    return done


def _report(walked: Run, around: dict[str, Any]) -> Report:
    """Write the report of what the stages found, unless it is there."""
    found = summary(walked.recipe, walked.results, around, len(walked.data().test))
    settings = {"report": json.loads(json.dumps(found))}
    step = Step(REPORT, settings, {}, ("report.json", "report.html"))
    if finished(walked.folder, step) is None:
        begin(walked.folder, step)
        walked.tell("stage", stage=REPORT)
        report.write(walked.folder, found)
        finish(walked.folder, step, {})
    walked.tell("done", folder=str(walked.folder))
    return found


def _check(walked: Run) -> None:
    """Refuse, before the first minute of training, what would fail after it. Raises InputError."""
    recipe = walked.recipe
    method = recipe.prune.method
    if method not in METHODS and method not in TRAINING_METHODS:
        raise unknown("method", method, [*METHODS, *TRAINING_METHODS])
    _check_edge_popup(recipe)
    if recipe.pack.format not in ("auto", *FORMATS):
        raise unknown("[pack] format", recipe.pack.format, ("auto", *FORMATS))
    if recipe.verify.runtimes:
        from exporters.runtimes import RUNTIMES

        for name in recipe.verify.runtimes:
            if name not in RUNTIMES:
                raise unknown("[verify] runtime", name, RUNTIMES)
    model = walked.network(given=True)
    models.check_fits(model, recipe.model.name, walked.data())
    prunable(model, recipe.prune.exclude)
    if method in TRAINING_METHODS:
        train = recipe.prune.train
        per_epoch = steps_per_epoch(len(walked.data().train), train.batch)
        optimizer = make_optimizer(model, train)
        attached(recipe, model, optimizer, per_epoch * train.epochs, per_epoch).remove()


def _check_edge_popup(recipe: Recipe) -> None:
    """Refuse what would undo edge-popup's two levels per layer, or wants them where they are not."""
    tune = recipe.tune
    if signed(recipe) and tune.enabled and not (tune.tied and tune.start in ("trained", "levels")):
        raise InputError(
            "[tune] would turn the signs and constants of edge-popup into free floats; leave [tune] out, set its "
            'enabled = false, or train on at two levels with tied = true and start = "trained"'
        )
    if (
        recipe.prune.method == "edge-popup"
        and recipe.pack.format == "asni2"
        and not (signed(recipe) or tune.tied)
    ):
        raise InputError(
            f'[pack] format = "asni2" wants two levels per layer; edge-popup with [prune] weights = '
            f'"{weights_of(recipe)}" keeps those weights: leave format out'
        )
