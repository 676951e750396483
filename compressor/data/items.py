"""A torch Dataset of the user's own, read item by item."""

from collections.abc import Sequence
from typing import Any

import torch

from compressor.data import memory
from compressor.errors import InputError


class Items:
    """The inputs of a Dataset of (x, y). What its transforms draw from torch's generator is seeded."""

    def __init__(self, items: Any, what: str, mean: Sequence[float] = (), std: Sequence[float] = ()) -> None:
        if not hasattr(items, "__getitem__") or not hasattr(items, "__len__") or len(items) == 0:
            kind = type(items).__name__
            raise InputError(f"{what}: is {kind}; give (x, y) tensors or a torch Dataset that is not empty")
        self._items = items
        self._what = what
        self._mean, self._std = mean, std
        self.shape = tuple(self._stack([self._item(0)[0]]).shape[1:])

    def __len__(self) -> int:
        return len(self._items)

    def labels(self) -> torch.Tensor:
        """Return the labels: `targets` where the set has them, otherwise one pass over all items."""
        known = getattr(self._items, "targets", None)
        if known is None:
            known = [self._label(index) for index in range(len(self))]
        return memory.labels(known, self._what, len(self))

    def read(self, indices: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return float32 inputs; what the transforms draw follows from the generator, or is fixed."""
        seed = 0 if generator is None else int(torch.randint(2**62, (1,), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            x = self._stack([self._item(index)[0] for index in indices.tolist()])
        if not bool(x.isfinite().all()):
            raise InputError(f"{self._what}: NaN or infinity among the inputs {indices.tolist()[:5]} ...")
        if not self._mean:
            return x
        wide = (-1, *[1] * (len(self.shape) - 1)) if self.shape else (1,)
        return x.sub_(torch.tensor(self._mean).reshape(wide)).div_(torch.tensor(self._std).reshape(wide))

    def moments(self, _indices: torch.Tensor | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return nothing to normalise by: the transforms have the say unless the recipe has."""
        return (), ()

    def ready(self, mean: tuple[float, ...], std: tuple[float, ...], augment: str) -> "Items":
        """Return the same items, normalised. Raises InputError for an augmentation."""
        if augment != "none":
            raise InputError(
                f'{self._what}: augment "{augment}" is for tensors; a Dataset augments in its transforms'
            )
        return Items(self._items, self._what, mean, std)

    def _item(self, index: int) -> tuple[Any, Any]:
        """Return one (x, y). Raises InputError for whatever the user's code raises, or if it is no pair."""
        try:
            x, y = self._items[index]
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise InputError(f"{self._what}: item {index} cannot be read as (x, y) ({reason})") from error
        return x, y

    def _label(self, index: int) -> int:
        label = self._item(index)[1]
        try:
            return int(label)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{self._what}: the label of item {index} is no integer") from error

    def _stack(self, items: list[Any]) -> torch.Tensor:
        for item in items:
            if not isinstance(item, torch.Tensor):
                kind = type(item).__name__
                raise InputError(f"{self._what}: an input is {kind}; let a transform make a tensor of it")
            if item.shape != items[0].shape:
                shapes = f"{tuple(items[0].shape)} and {tuple(item.shape)}"
                raise InputError(f"{self._what}: inputs of shapes {shapes}; let a transform make them equal")
        x = torch.stack(items)
        return x.float().div_(255) if x.dtype == torch.uint8 else x.float()
