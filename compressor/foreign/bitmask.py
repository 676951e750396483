"""Checkpoints of compressed-tensors in the format `sparse-bitmask`, which the library itself reads no more.

Source: vllm-project/compressed-tensors 0.4.0 to 0.14.0, compressors/sparse_compressors/{base,sparse_bitmask}.py.
Layout A (before 0.9.0) names the parts PARAMETER.PART and packs every tensor, layout B names them MODULE.PART and
packs MODULE.weight. Differs: tensors of rank 0, which the library writes and fails to read, are read.
"""

import json
import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from compressor.errors import FormatError, InputError
from compressor.files import reading
from compressor.foreign.dense import given
from compressor.packed.item import Given
from compressor.packed.reader import DTYPES, MAX_RANK, Array, memory_limit
from compressor.plain import Plain, load

PARTS: Final = ("shape", "compressed", "bitmask", "row_offsets")
LAYOUTS: Final = ("a", "b")
FIRST_B: Final = (0, 9)  # the version
CONFIG: Final = "config.json"
SECTIONS: Final = ("quantization_config", "compression_config")
MAX_CONFIG: Final = 1 << 20
_VERSION: Final = re.compile(r"(\d{1,6})\.(\d{1,6})(\.|$)")
# what no module is called
_PARAMETER: Final = re.compile(
    r"(.*_)?bias|.*_weight|.*_scale|.*_zero_point|running_mean|running_var|num_batches_tracked"
)

Parts = Mapping[str, Plain]


def is_bitmask(tensors: Mapping[str, Plain]) -> bool:
    """Whether any tensor is part of a packed one."""
    return any(name.endswith(".bitmask") for name in tensors)


def givens(path: Path, tensors: Mapping[str, Plain], layout: str) -> list[Given]:
    """Return the tensors of a checkpoint; those that it holds packed are masked, a zero among their values is kept.

    layout: "a", "b", or "" to find it out. Raises FormatError (damaged), InputError (another format, or either layout
    possible).
    """
    groups: dict[str, dict[str, Plain]] = {}
    dense: dict[str, Plain] = {}
    for name, one in tensors.items():
        stem, dot, part = name.rpartition(".")
        if dot and part in PARTS:
            groups.setdefault(stem, {})[part] = one
        else:
            dense[name] = one
    for stem, parts in groups.items():
        if missing := [part for part in PARTS if part not in parts]:
            raise FormatError(
                f'{path}: "{stem}" has a {next(iter(parts))} and no {", ".join(missing)}; all four parts are needed'
            )
    layout = layout or _written(path) or _seen(path, list(groups), list(dense))
    found = [given(name, one) for name, one in dense.items()]
    budget = memory_limit(sum(one.bytes for one in tensors.values()))
    for stem, parts in groups.items():
        name = stem if layout == "a" else f"{stem}.weight"
        if name in dense:
            raise FormatError(f'{path}: has the tensor "{name}" twice, packed and dense')
        shape = _shape(path, name, parts)
        budget -= math.prod(shape) * (1 + np.dtype(DTYPES[parts["compressed"].dtype]).itemsize)
        if budget < 0:
            raise FormatError(f'{path}: tensor "{name}" claims more memory than a file of this size may')
        load = partial(_packed, path, name, shape, parts)
        found.append(Given(name, parts["compressed"].dtype, shape, True, load))
    return found


def _written(path: Path) -> str:
    """Return the layout that the version in the config.json beside the file means, or ""."""
    match = _VERSION.match(str((_section(path) or {}).get("version", "")))
    if match is None:
        return ""
    return "a" if (int(match[1]), int(match[2])) < FIRST_B else "b"


def is_beside(path: Path) -> bool:
    """Whether a config.json of compressed-tensors lies beside the file. Raises as `givens` does."""
    return _section(path) is not None


def _section(path: Path) -> dict[str, Any] | None:
    """Return what the config.json beside the file says of compressed-tensors, if it says anything."""
    beside = (path if path.is_dir() else path.parent) / CONFIG
    if not beside.exists():
        return None
    with reading(beside) as file:
        data = file.read(MAX_CONFIG + 1)
    try:
        if len(data) > MAX_CONFIG:
            raise ValueError(f"more than {MAX_CONFIG:,} bytes")
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{beside}: is no JSON ({error})") from None
    if not isinstance(config, dict):
        return None
    section: dict[str, Any] = next(
        (config[name] for name in SECTIONS if isinstance(config.get(name), dict)), config
    )
    sparsity = section.get("sparsity_config")
    if section.get("quant_method") not in (None, "compressed-tensors"):
        return None
    if section is config and not isinstance(sparsity, dict):
        return None
    kind = sparsity.get("format") if isinstance(sparsity, dict) else None
    if kind not in (None, "sparse-bitmask"):
        raise InputError(f"{beside}: says that the format is {kind!r}; only sparse-bitmask is read")
    return section


