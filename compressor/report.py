"""Reports: report.json, report.html (one self-contained page) and the tables of the terminal (DESIGN §10)."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from compressor import accuracy, figures
from compressor.curve import curve
from compressor.figures import NONE, SIGMA, TIMES, Report
from compressor.files import read_bytes, write_bytes

STYLES = {"good": "bold green", "bad": "bold red", "plain": "bold"}


def write(folder: Path | str, report: Report) -> None:
    """Write report.json and report.html, each whole or not at all. Raises HostError."""
    found = _finite(report)
    write_bytes(Path(folder) / "report.html", render_html(found).encode())
    write_bytes(Path(folder) / "report.json", (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())


def render_html(report: Report) -> str:
    """Return the report as one page: no scripts, nothing loaded from elsewhere, the same bytes every time."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": figures.size, "milliseconds": figures.milliseconds}
    template = environment.from_string(read_bytes(Path(__file__).with_name("report.html")).decode())
    found = _finite(report)
    layers = list(found.get("layers") or ())
    masked = [layer for layer in layers if layer["format"] != "dense" or layer["kept"] < layer["total"]]
    return template.render(
        title=figures.title(found),
        method=((found.get("recipe") or {}).get("prune") or {}).get("method"),
        density=figures.density(found),
        cut_off=figures.cut_off(found),
        answers=(figures.smaller(found), figures.same(found), figures.faster(found)),
        accuracies=accuracy.accuracies(found),
        samples=accuracy.samples(found),
        caution=accuracy.caution(found),
        rounds=accuracy.rounds(found),
        curve=curve(found.get("epochs") or ()),
        files=figures.files(found),
        formats=figures.formats(found),
        transforms=figures.transforms(found.get("transforms") or ()),
        masked=masked,
        others=[layer for layer in layers if layer not in masked],
        runtimes=(found.get("verification") or {}).get("runtimes") or [],
        failed=[c for c in (found.get("verification") or {}).get("checks") or [] if not c.get("passed")],
        limit=figures.SIGMAS,
        recipe=_settings(found.get("recipe") or {}),
        environment=_settings(found.get("environment") or {}),
    )


def summary(report: Report) -> RenderableType:
    """Return what the terminal shows at the end of a run: accuracies, bytes, verification, milliseconds."""
    parts: list[RenderableType] = [Text(f"{figures.title(report)} · {figures.density(report)}")]
    if figures.cut_off(report):
        parts.append(Text(figures.cut_off(report)))
    accuracies = _table("accuracy", "top-1", "epochs")
    for row in accuracy.accuracies(report):
        accuracies.add_row(row.label, row.text, "" if row.epochs is None else str(row.epochs))
    warned = accuracy.caution(report)
    sizes = _table("bytes", "size", "of dense")
    for bar in figures.files(report):
        sizes.add_row(bar.label, bar.value, bar.note)
    formats = _table("format", "whole file", "of bound")
    for bar in figures.formats(report):
        formats.add_row(bar.label, bar.value, bar.note)
    parts += [accuracies] if accuracies.row_count else []
    parts += [Text(warned)] if warned else []
    parts += [table for table in (_rounds(report), sizes, formats) if table.row_count]
    parts += [Text(line) for line in figures.transforms(report.get("transforms") or ())]
    rows = (report.get("verification") or {}).get("runtimes") or []
    if rows:
        parts.append(_runtimes(rows))
    verified = figures.same(report)
    parts.append(Text.assemble("verification: ", (verified.head, STYLES[verified.tone])))
    if verified.tone != "good":
        parts += [Text(f"  {line}") for line in verified.lines]
    return Group(*parts)


def sweep_table(reports: Mapping[str, Report]) -> RenderableType:
    """Return one row per run of a sweep: what was swept, density, accuracy and bytes. reports: by the run's label."""
    controlled = any("control" in (report.get("accuracy") or {}) for report in reports.values())
    names = ["accuracy", "dense", "control"] if controlled else ["accuracy", "dense"]
    table = _table("run", "density", *names, "packed", "of dense", "ONNX", "verified")
    for label, report in reports.items():
        found, sizes = report.get("density") or {}, report.get("bytes") or {}
        measured = {row.key: row.text for row in accuracy.accuracies(report)}
        packed, dense = sizes.get("packed"), sizes.get("dense")
        table.add_row(
            re.sub(r",(?=[a-z_.]+=)", "\n", label),  # a line per key: a label that is cut tells no runs apart
            f"{100 * found['kept'] / found['total']:.3g} %" if found.get("total") else NONE,
            measured.get("final", NONE),
            measured.get("dense") or measured.get("given", NONE),
            *([measured.get("control", NONE)] if controlled else []),
            figures.size(packed) if packed else NONE,
            f"{packed / dense:.3g}{TIMES}" if packed and dense else NONE,
            figures.size(sizes["onnx_compact"]) if sizes.get("onnx_compact") else NONE,
            figures.same(report).head,
        )
    return table


def _rounds(report: Report) -> Table:
    rows = accuracy.rounds(report)
    table = _table(*(rows[0] if rows else [""]))
    for row in rows:
        table.add_row(*row.values())
    return table


def _runtimes(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("runtime", f"error / {SIGMA}", "agreement", "accuracy", "time", "dense", "remark")
    for row in rows:
        if not row.get("ran"):
            table.add_row(row["runtime"], NONE, NONE, NONE, NONE, NONE, row.get("reason") or "did not run")
            continue
        table.add_row(
            row["runtime"],
            NONE if row.get("ratio") is None else f"{row['ratio']:.2f}",
            NONE if row.get("agreement") is None else f"{100 * row['agreement']:.6g} %",
            NONE if row.get("accuracy") is None else f"{100 * row['accuracy']:.2f} %",
            figures.milliseconds(row.get("milliseconds")),
            figures.milliseconds(row.get("milliseconds_dense")),
            row.get("reason") or "",
        )
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="left" if name in ("", "remark", "verified") else "right")
    return table


def _settings(values: Mapping[str, Any]) -> str:
    """Return nested settings as TOML-like lines, plain values first."""
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in values.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += ["", f"[{key}]", _settings(value)]
    return "\n".join(lines).strip("\n")


def _finite(value: Any) -> Any:
    """Return the same without NaN and infinity, which JSON has no word for: they become null."""
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
