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
from compressor.transforms.result import Transformed
from compressor.weights import Mask

Transform = Callable[[nn.Module, Mapping[str, Tensor], Any], Transformed]

TRANSFORMS: Final[Mapping[str, Transform]] = {"fold_dead": fold_dead, "order_units": order_units}
SAMPLES: Final = 256  # of the training images, for the proof


def transformed(
    model: nn.Module,
    mask: Mask,
    data: Any,
    wanted: Mapping[str, bool],
    *,
    format: str,  # noqa: A002
    values: str | None,
) -> tuple[nn.Module, Mask, list[dict[str, Any]]]:
    """Return network and mask after the wanted transforms, and what each gave; the caller's stay as they are.

    wanted: whether, by the names of TRANSFORMS. What each gave: "transform", "bytes" [before, after] of the packed
    file, "kept" [before, after], "units" folded, removed and moved, "layers", "left" (name -> reason) and "proof".
    format, values: as for `compressor.pack`, for the bytes. Errors: those of the transforms.
    """
    found: list[dict[str, Any]] = []
    if not any(wanted.values()):
        return model, mask, found
    size = _size(model, mask, format, values)
    for name, transform in TRANSFORMS.items():
        if not wanted.get(name):
            continue
        done = transform(model, mask, data)
        smaller = _size(done.model, done.mask, format, values)
        found.append(_told(name, done, [mask.kept, done.mask.kept], [size, smaller]))
        model, mask, size = done.model, done.mask, smaller
    return model, mask, found


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


def _size(model: nn.Module, mask: Mask, format: str, values: str | None) -> int:  # noqa: A002
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        return packed.pack(model, path, mask=mask, format=format, values=values).file
