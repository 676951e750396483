"""The figures of a report in words and numbers, as the terminal and the page both show them.

Every function takes the report as it is in report.json; what is missing there is left out here, and said so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Report = Mapping[str, Any]

CHECKS: Final = ("structure", "bits", "outputs", "decisions")
# Times within 5 % are called as fast: a choice of words, the ratio stands beside it.
EQUAL: Final = 0.05
SIGMAS: Final = 8.0  # DESIGN 9: above this many sigma an output is not the reference's
TIMES: Final = "\u00d7"
SIGMA: Final = "\u03c3"
NONE: Final = "\u2013"  # what stands where a figure is missing


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the three questions. tone: good, bad or plain."""

    question: str
    head: str
    tone: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart: share in 0..1 of the full width; kind: dense, ours or other."""

    label: str
    value: str
    note: str
    share: float
    kind: str = "other"


def size(count: float) -> str:
    """Return bytes in decimal units, three digits."""
    for unit, scale in (("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * scale:
            value = count / scale
            return f"{value:,.0f} {unit}" if value >= 99.95 else f"{value:#.3g} {unit}"
    return f"{count:.0f} B"


def title(report: Report) -> str:
    """Return network and data set."""
    recipe = report.get("recipe") or {}
    names = [(recipe.get(key) or {}).get("name") for key in ("model", "data")]
    return " on ".join(name for name in names if name) or "a network"


def density(report: Report) -> str:
    """Return kept over prunable, counted, with the share of all parameters beside it."""
    found = report.get("density") or {}
    if not found.get("total"):
        return ""
    kept, total, parameters = found["kept"], found["total"], found.get("all_parameters") or 0
    text = f"density {100 * kept / total:.3g} %: {kept:,} of {total:,} prunable weights kept"
    if parameters:
        left = kept + parameters - total
        text += (
            f"; with biases and norms {left:,} of {parameters:,} parameters ({100 * left / parameters:.3g} %)"
        )
    return text


def cut_off(report: Report) -> str:
    """Return what the mask cut off without cutting the network: outputs, units, whole layers."""
    found = report.get("cut_off") or {}
    if not found:
        return ""
    text = f"cut off: {found['dead_outputs']:,} outputs, {found['isolated_units']:,} units of pruned layers"
    return text + (f"; no path passes {', '.join(found['silent'])}" if found["silent"] else "")


def smaller(report: Report) -> Answer:
    """Answer: is it smaller?"""
    found, question = report.get("bytes") or {}, "Is it smaller?"
    if not found.get("packed") or not found.get("dense"):
        return Answer(question, "Not packed", "plain", ("The report holds no sizes.",))
    dense, packed = found["dense"], found["packed"]
    ratio = dense / packed
    lines = [f"{size(dense)} dense → {size(packed)} packed, everything that loads it included"]
    if found.get("gzip"):
        lines.append(f"gzip of the dense file: {size(found['gzip'])}")
    if found.get("bound"):
        lines.append(
            f"entropy bound: {size(found['bound'])}; the file is {packed / found['bound']:.2f}{TIMES} of it"
        )
    if found.get("onnx_compact") and found.get("onnx_dense"):
        lines.append(f"ONNX: {size(found['onnx_dense'])} dense → {size(found['onnx_compact'])} compact")
    if found.get("max_error"):
        lines.append(f"stored with loss: the largest error of a weight is {found['max_error']:.2g}")
    return Answer(
        question,
        f"{ratio:.3g}{TIMES} smaller" if ratio > 1 else "No",
        "good" if ratio > 1 else "bad",
        tuple(lines),
    )


def transforms(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each transform before packing: what it gave, and what it changed. found: of report.json."""
    lines = []
    for one in found:
        units, proof, (before, after) = one["units"], one["proof"], one["kept"]
        told = [f"{units[what]:,} units {what}" for what in ("folded", "removed", "moved") if units[what]]
        if before != after:
            told.insert(0, f"{before - after:,} of {before:,} kept weights dropped")
        if one["transform"] == "round":
            told.append("values rounded")
        agreed = "" if proof["agreement"] is None else f", {100 * proof['agreement']:.6g} % decide the same"
        changed = f"change by at most {proof['change']:.2g} ({proof['relative']:.2g} of the largest){agreed}"
        lines.append(
            f"{one['transform']}: {', '.join(told) or 'nothing to do'}; {one['bytes'][0]:,} → "
            f"{one['bytes'][1]:,} bytes; outputs of {proof['samples']:,} samples "
            f"{changed if proof['change'] else 'stay the same'}"
        )
    return lines


