"""Named data sets (digits, MNIST, Fashion-MNIST, CIFAR, ImageNet) and the user's own."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch

from compressor.data import cifar, digits, files, idx, own
from compressor.data.images import Data, Images, Loader, Source
from compressor.errors import InputError, unknown

__all__ = ["DATA_SETS", "Data", "Images", "Loader", "load"]

DATA_SETS: Final[Mapping[str, Callable[[Path], Source]]] = {
    "digits": digits.load,
    "mnist": partial(idx.load, "mnist"),
    "fashion-mnist": partial(idx.load, "fashion-mnist"),
    "cifar10": partial(cifar.load, "cifar10"),
    "cifar100": partial(cifar.load, "cifar100"),
    "imagenet": files.imagenet,
}
AUGMENT: Final = ("none", "crop", "flip", "crop+flip")


def load(
    name: str,
    *,
    data_dir: Path,
    validation: float = 0.0,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    augment: str = "auto",
    seed: int = 0,
    search: Sequence[Path] = (),
) -> Data:
    """Return the training, validation and test images of a data set.

    name: one of DATA_SETS, `folder:PATH`, `npz:PATH` or `package.module:factory` (searched for in `search`).
    validation: the share of the training split that is set aside, drawn by `seed`, never of the test set.
    mean, std: one per channel or one for all, of uint8 pixels over 255 or of floats as they are; without them
    they are measured on what remains of the training split, and a user's torch Dataset is left as it comes.
    augment: auto (what is usual for the set), none, crop, flip, crop+flip.

    Raises InputError for an unknown name and for data that is missing, damaged or does not fit together.
    """
    source = _source(name, data_dir, search)
    kind = source.augment if augment == "auto" else augment
    if kind not in AUGMENT:
        raise unknown("augmentation", kind, ("auto", *AUGMENT))
    if kind != "none" and len(source.train.shape) != 3:
        raise InputError(f'{name}: augment "{kind}" wants images (C, H, W), not shape {source.train.shape}')
    chosen, held_out = _split(name, len(source.train), validation, seed)
    means, stds = _moments(name, source, chosen, mean, std)
    train = source.train.ready(means, stds, kind)
    return Data(
        name=name,
        train=Images(train, source.y_train, chosen),
        validation=Images(train, source.y_train, held_out) if held_out is not None else None,
        test=Images(source.test.ready(means, stds, "none"), source.y_test),
        classes=source.classes,
        shape=source.train.shape,
        mean=means,
        std=stds,
    )


def _source(name: str, data_dir: Path, search: Sequence[Path]) -> Source:
    if name in DATA_SETS:
        return DATA_SETS[name](Path(data_dir))
    kind, separator, rest = name.partition(":")
    if not separator:
        raise unknown("data set", name, (*DATA_SETS, "npz:PATH", "folder:PATH", "package.module:factory"))
    if not rest:
        raise InputError(f'data set "{name}": nothing stands after the colon')
    if kind == "npz":
        return own.npz(Path(rest))
    if kind == "folder":
        return files.folder(Path(rest))
    return own.made(name, search)


def _split(name: str, count: int, share: float, seed: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the places of the training and of the validation images, ascending; None: all, and none."""
    if not 0 <= share < 1:
        raise InputError(f"{name}: validation is {share}; give a share from 0 up to but not including 1")
    size = int(count * share + 0.5)
    if share == 0:
        return None, None
    if not 0 < size < count:
        raise InputError(
            f"{name}: {share} of {count} training images leaves nothing to train or to validate on"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return order[size:].sort().values, order[:size].sort().values


def _moments(
    name: str, source: Source, chosen: torch.Tensor | None, mean: Sequence[float], std: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if bool(mean) != bool(std):
        raise InputError(f"{name}: mean and std go together; give both or neither")
    if not mean:
        return source.moments or source.train.moments(chosen)
    channels = source.train.shape[0] if source.train.shape else 1
    if len(mean) != len(std) or len(mean) not in (1, channels):
        raise InputError(
            f"{name}: mean has {len(mean)} and std {len(std)} values; the data has {channels} channels"
        )
    if not all(value > 0 for value in std):
        raise InputError(f"{name}: every std must be above 0")
    return tuple(map(float, mean)), tuple(map(float, std))
