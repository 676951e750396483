"""Images that stay on disk: ImageNet and any folder of class folders, read and cropped to 224 when taken.

Source of the crops: Szegedy et al. 2014, section 6 (area 8 to 100 %, ratio 3/4 to 4/3), as in torchvision.
Differs: where no try fits, the largest central square is taken.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from compressor.data.images import Source
from compressor.errors import InputError
from compressor.imports import torchvision

SIDE: Final = 224
CENTRE: Final = SIDE / 256  # a central crop of 224 from a short side of 256
TRIES: Final = 10
MEASURED: Final = 1024  # images, evenly spaced, that mean and std of a folder are measured on
# Mean and std of ImageNet's training split, as every published ImageNet network uses them.
IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Box = tuple[float, float, float, float]


class Files:
    """Image files, decoded by threads when they are read."""

    def __init__(
        self,
        paths: Sequence[str],
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        augment: str = "none",
    ) -> None:
        self._paths = paths
        self._mean = torch.tensor(mean).reshape(-1, 1, 1)
        self._std = torch.tensor(std).reshape(-1, 1, 1)
        self._augment = augment
        self.shape = (3, SIDE, SIDE)

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, indices: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return normalised float32 images (N, 3, 224, 224). Raises InputError for a file that is none."""
        paths = [self._paths[index] for index in indices.tolist()]
        crops: list[list[list[float]] | None] = [None] * len(paths)
        flips = [False] * len(paths)
        if generator is not None and "crop" in self._augment:
            crops = torch.rand(len(paths), TRIES, 4, generator=generator, dtype=torch.float64).tolist()
        if generator is not None and "flip" in self._augment:
            flips = (torch.rand(len(paths), generator=generator) < 0.5).tolist()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images = list(pool.map(_decode, paths, crops, flips))
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        return x.float().div_(255).sub_(self._mean).div_(self._std).contiguous()

    def moments(self, indices: torch.Tensor | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Measure mean and std per channel on up to 1,024 central crops."""
        places = torch.arange(len(self)) if indices is None else indices
        places = places[:: -(-len(places) // MEASURED)]
        total, squares = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        for part in torch.split(places, 64):
            x = Files(self._paths).read(part, None).double()
            total += x.sum((0, 2, 3))
            squares += x.square().sum((0, 2, 3))
        mean = total / (len(places) * SIDE * SIDE)
        std = (squares / (len(places) * SIDE * SIDE) - mean.square()).clamp_min(0).sqrt()
        means, stds = ([float(f"{value:.6g}") for value in values.tolist()] for values in (mean, std))
        return tuple(means), tuple(value or 1.0 for value in stds)

    def ready(self, mean: tuple[float, ...], std: tuple[float, ...], augment: str) -> "Files":
        """Return the same files, to be read normalised and augmented in this way."""
        return Files(self._paths, mean, std, augment)


def imagenet(data_dir: Path) -> Source:
    """Return ImageNet from DATA_DIR/imagenet or DATA_DIR: train/ and val/, one folder per class."""
    for root in (data_dir / "imagenet", data_dir):
        if (root / "train").is_dir():
            found = folder(root)
            return Source(
                found.train, found.y_train, found.test, found.y_test, found.classes, found.augment, IMAGENET
            )
    raise InputError(
        f"imagenet: not found; put train/ and val/, one folder per class, into {data_dir / 'imagenet'}"
    )


def folder(root: Path) -> Source:
    """Return ROOT/train and ROOT/val (or ROOT/test), each with one folder of images per class.

    Raises InputError if a split is missing or empty, or the two have different classes.
    """
    held_out = next((root / part for part in ("val", "test") if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or held_out is None:
        raise InputError(
            f"{root}: wants the folders train and val (or test), each with one folder of images per class"
        )
    train, test = _open(root / "train"), _open(held_out)
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        raise InputError(f"{root}: train and {held_out.name} differ in their classes ({', '.join(odd[:5])})")
    splits = [
        (Files([path for path, _ in part.samples]), torch.tensor(part.targets)) for part in (train, test)
    ]
    (x_train, y_train), (x_test, y_test) = splits
    return Source(x_train, y_train, x_test, y_test, len(train.classes), augment="crop+flip")


def _open(root: Path) -> Any:
    try:
        return torchvision().datasets.ImageFolder(str(root))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{root}: wants one folder of images per class ({error})") from error


def _decode(path: str, crop: list[list[float]] | None, flip: bool) -> np.ndarray:
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from error
    width, height = picture.size
    box = _centre(width, height, CENTRE) if crop is None else _random(width, height, crop)
    pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box))
    return pixels[:, ::-1] if flip else pixels


def _centre(width: int, height: int, share: float) -> Box:
    side = min(width, height) * share
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random(width: int, height: int, draws: list[list[float]]) -> Box:
    for area, ratio, across, down in draws:
        pixels = width * height * (0.08 + 0.92 * area)
        shape = math.exp((2 * ratio - 1) * math.log(4 / 3))
        wide, high = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(across * (width - wide + 1)), int(down * (height - high + 1))
            return left, top, left + wide, top + high
    return _centre(width, height, 1.0)
