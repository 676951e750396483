"""What the commands print on stdout: tables for people, one JSON object for machines."""

import inspect
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from compressor import figures, report
from compressor.errors import listed, printable

if TYPE_CHECKING:
    from compressor.compare import Comparison
    from compressor.packed import Sizes
    from compressor.single import Pruned
    from exporters import Verdict

Found = dict[str, Any]
PIPED: Final = 140  # columns


def as_json(found: Any) -> None:
    """Print one object."""
    Console(soft_wrap=True).print(json.dumps(found, indent=1), markup=False, highlight=False)


def reports(found: Mapping[Path, Found], sweep: bool) -> None:
    """Print a report, or the table of a sweep, and where the pages are. found: by run folder."""
    first = next(iter(found))
    runs = {folder.name: one for folder, one in found.items()}
    _console().print(report.sweep_table(runs) if sweep else report.summary(found[first]))
    _lines(
        f"reports: {first.parent}/*/report.html" if sweep else f"report: {first}/report.html",
        f"next: {shlex.join(['compressor', 'show', str(first)])}",
    )


def plans(found: Mapping[Path, Found], sweep: bool) -> None:
    """Print what runs would do. found: by run folder."""
    for folder, plan in found.items():
        if sweep:
            _lines(f"{folder.name}:")
        exact = "" if plan["exact"] else " (by layer only after training; shown: the largest of the start)"
        _lines(
            f"{plan['method']}: {plan['kept']:,} of {plan['total']:,} prunable weights kept, "
            f"density {plan['density']:.6g}{exact}",
            *(f"  {one['name']}: {one['kept']:,} of {one['total']:,}" for one in plan["layers"]),
            f"not prunable: {plan['not_prunable']:,} parameters",
            "bytes, estimated: "
            + ", ".join(f"{k} {v:,}" for k, v in plan["bytes"].items() if isinstance(v, int)),
            *_rounds(plan),
        )


def _rounds(plan: Found) -> list[str]:
    """Return what the rounds of a plan keep, and how long everything trains: `tune 3 x 10` is three rounds."""
    stages: dict[str, list[int]] = {}
    for name, count in plan["epochs"].items():
        stages.setdefault(name.partition("-")[0], []).append(count)
    each = [f"{name} {len(c)} x {c[0]}" if len(c) > 1 else f"{name} {c[0]}" for name, c in stages.items()]
    each += [f"{sum(plan['epochs'].values())} in all"] if each else ["none"]
    most = "" if plan["max_drop"] is None else ", at most"
    lines = [f"epochs{most}: {', '.join(each)}"]
    if len(plan["rounds"]) > 1:
        kept = ", ".join(f"{count:,}" for count in plan["rounds"])
        lines.insert(0, f"rounds{most}: {len(plan['rounds'])}, which keep {kept}")
    return lines


def sizes(
    path: Path,
    found: "Sizes",
    json_wanted: bool,
    accuracy: float | None = None,
    transforms: Sequence[Found] = (),
) -> None:
    """Print what a packed file weighs, and what transforms before packing gave."""
    table = sizes_table(found) | ({"transforms": list(transforms)} if transforms else {})
    kept, total = table["kept"], table["total"]
    if json_wanted:
        as_json(table if accuracy is None else {**table, "accuracy": accuracy})
        return
    gzip = "not measured above 256 MiB" if found.gzip is None else f"{found.gzip:,}"
    _lines(
        *figures.transforms(transforms),
        *_left(transforms),
        f"{path}: {found.file:,} bytes; dense {found.dense:,}, gzip {gzip}, bound {found.bound:,}",
        f"density {kept / total if total else 1:.6g}: {kept:,} of {total:,} masked weights kept",
        *_dense(found),
        *([f"largest error of the rounding: {found.max_error:.3g}"] if found.max_error else []),
        *([] if accuracy is None else [f"accuracy {accuracy:.2%}"]),
    )


def _dense(found: "Sizes") -> list[str]:
    """Return which tensors are dense, by the reason why."""
    names: dict[str, list[str]] = {}
    for one in found.tensors:
        if one.reason:
            names.setdefault(one.reason, []).append(one.name)
    return [f"left dense ({why}): {listed(tensors)}" for why, tensors in names.items()]