def same(report: Report) -> Answer:
    """Answer: is it the same network?"""
    found, question = report.get("verification") or {}, "Is it the same network?"
    if "passed" not in found:
        return Answer(
            question, "Not verified", "plain", ("No export of this run was compared with its packed file.",)
        )
    checks = found.get("checks") or []
    if not found["passed"]:
        messages = [check["message"] for check in checks if not check.get("passed") and check.get("message")]
        return Answer(question, "No: verification failed", "bad", tuple(messages or ["No check says why."]))
    rows = [row for row in found.get("runtimes") or [] if row.get("ran")]
    names = {check["check"] for check in checks}
    lines = []
    if "bits" in names:
        lines.append("Every tensor is bit-identical to the packed file's, decoded twice")
    ratios = [row["ratio"] for row in rows if row.get("ratio") is not None]
    if ratios:
        lines.append(
            f"Outputs: at most {max(ratios):.2g} {SIGMA} of rounding from the reference; {SIGMAS:g} allowed"
        )
    agreements = [row["agreement"] for row in rows if row.get("agreement") is not None]
    if agreements:
        lines.append(f"Decisions: {100 * min(agreements):.6g} % agree with the reference")
    lines += [f"Not checked: {name}" for name in CHECKS if name not in names]
    runtimes = f"on {len(rows)} runtime{'s' if len(rows) != 1 else ''}" if rows else "on no runtime"
    return Answer(question, f"Yes, verified {runtimes}", "good", tuple(lines))


def faster(report: Report) -> Answer:
    """Answer: is it faster?"""
    question = "Is it faster?"
    timed = [(row["milliseconds_dense"] / row["milliseconds"], row) for row in _timed(report)]
    if not timed:
        return Answer(question, "Not measured", "plain", ("No runtime was timed beside the dense network.",))
    lines = tuple(
        f"{row['runtime']}: {milliseconds(row['milliseconds'])},"
        f" dense {milliseconds(row['milliseconds_dense'])} ({speed:.2f}{TIMES})"
        for speed, row in timed
    )
    best, row = max(timed, key=lambda pair: pair[0])
    if best > 1 + EQUAL:
        return Answer(question, f"{best:.2f}{TIMES} on {row['runtime']}", "good", lines)
    head = "No: as fast as dense" if best >= 1 - EQUAL else f"No: {best:.2f}{TIMES} at best"
    why = "Nothing here gains time from the zeros; what is gained is size."
    return Answer(question, head, "plain", (*lines, why))


def milliseconds(value: float | None) -> str:
    """Return a time in three digits."""
    return NONE if value is None else f"{value:.3g} ms"


def files(report: Report) -> list[Bar]:
    """Return the files of the run beside the dense one."""
    found = report.get("bytes") or {}
    rows = (
        ("dense", "dense safetensors", "dense"),
        ("gzip", "the same, gzip -6", "other"),
        ("packed", "packed file", "ours"),
        ("onnx_dense", "ONNX, dense", "dense"),
        ("onnx_compact", "ONNX, compact", "ours"),
    )
    return _bars(
        [(label, found[key], kind) for key, label, kind in rows if found.get(key)], found.get("dense")
    )


def formats(report: Report) -> list[Bar]:
    """Return what the whole file weighs in each format, beside the entropy bound."""
    found = report.get("bytes") or {}
    rows = [
        (f"all in {name}", count, "other")
        for name, count in (found.get("formats") or {}).items()
        if name != "dense"
    ]
    rows += [(label, found[key], kind) for key, label, kind in _SHIPPED if found.get(key)]
    return _bars(sorted(rows, key=lambda row: -row[1]), found.get("bound"))


_SHIPPED: Final = (("packed", "packed file", "ours"), ("bound", "entropy bound", "dense"))


def _percent(value: float) -> str:
    return f"{value:,.0f} %" if value >= 999.5 else f"{value:.3g} %"


def _bars(rows: Sequence[tuple[str, float, str]], unit: float | None) -> list[Bar]:
    most = max((count for _, count, _ in rows), default=1)
    return [
        Bar(label, size(count), _percent(100 * count / unit) if unit else "", count / most, kind)
        for label, count, kind in rows
    ]


def _timed(report: Report) -> list[Mapping[str, Any]]:
    rows = (report.get("verification") or {}).get("runtimes") or []
    return [
        row for row in rows if row.get("ran") and row.get("milliseconds") and row.get("milliseconds_dense")
    ]
