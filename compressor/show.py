"""`compressor show`: what is inside a packed file, an ONNX file or a run folder. Without torch."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressor.errors import FormatError, InputError
from compressor.files import is_folder, kind_of, read_bytes

Found = dict[str, Any]


def look(path: Path) -> Found:
    """Return what is there, its kind under "what". Raises InputError or FormatError."""
    if is_folder(path):
        return _folder(path)
    return _packed(path) if refuse_foreign(path, "safetensors", "onnx") == "safetensors" else _onnx(path)


def refuse_foreign(path: Path, *wanted: str) -> str:
    """Return the kind of a file. Raises InputError, which says what it looks like, if it is none of `wanted`.

    wanted: safetensors (a packed file, as far as the first bytes tell), onnx.
    """
    kind = kind_of(path)
    if kind in wanted:
        return kind
    named = {"safetensors": "a packed file", "onnx": "an ONNX file"}
    needed = " or ".join(named[name] for name in wanted)
    found = {
        "empty": "is empty",
        "checkpoint": "is a torch checkpoint; pack it first (compressor pack FILE --mask-from-zeros --out OUT)",
        "npz": "is an npz of arrays (compressor import reads CSR in one)",
        "safetensors": "is a packed file",
        "onnx": "is an ONNX file",
    }.get(kind, "is something else")
    raise InputError(f"{path}: {found}; {needed} is wanted here")


def lines(found: Found) -> Iterable[str]:
    """Yield what `look` found, for people."""
    if found["what"] == "run":
        return _run_lines(found)
    return _onnx_lines(found) if found["what"] == "onnx" else _packed_lines(found)


def _packed(path: Path) -> Found:
    from compressor import packed
    from compressor.packed import reader

    with reader.opened(path, partly=True) as (inside, tensors):
        wanted = {one.name for one in inside.entries if one.values == "levels" and one.role != "alias"}
        levels = {name: one.levels for name, one in tensors if name in wanted} if wanted else {}
    sizes = packed.sizes(path)
    masked = [tensor for tensor in sizes.tensors if tensor.role == "sparse"]
    kept, total = sum(tensor.kept for tensor in masked), sum(tensor.total for tensor in masked)
    return {
        "what": inside.kind,
        "version": inside.version,
        "density": kept / total if total else 1.0,
        "kept": kept,
        "total": total,
        "levels": levels,
        **asdict(sizes),
    }


def _onnx(path: Path) -> Found:
    from exporters.onnx import read

    graph = read(path)
    found = asdict(graph)
    found["tensors"] = [
        {"name": name, "dtype": dtype, "shape": list(shape), "rebuilt": name in graph.chains}
        for name, (dtype, shape) in graph.tensors.items()
    ]
    return {"what": "onnx", "file": path.stat().st_size, **found}


def _folder(path: Path) -> Found:
    if not (path / "recipe.toml").is_file():
        raise InputError(
            f"{path}: not a run folder, it has no recipe.toml; give a file, or a folder of `compressor run`"
        )
    from compressor.records import read

    stages = [record.stem for record in sorted((path / "stages").glob("*.json"), key=_age)]
    report: Found = {}
    if (path / "report.json").is_file():
        try:
            report = json.loads(read_bytes(path / "report.json"))
        except ValueError as error:
            raise FormatError(f"{path / 'report.json'}: damaged ({error}); run the recipe again") from error
    under_way = read(path, "running").get("stage", "")
    done = [name for name in stages if name != "running"]
    return {"what": "run", "folder": str(path), "done": done, "under_way": under_way, "report": report}


def _age(path: Path) -> tuple[int, str]:
    return path.stat().st_mtime_ns, path.name


def _packed_lines(found: Found) -> Iterable[str]:
    kind = "an ASNI-II start (it is trained, not used as it is)"
    if found["what"] == "network":
        kind = "a task over a base network" if found["base"] else "a packed network"
    yield f"{kind}, version {found['version']}: {found['file']:,} bytes, dense {found['dense']:,}"
    if found["base"]:
        yield f"needs its base file, which is not counted: SHA-256 {found['base']}"
    yield f"density {found['density']:.6g}: {found['kept']:,} of {found['total']:,} masked weights kept"
    if found["formats"]:
        yield "formats: " + ", ".join(f"{name} {size:,}" for name, size in found["formats"].items())
    unknown = "not known without the base" if found["base"] else "not measured above 256 MiB"
    gzip = unknown if found["gzip"] is None else f"{found['gzip']:,}"
    yield f"gzip of the dense file {gzip}, entropy bound {found['bound']:,}"
    yield f"{'tensor':<32} {'dtype':<6} {'shape':<18} {'kept':>12} {'of':>12} {'format':<8} {'bytes':>11}"
    for tensor in found["tensors"]:
        shape = "x".join(str(size) for size in tensor["shape"]) or "scalar"
        levels = found["levels"].get(tensor["name"])
        note = f"  levels {levels[0]:.6g}, {levels[1]:.6g}" if levels else ""
        yield (
            f"{tensor['name']:<32} {tensor['dtype']:<6} {shape:<18} {tensor['kept']:>12,} "
            f"{tensor['total']:>12,} {tensor['format']:<8} {tensor['bytes']:>11,}{note}"
        )


def _onnx_lines(found: Found) -> Iterable[str]:
    digest = "fits" if found["digest_ok"] else "does NOT fit: the file was changed after it was written"
    yield f"an ONNX file, encoding {found['encoding']}: {found['file']:,} bytes; its digest {digest}"
    for name, value in sorted(found["metadata"].items()):
        yield f"{name} = {value}"
    for kind in ("inputs", "outputs"):
        yield f"{kind}: " + ", ".join(f"{name} {list(shape)}" for name, shape in found[kind].items())
    for tensor in found["tensors"]:
        how = "rebuilt at load" if tensor["rebuilt"] else "stored"
        yield f"{tensor['name']:<32} {tensor['dtype']:<6} {'x'.join(map(str, tensor['shape'])):<18} {how}"


def _run_lines(found: Found) -> Iterable[str]:
    yield f"a run in {found['folder']}: done {', '.join(found['done']) or 'nothing yet'}"
    if found["under_way"]:
        yield f"under way, or stopped in: {found['under_way']}"
    report = found["report"]
    if not report:
        yield "no report yet"
        return
    kept, total = report["density"]["kept"], report["density"]["total"]
    yield f"density {kept / total:.6g}: {kept:,} of {total:,} prunable weights kept"
    yield "accuracy: " + ", ".join(f"{name} {value:.2%}" for name, value in report["accuracy"].items())
    sizes = {name: size for name, size in report["bytes"].items() if isinstance(size, int)}
    yield "bytes: " + ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    if report["verification"]:
        yield "verification: " + ("passed" if report["verification"]["passed"] else "FAILED")


def succeeding(found: Found, path: Path) -> tuple[str, ...]:
    """Return the command that one would type next, as words; what it needs lies beside the file, or is asked for."""
    beside = {name: path.parent / name for name in ("recipe.toml", "model.safetensors", "model.onnx")}
    there = {name: one.is_file() for name, one in beside.items()}
    if found["what"] == "run":
        again = ("compressor", "run", f"{path}/recipe.toml", "--out", str(path))
        return ("open", f"{path}/report.html") if found["report"] else again
    if found["what"] == "start":
        start = ("--start-file", str(path), "--out", "tuned.safetensors")
        return ("compressor", "tune", *(start if there["recipe.toml"] else ("--help",)))
    if found["what"] == "onnx":
        files = (str(beside["model.safetensors"]), str(path))
        return ("compressor", "verify", *(files if there["model.safetensors"] else ("--help",)))
    if there["model.onnx"] and not found["base"]:
        return ("compressor", "verify", str(path), str(beside["model.onnx"]))
    if there["recipe.toml"] and not found["base"]:
        return ("compressor", "export", str(path), "--out", "net.onnx")
    base = ("--base", "base.safetensors") if found["base"] else ()
    return ("compressor", "unpack", str(path), *base, "--to", "safetensors", "--out", "dense.safetensors")
