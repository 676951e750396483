"""What a data set is: pixels that can be read by index, labels, and the splits of both."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch


class Pixels(Protocol):
    """Inputs of one split, in memory or on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return float32 inputs (N, *shape), normalised; with a generator, augmented by its draws alone."""
        ...

    def moments(self, indices: torch.Tensor | None, /) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel over these inputs (None: over all)."""
        ...

    def ready(self, mean: tuple[float, ...], std: tuple[float, ...], augment: str) -> "Pixels":
        """Return the same inputs, to be read normalised and augmented in this way."""
        ...


class Images:
    """The inputs and labels of one split.

    y: int64 labels (N,). shape: of one input. `take` is a pure function of its arguments.
    """

    def __init__(self, pixels: Pixels, y: torch.Tensor, chosen: torch.Tensor | None = None) -> None:
        self._pixels = pixels
        self._chosen = chosen
        self.y = y if chosen is None else y[chosen]
        self.shape = pixels.shape

    def __len__(self) -> int:
        return len(self.y)

    def take(
        self, indices: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (x, y) at these places: x float32 (N, *shape), normalised; y int64 (N,).

        With a generator x is augmented as the data set was asked to; without, never.
        """
        places = indices if self._chosen is None else self._chosen[indices]
        return self._pixels.read(places, generator), self.y[indices]


class Loader:
    """Batches (x, y) of a split in its order, as often as it is iterated over; the last may be smaller."""

    def __init__(self, images: Images, size: int) -> None:
        self._images = images
        self._size = size

    def __len__(self) -> int:
        return (len(self._images) + self._size - 1) // self._size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for places in torch.split(torch.arange(len(self._images)), self._size):
            yield self._images.take(places)


@dataclass(frozen=True, slots=True)
class Source:
    """A data set as it was found: raw inputs, checked labels, and what is usual for it.

    moments: mean and std where measuring them would be unusual or too slow.
    """

    train: Pixels
    y_train: torch.Tensor
    test: Pixels
    y_test: torch.Tensor
    classes: int
    augment: str = "none"
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """A data set, split and normalised. classes: number of outputs it wants; shape: of one input."""

    name: str
    train: Images
    validation: Images | None
    test: Images
    classes: int
    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
