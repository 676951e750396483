"""Masks and weights that are drawn by integers, so that they are the same for ever and everywhere."""

import numpy as np
import torch

Shape = tuple[int, ...]


def draw(count: int, salt: int) -> np.ndarray:
    """`count` integers of 64 bits, evenly scattered (splitmix64)."""
    with np.errstate(over="ignore"):
        x = (np.arange(count, dtype=np.uint64) + np.uint64(1 + 1_000_003 * salt)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ x >> np.uint64(shift)) * np.uint64(factor)
        return x ^ x >> np.uint64(31)


def keep(shape: Shape, chance: np.ndarray | int, salt: int) -> torch.Tensor:
    """A mask; chance: in 1/1000, per element of the shape or for all."""
    n = int(np.prod(shape, dtype=np.int64))
    drawn = (draw(n, salt) >> np.uint64(40)) % np.uint64(1000)
    few = drawn < np.broadcast_to(np.asarray(chance, np.uint64), shape).reshape(-1)
    return torch.from_numpy(few).reshape(shape)


def columns(count: int, low: int, high: int) -> np.ndarray:
    """A chance per column that goes up and down seven times in seven columns."""
    return np.where(np.arange(count) * 3 % 7 < 3, high, low)


def hill(wide: int, height: int) -> np.ndarray:
    """A chance per pixel of a square picture: `height` in its middle, none at its edge."""
    y, x = np.divmod(np.arange(wide * wide), wide)
    away = np.maximum(abs(2 * y - wide + 1), abs(2 * x - wide + 1))
    return np.maximum(height - height * away // (wide // 2 + 1), 0)


def ordered(mask: torch.Tensor) -> torch.Tensor:
    """The mask with its rows in descending order."""
    rows = sorted(mask.flatten(1).int().tolist(), reverse=True)
    return torch.tensor(rows, dtype=torch.bool).reshape(mask.shape)


def floats(mask: torch.Tensor, salt: int) -> torch.Tensor:
    """float32 numbers between -1 and 1 under a mask, all different, none zero."""
    drawn = (draw(mask.numel(), salt + 500) >> np.uint64(40)).astype(np.int64)
    values = (2 * drawn + 1 - 2**24).astype(np.float64) / 2**24
    return torch.from_numpy(values.astype(np.float32).reshape(mask.shape)) * mask + 0.0


def two(mask: torch.Tensor, salt: int, coherent: bool = False) -> torch.Tensor:
    """The levels 0.375 and -0.25 under a mask; coherent: the sign depends on the column."""
    drawn = draw(mask.numel(), salt + 900) >> np.uint64(40)
    if coherent:
        across = mask.numel() // mask.shape[0]
        drawn = np.where(drawn % np.uint64(5) > 0, np.arange(mask.numel()) % across * 4 // across, drawn)
    high = torch.from_numpy(drawn.astype(np.int64) % 2 == 1).reshape(mask.shape)
    return torch.where(high, 0.375, -0.25) * mask + 0.0


def numbers(count: int, bits: int, dtype: torch.dtype, salt: int) -> torch.Tensor:
    """Integers of so many bits."""
    return torch.from_numpy((draw(count, salt) >> np.uint64(64 - bits)).astype(np.int64)).to(dtype)


def fed(first: torch.Tensor, shape: Shape, salt: int) -> torch.Tensor:
    """A mask whose columns are dense where the rows of `first` are."""
    sums = first.flatten(1).sum(1).numpy()
    chance = np.repeat(sums * 900 // sums.max(), int(np.prod(shape[1:])) // len(sums))
    return keep((shape[0], len(chance)), chance, salt).reshape(shape)
