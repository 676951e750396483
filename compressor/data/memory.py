"""Small sets: all inputs in one tensor, augmented batch-wise by indexing."""

from typing import Final

import numpy as np
import torch
from torch.nn import functional as F

from compressor.errors import InputError

PADDING: Final = 4  # pixels of black around an image that is cropped at random: He et al. 2015, section 4.2
MOST_CLASSES: Final = 2**20  # a label beyond is a mistake, and outputs for it would fill the memory
READY_BELOW: Final = 2**30  # bytes of float32; beyond, uint8 is kept and normalised batch by batch


class Memory:
    """Inputs in memory, uint8 or float32."""

    def __init__(self, x: torch.Tensor) -> None:
        self._x = x
        self._scale: torch.Tensor | None = None
        self._shift: torch.Tensor | None = None
        self._black: torch.Tensor | None = None
        self._augment = "none"
        self.shape = tuple(x.shape[1:])
        self.pixels = x.dtype == torch.uint8

    def __len__(self) -> int:
        return len(self._x)

    def read(self, indices: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return normalised float32 inputs; the generator draws crops first, then flips."""
        x = self._x.index_select(0, indices)
        if self._scale is not None and self._shift is not None:
            x = x.float().mul_(self._scale).add_(self._shift)
        if generator is not None and self._black is not None:
            if "crop" in self._augment:
                x = _crop(x, self._black, generator)
            if "flip" in self._augment:
                x = _flip(x, generator)
        return x

    def moments(self, indices: torch.Tensor | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Measure mean and std per channel (dimension 1), to six digits; what never varies has std 1."""
        x = self._x if indices is None else self._x[indices]
        channels = x.unsqueeze(1) if x.dim() == 1 else x
        pairs = [_moment(channels[:, channel].numpy()) for channel in range(channels.shape[1])]
        return tuple(mean for mean, _ in pairs), tuple(std for _, std in pairs)

    def ready(self, mean: tuple[float, ...], std: tuple[float, ...], augment: str) -> "Memory":
        """Return the inputs normalised: at once where they fit, otherwise at every read."""
        wide = (-1, *[1] * (len(self.shape) - 1)) if self.shape else (1,)
        unit = 255.0 if self._x.dtype == torch.uint8 else 1.0
        means, stds = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        scale, shift = (1 / (unit * stds)).float().reshape(wide), (-means / stds).float().reshape(wide)
        if self._x.numel() * 4 <= READY_BELOW:
            ready = Memory(self._x.float().mul(scale).add_(shift))
        else:
            ready = Memory(self._x)
            ready._scale, ready._shift = scale, shift
        if augment != "none":
            ready._black, ready._augment = shift, augment
        return ready


def _moment(values: np.ndarray) -> tuple[float, float]:
    if values.dtype == np.uint8:
        # Counts are integers, so the result does not depend on the order or the number of threads.
        counts = np.bincount(values.ravel(), minlength=256).astype(np.float64)
        level = np.arange(256) / 255
        mean = float(counts @ level / counts.sum())
        variance = float(counts @ (level - mean) ** 2 / counts.sum())
    else:
        mean = float(values.mean(dtype=np.float64))
        variance = float(np.square(values - np.float64(mean)).mean())
    std = float(f"{variance**0.5:.6g}")
    return float(f"{mean:.6g}"), std if std > 0 else 1.0


def _crop(x: torch.Tensor, black: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count, _, height, width = x.shape
    # Black is a pixel of 0 before normalisation: shifted away, padded with 0, shifted back.
    padded = F.pad(x - black, [PADDING] * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    offsets = torch.randint(2 * PADDING + 1, (2, count), generator=generator)
    return windows[torch.arange(count), :, offsets[0], offsets[1]] + black


def _flip(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    flipped = torch.rand(len(x), generator=generator) < 0.5
    return torch.where(flipped[:, None, None, None], x.flip(3), x)


def inputs(x: object, what: str) -> Memory:
    """Return checked inputs from an array or tensor.

    uint8 is taken as pixels 0..255, and (N, H, W) as grey images; floats are kept as they are, as float32.
    Raises InputError for any other dtype, for NaN or infinity, for no inputs, and for what looks like NHWC.
    """
    tensor = _tensor(x, what)
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise InputError(f"{what}: dtype is {str(tensor.dtype)[6:]}; give uint8 pixels or floats")
    if tensor.dim() < 2 or tensor.numel() == 0:
        raise InputError(f"{what}: shape is {tuple(tensor.shape)}; give at least one input, the batch first")
    if tensor.dim() == 4 and tensor.shape[1] == tensor.shape[2] > 4 and tensor.shape[3] in (1, 3):
        raise InputError(
            f"{what}: shape {tuple(tensor.shape)} looks like NHWC; give NCHW, channels before the pixels"
        )
    if tensor.dtype == torch.uint8:
        return Memory((tensor.unsqueeze(1) if tensor.dim() == 3 else tensor).contiguous())
    tensor = tensor.float().contiguous()
    bad = ~tensor.flatten(1).isfinite().all(1)
    if bad.any():
        raise InputError(
            f"{what}: NaN or infinity in input {int(bad.nonzero()[0])} (and {int(bad.sum())} in all)"
        )
    return Memory(tensor)


def _tensor(values: object, what: str) -> torch.Tensor:
    try:
        if isinstance(values, np.ndarray):
            # torch warns about an array that it may not write to.
            values = np.require(values, requirements=["C", "W"])
        return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{what}: is no array of numbers ({error})") from error


def labels(y: object, what: str, count: int, classes: int | None = None) -> torch.Tensor:
    """Return checked int64 labels (count,); (count, 1) is flattened.

    Raises InputError for a wrong number or dtype, for a label below 0, and for one above the given classes.
    """
    tensor = _tensor(y, what)
    if tensor.dim() == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.dim() != 1 or tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        shape = tuple(tensor.shape)
        raise InputError(
            f"{what}: dtype {str(tensor.dtype)[6:]} of shape {shape}; give one integer label per input"
        )
    if len(tensor) != count:
        raise InputError(f"{what}: {len(tensor)} labels for {count} inputs; give one for each")
    tensor = tensor.to(torch.int64).contiguous()
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0:
        raise InputError(f"{what}: label {low} is negative; labels count from 0")
    if high >= MOST_CLASSES:
        raise InputError(f"{what}: label {high} is no class number; labels count from 0 without large gaps")
    if classes is not None and high >= classes:
        raise InputError(f"{what}: label {high} is out of range; this set has labels 0 to {classes - 1}")
    return tensor