def _seen(path: Path, stems: list[str], dense: list[str]) -> str:
    """Return the layout that the names leave possible.

    Layout A has no dense tensors, and parameters named weight or bias; in layout B those would be modules. A module
    may have tensors of its own below it, a parameter has none.
    """
    named = [stem for stem in stems if stem.rpartition(".")[2] in ("weight", "bias")]
    names = sorted((*stems, *dense))
    if not named or any(_below(stem, names) for stem in stems):
        return "b"
    sure = len(named) == len(stems) or any(_PARAMETER.fullmatch(stem.rpartition(".")[2]) for stem in stems)
    if sure and not dense:
        return "a"
    raise InputError(
        f'{path}: "{named[0]}.bitmask" may belong to the tensor "{named[0]}" (written before compressed-tensors 0.9) '
        f'or to "{named[0]}.weight" (since); say --layout a or --layout b'
    )


def _below(stem: str, names: list[str]) -> bool:
    """Whether any of the sorted names lies below the stem; a set of all their prefixes would take n^2 memory."""
    at = bisect_left(names, f"{stem}.")
    return at < len(names) and names[at].startswith(f"{stem}.")


def _shape(path: Path, name: str, parts: Parts) -> tuple[int, ...]:
    """Return the shape of a packed tensor, against which the shapes of all four parts have been held."""
    told = parts["shape"]
    rank = told.shape[0] if len(told.shape) == 1 else -1
    # torch.tensor([]) is float32: what the library makes of the shape of a scalar
    if rank < 0 or rank > MAX_RANK or told.dtype != ("I64" if rank else told.dtype):
        raise _wrong(path, name, f"has a shape part of {told.dtype} {list(told.shape)}; I64 [rank] is right")
    sizes = load(told).view(np.int64).tolist() if rank else []
    if any(size < 0 for size in sizes) or math.prod(max(size, 1) for size in sizes) >= 1 << 48:
        raise _wrong(path, name, f"has the shape {sizes}, which cannot be")
    *rows, columns = sizes or [1]
    for part, dtype, shape in (
        ("bitmask", "U8", [*rows, -(-columns // 8)]),
        ("row_offsets", "I64", rows),
    ):
        one = parts[part]
        if (one.dtype, list(one.shape)) != (dtype, shape):
            raise _wrong(
                path,
                name,
                f"has {part} of {one.dtype} {list(one.shape)}; its shape {sizes} wants {dtype} {shape}",
            )
    values = parts["compressed"]
    if len(values.shape) != 1 or values.shape[0] > math.prod(sizes):
        raise _wrong(path, name, f"has values of shape {list(values.shape)} for a tensor of shape {sizes}")
    return tuple(sizes)


def _packed(path: Path, name: str, shape: tuple[int, ...], parts: Parts) -> tuple[Array, Array]:
    """Return bits and mask of a packed tensor, once its parts agree with each other."""
    *rows, columns = shape or (1,)
    packed = load(parts["bitmask"]).reshape(-1, -(-columns // 8)) if columns else np.empty((0, 0), np.uint8)
    if columns % 8 and (packed[:, -1] >> columns % 8).any():
        raise _wrong(path, name, "has padding bits in its bitmask that are not 0")
    counts = (
        np.bitwise_count(packed).sum(1, dtype=np.int64) if columns else np.zeros(math.prod(rows), np.int64)
    )
    values = load(parts["compressed"])
    if counts.sum() != len(values):
        raise _wrong(
            path, name, f"has {len(values):,} values, its bitmask {int(counts.sum()):,} places for them"
        )
    counts = counts.reshape(rows)
    offsets = np.cumsum(counts, 0) - counts if rows else np.zeros((), np.int64)
    if not np.array_equal(load(parts["row_offsets"]).view(np.int64).reshape(rows), offsets):
        raise _wrong(path, name, "has row_offsets that do not fit its bitmask")
    mask = np.unpackbits(packed, axis=1, count=columns, bitorder="little").view(bool).reshape(-1)
    bits = np.zeros(math.prod(shape), values.dtype)
    bits[mask] = values
    return bits, mask


def _wrong(path: Path, name: str, what: str) -> FormatError:
    return FormatError(f'{path}: tensor "{name}" {what}')
