"""CIFAR-10 and CIFAR-100 through torchvision, from the python folders whose checksums it knows."""

import logging
from pathlib import Path
from typing import Any, Final

import torch

from compressor.data.images import Source
from compressor.data.memory import inputs, labels
from compressor.errors import InputError
from compressor.imports import torchvision

CLASSES: Final = {"cifar10": ("CIFAR10", 10), "cifar100": ("CIFAR100", 100)}

log = logging.getLogger(__name__)


def load(name: str, data_dir: Path) -> Source:
    """Return 50,000 training and 10,000 test images, 3x32x32; what is missing is downloaded into DATA_DIR.

    Raises InputError where files are missing, or differ from the official ones, and cannot be downloaded.
    """
    _, classes = CLASSES[name]
    splits = []
    for train in (True, False):
        found = _open(name, data_dir, train)
        x = inputs(torch.from_numpy(found.data).permute(0, 3, 1, 2), name)
        splits.append((x, labels(found.targets, name, len(x), classes)))
    (train_x, train_y), (test_x, test_y) = splits
    return Source(train_x, train_y, test_x, test_y, classes, augment="crop+flip")


def _open(name: str, data_dir: Path, train: bool) -> Any:
    kind = getattr(torchvision().datasets, CLASSES[name][0])
    try:
        return kind(str(data_dir), train=train, download=False)
    except RuntimeError:
        log.info("%s: not whole in %s, downloading", name, data_dir)
    try:
        return kind(str(data_dir), train=train, download=True)
    except (OSError, RuntimeError) as error:
        place = data_dir / kind.base_folder
        raise InputError(
            f"{name}: {place} is not whole, the download failed ({error}); unpack {kind.url} into {data_dir}"
        ) from error
