"""What the commands print on stdout: tables for people, one JSON object for machines."""

import inspect
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from compressor import report

if TYPE_CHECKING:
    from compressor.packed import Sizes
    from exporters import Verdict

Found = dict[str, Any]
PIPED: Final = 140  # columns


def as_json(found: Any) -> None:
    """Print one object."""
    Console(soft_wrap=True).print(json.dumps(found, indent=1), markup=False, highlight=False)


def reports(found: Mapping[Path, Found], sweep: bool) -> None:
    """Print a report, or the table of a sweep, and where the pages are. found: by run folder."""
    first = next(iter(found))
    _console().print(report.sweep_table([*found.values()]) if sweep else report.summary(found[first]))
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
            "epochs: " + (", ".join(f"{name} {count}" for name, count in plan["epochs"].items()) or "none"),
        )


def sizes(path: Path, found: "Sizes", json_wanted: bool, accuracy: float | None = None) -> None:
    """Print what a packed file weighs."""
    masked = [tensor for tensor in found.tensors if tensor.role == "sparse"]
    kept, total = sum(tensor.kept for tensor in masked), sum(tensor.total for tensor in masked)
    if json_wanted:
        measured = {"kept": kept, "total": total} | ({} if accuracy is None else {"accuracy": accuracy})
        as_json({**measured, **asdict(found)})
        return
    _lines(
        f"{path}: {found.file:,} bytes; dense {found.dense:,}, gzip {found.gzip:,}, bound {found.bound:,}",
        f"density {kept / total if total else 1:.6g}: {kept:,} of {total:,} masked weights kept",
        *(f"left dense: {tensor.name} ({tensor.reason})" for tensor in found.tensors if tensor.reason),
        *([f"largest error of the rounding: {found.max_error:.3g}"] if found.max_error else []),
        *([] if accuracy is None else [f"accuracy {accuracy:.2%}"]),
    )


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
        console.print(line, markup=False, highlight=False)
