"""MNIST and Fashion-MNIST from their idx files, gzipped or not, in read-only folders too.

Source of the format: http://yann.lecun.com/exdb/mnist/ ("THE IDX FILE FORMAT"). An own reader, because
torchvision's wants a folder that it may write to.
"""

import gzip
import logging
import math
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import torch

from compressor.data.images import Source
from compressor.data.memory import inputs, labels
from compressor.errors import InputError
from compressor.files import read_bytes
from compressor.imports import torchvision

FOLDERS: Final = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
FILES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
UBYTE: Final = 8

log = logging.getLogger(__name__)


def load(name: str, data_dir: Path) -> Source:
    """Return the set from DATA_DIR/MNIST/raw (FashionMNIST/raw) or from DATA_DIR itself.

    Missing files are downloaded into the former. Raises InputError if they cannot be had or are damaged.
    """
    places = (data_dir / FOLDERS[name] / "raw", data_dir)
    paths = _find(places)
    if paths is None:
        _download(name, data_dir)
        paths = _find(places)
    if paths is None:
        raise InputError(f"{name}: not found; put {', '.join(FILES)} (or the .gz of each) into {places[0]}")
    arrays = [read(path, 3 if "idx3" in path.name else 1) for path in paths]
    train, test = inputs(arrays[0], str(paths[0])), inputs(arrays[2], str(paths[2]))
    y_train = labels(arrays[1], str(paths[1]), len(train), 10)
    y_test = labels(arrays[3], str(paths[3]), len(test), 10)
    return Source(train, y_train, test, y_test, classes=10)


def read(path: Path, dimensions: int) -> torch.Tensor:
    """Return the uint8 array of one idx file. Raises InputError if it is damaged or holds something else."""
    data = read_bytes(path)
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path}: damaged or cut short ({error}); fetch it again") from error
    start = 4 + 4 * dimensions
    if data[:4] != bytes((0, 0, UBYTE, dimensions)) or len(data) < start:
        raise InputError(f"{path}: not an idx file of {dimensions} dimensions of bytes")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise InputError(
            f"{path}: {len(data) - start} bytes where {math.prod(shape)} are promised; fetch it again"
        )
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def _find(folders: tuple[Path, ...]) -> list[Path] | None:
    for folder in folders:
        found = [path for file in FILES for path in (folder / file, folder / f"{file}.gz") if path.is_file()]
        paths = {path.name.removesuffix(".gz"): path for path in reversed(found)}
        if len(paths) == len(FILES):
            return [paths[file] for file in FILES]
    return None


def _download(name: str, data_dir: Path) -> None:
    log.info("%s: not in %s, downloading", name, data_dir)
    try:
        getattr(torchvision().datasets, FOLDERS[name])(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:
        log.info("%s: no download (%s)", name, error)