def _left(transforms: Sequence[Found]) -> list[str]:
    """Return why transforms left units alone, each reason once."""
    names: dict[str, list[str]] = {}
    for one in transforms:
        for name, why in one["left"].items():
            if name not in names.setdefault(why, []):
                names[why].append(name)
    return [f"left alone: {listed(layers)} ({why})" for why, layers in names.items()]


def sizes_table(found: "Sizes") -> Found:
    """Return what a packed file weighs, with the weights that its masks keep, as one object."""
    masked = [tensor for tensor in found.tensors if tensor.role == "sparse"]
    kept, total = sum(tensor.kept for tensor in masked), sum(tensor.total for tensor in masked)
    return {"kept": kept, "total": total, **asdict(found)}


def pruned(path: Path, found: "Pruned", json_wanted: bool) -> None:
    """Print what a pruned network weighs, what the mask cut off and what it took."""
    if json_wanted:
        as_json({**sizes_table(found.sizes), **asdict(found.survey), "peak_memory": found.peak_memory})
        return
    sizes(path, found.sizes, json_wanted=False)
    cut = found.survey
    _lines(
        *([f"no path passes {', '.join(cut.silent)}"] if cut.silent else []),
        f"cut off: {cut.dead_outputs:,} outputs, {cut.isolated_units:,} units of pruned layers; "
        f"peak memory {found.peak_memory / 2**20:,.0f} MiB",
    )


def comparison(path: Path, found: "Comparison", json_wanted: bool) -> None:
    """Print what several methods keep per layer, and how much of it they share."""
    overlaps = found.overlaps()
    if json_wanted:
        kept = {name: {n: k for n, (k, _) in mask.per_layer().items()} for name, mask in found.masks.items()}
        as_json({"plot": str(path), "kept": kept, "overlap": overlaps, "refused": dict(found.refused)})
        return
    layers = Table(box=None, header_style="dim", pad_edge=False)
    layers.add_column("kept per layer")
    layers.add_column("weights", justify="right")
    for name in found.masks:
        layers.add_column(name, justify="right")
    rows = {name: mask.per_layer() for name, mask in found.masks.items()}
    for layer, (_, total) in next(iter(rows.values())).items():
        shares = [f"{100 * row[layer][0] / total:.3g} %" for row in rows.values()]
        layers.add_row(
            layer, f"{total:,}", *(f"{rows[n][layer][0]:,} ({s})" for n, s in zip(rows, shares, strict=True))
        )
    shared = Table(box=None, header_style="dim", pad_edge=False)
    shared.add_column("kept by both / by either")
    for name in overlaps:
        shared.add_column(name, justify="right")
    for name, row in overlaps.items():
        shared.add_row(name, *(f"{value:.3f}" for value in row.values()))
    _console().print(layers, "", shared)
    _lines(*(f"{name}: {why}" for name, why in found.refused.items()), f"plot: {path}")


def verdict(found: "Verdict", json_wanted: bool) -> None:
    """Print the checks and what ran where."""
    table = found.as_dict()
    if json_wanted:
        as_json(table)
        return
    for check in table["checks"]:
        mark = "passed" if check["passed"] else "FAILED"
        _lines(f"{check['check']} {check['runtime'] or ''} {mark}: {check['message']}".replace("  ", " "))
    rows = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("runtime", "version", "provider", "samples", "error/sigma", "agreement", "accuracy", "ms"):
        rows.add_column(name)
    for row in table["runtimes"]:
        shown = ("version", "provider", "samples", "ratio", "agreement", "accuracy", "milliseconds")
        values = [_short(row[key]) for key in shown] if row["ran"] else [row["reason"]]
        rows.add_row(row["runtime"], *values)
    _console().print(rows)
    _lines("verification " + ("passed" if table["passed"] else "FAILED"))


def menu(found: Mapping[str, str], json_wanted: bool) -> None:
    """Print names and what they are."""
    if json_wanted:
        as_json(dict(found))
        return
    width = max(map(len, found))
    _lines(*(f"{name:<{width}}  {text}" for name, text in found.items()))


def first_line(function: Any) -> str:
    """Return the first line of a docstring."""
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _console() -> Console:
    """Return the console for tables: in a pipe there is no edge at which names would have to be cut."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PIPED)
    return console


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _lines(*lines: str) -> None:
    console = Console(soft_wrap=True)
    for line in lines:
        console.print(printable(line), markup=False, highlight=False)
