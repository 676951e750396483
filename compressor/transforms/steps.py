"""The transforms that a recipe or a command asks for, one after the other, and what each of them gave."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from compressor import packed
from compressor.transforms.fold import fold_dead
from compressor.transforms.order import order_units
from compressor.transforms.proof import change_of
from compressor.transforms.result import Transformed, twin_of
from compressor.transforms.trace import inputs_of
from compressor.weights import Mask

Transform = Callable[[nn.Module, Mapping[str, Tensor], Any], Transformed]

TRANSFORMS: Final[Mapping[str, Transform]] = {"fold_dead": fold_dead, "order_units": order_units}
SAMPLES: Final = 256  # of the training images, for the proof


def transformed(
    model: nn.Module, mask: Mask, data: Any, wanted: Mapping[str, bool], packing: Mapping[str, Any]
) -> tuple[nn.Module, Mask, list[dict[str, Any]]]:
    """Return network and mask after the wanted transforms, and what each gave; the caller's stay as they are.

    wanted: whether, by the names of TRANSFORMS. What each gave: "transform", "bytes" [before, after] of the packed
    file, "kept" [before, after], "units" folded, removed and moved, "layers", "left" (name -> reason) and "proof".
    packing: options of `compressor.pack`, for the bytes. Errors: those of the transforms.
    """
    found: list[dict[str, Any]] = []
    if not any(wanted.values()):
        return model, mask, found
    size = _size(model, mask, packing)
    for name, transform in TRANSFORMS.items():
        if not wanted.get(name):
            continue
        done = transform(model, mask, data)
        smaller = _size(done.model, done.mask, packing)
        found.append(_told(name, done, [mask.kept, done.mask.kept], [size, smaller]))
        model, mask, size = done.model, done.mask, smaller
    return model, mask, found


def packed_as_asked(
    model: nn.Module,
    mask: Mask,
    path: Path,
    data: Any,
    wanted: Mapping[str, bool],
    packing: Mapping[str, Any],
) -> tuple[packed.Sizes, nn.Module, list[dict[str, Any]]]:
    """Transform and pack a network; return its sizes, the network as it is in the file, and what was done to it.

    Rounding values or biases is the last thing done: its "transform" is "round", its "proof" proves nothing but says
    what became of the outputs, and `bytes` begins with the lossless file. Arguments: as for `transformed`. Raises the
    errors of `compressor.pack` and of the transforms; then there is no file.
    """
    model, mask, found = transformed(model, mask, data, wanted, packing)
    if packing.get("values") or packing.get("biases"):
        found += _rounded(model, mask, data, packing)
    sizes = packed.pack(model, path, mask=mask, **packing)
    shipped = twin_of(model)
    packed.load(shipped, path)
    return sizes, shipped, found


def _rounded(model: nn.Module, mask: Mask, data: Any, packing: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what rounding gives and does, in the words of `transformed`; nothing if it is exact."""
    shipped = twin_of(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        sizes = packed.pack(model, path, mask=mask, **packing)
        packed.load(shipped, path)
    if not sizes.max_error:
        return []
    change = change_of(model, shipped, inputs_of(model, data))
    return [
        {
            "transform": "round",
            "bytes": [_size(model, mask, {"format": packing["format"]}), sizes.file],
            "kept": [mask.kept, mask.kept],
            "units": {"folded": 0, "removed": 0, "moved": 0},
            "layers": [],
            "left": {},
            "proof": asdict(change),
        }
    ]


def _told(name: str, done: Transformed, kept: list[int], size: list[int]) -> dict[str, Any]:
    units = {
        what: sum(getattr(layer, what) for layer in done.layers) for what in ("folded", "removed", "moved")
    }
    return {
        "transform": name,
        "bytes": size,
        "kept": kept,
        "units": units,
        "layers": [asdict(layer) for layer in done.layers],
        "left": dict(done.left),
        "proof": asdict(done.proof),
    }


def _size(model: nn.Module, mask: Mask, packing: Mapping[str, Any]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return packed.pack(model, Path(folder) / "model.safetensors", mask=mask, **packing).file
