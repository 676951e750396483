"""A run folder while it is walked: its recipe, its data, its networks, and what is told along the way."""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import Tensor, nn

from compressor import data, files, models, packed
from compressor.errors import HostError
from compressor.optimizers import pick_device
from compressor.recipe import Recipe, Train
from compressor.train import Attach, Epoch, evaluate, fit
from compressor.weights import Mask

Event = dict[str, Any]
OnEvent = Callable[[Event], None]

DENSE: Final = "stages/dense.safetensors"
REWIND: Final = "stages/rewind.safetensors"
START: Final = "start.safetensors"
MODEL: Final = "model.safetensors"
ONNX: Final = {"compact": "model.onnx", "dense": "model.dense.onnx"}
_HASHED_WHOLE: Final = 2**30
_NAMED: Final = ("npz", "folder", "torchvision")  # what stands before a colon and is no module of the user's


class Run:
    """One recipe in one folder. Lives for one walk; holds the data sets that were loaded.

    results: what the stages of this walk found, by name, in the order of the walk.
    recorded: whether the folder is a run folder, with log and checkpoint, or just where a single file lies.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        data_dir: Path,
        on_event: OnEvent | None = None,
        *,
        recorded: bool = True,
    ) -> None:
        self._recorded = recorded
        self.recipe = recipe
        self.folder = folder
        self.results: dict[str, dict[str, Any]] = {}
        self._data_dir = data_dir
        self._on_event = on_event
        self.data = cache(self._data)
        self._read_inputs = cache(self._inputs)

    def tell(self, event: str, **values: Any) -> None:
        """Append an event to log.jsonl and pass it on to whoever listens. Raises HostError."""
        told = {"event": event, **values}
        if self._recorded:
            self._log(json.dumps(told))
        if self._on_event is not None:
            self._on_event(told)

    def _log(self, line: str) -> None:
        path = self.folder / "log.jsonl"
        try:
            with path.open("a+b") as log:
                # A killed process may have left half a line.
                half = log.tell() > 0 and path.read_bytes()[-1:] != b"\n"
                log.write((b"\n" if half else b"") + line.encode() + b"\n")
        except OSError as error:
            raise HostError(f"{path}: cannot be written ({error.strerror or error})") from error

    @property
    def search(self) -> tuple[Path, ...]:
        """The folders in which the user's modules are looked for."""
        return (Path(self.recipe.folder), Path.cwd())

    def _data(self, augment: str = "auto") -> data.Data:
        wanted = self.recipe.data
        return data.load(
            wanted.name,
            data_dir=self._data_dir,
            validation=wanted.validation,
            mean=wanted.mean,
            std=wanted.std,
            augment=augment,
            seed=self.recipe.seed,
            search=self.search,
        )

    def network(self, *, given: bool = False) -> nn.Module:
        """Return the network on its random start, or with the weights that the user gave.

        Raises InputError for weights that do not fit or are not finite.
        """
        found, name = self.data(), self.recipe.model.name
        model = models.build(
            name, shape=found.shape, classes=found.classes, seed=self.recipe.seed, search=self.search
        )
        if given and self.recipe.model.weights:
            models.load_weights(model, Path(self.recipe.model.weights))
        return model

    def stored(self, name: str) -> tuple[nn.Module, Mask]:
        """Return the network with the weights of a packed file of this folder, and its mask."""
        model = self.network()
        packed.load(model, self.folder / name)
        return model, Mask(packed.unpack_mask(self.folder / name))

    def store(self, model: nn.Module, name: str, mask: Mask | None = None) -> None:
        """Keep weights between stages as a packed file, exactly."""
        packed.pack(model, self.folder / name, mask=mask, format="auto" if mask is None else "bitmask")

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Return a batch of training samples drawn by the seed, not augmented."""
        images = self.data().train
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.recipe.seed))
        return images.take(order[:size])

    def train(
        self,
        model: nn.Module,
        stage: str,
        settings: Train,
        attach: Attach | None = None,
        on_epoch: Callable[[Epoch, nn.Module], None] | None = None,
        *,
        first: int = 0,
    ) -> list[dict[str, Any]]:
        """Train a stage, going on from its checkpoint, and return its epochs. first: as in `fit`."""

        def told(epoch: Epoch, trained: nn.Module) -> None:
            if on_epoch is not None:
                on_epoch(epoch, trained)
            self.tell("epoch", **asdict(epoch), epochs=settings.epochs - first)

        with threads(settings.threads):
            epochs, _ = fit(
                model,
                self.data(settings.augment),
                settings,
                seed=self.recipe.seed,
                stage=stage,
                first=first,
                attach=attach,
                checkpoint=self.folder / "checkpoint.pt" if self._recorded else None,
                on_epoch=told,
            )
        return [asdict(epoch) for epoch in epochs]

    def accuracy(self, model: nn.Module) -> float:
        """Return the top-1 accuracy on the test set, a fraction."""
        return self._measured(model, self.data().test)

    def validation(self, model: nn.Module) -> float | None:
        """Return the top-1 accuracy on the validation images, a fraction; None where there are none."""
        images = self.data().validation
        return None if images is None else self._measured(model, images)

    def _measured(self, model: nn.Module, images: data.Images) -> float:
        device = pick_device(self.recipe.train.device)
        with threads(self.recipe.train.threads):
            accuracy = evaluate(model.to(device), images, device)
        model.to("cpu")
        return accuracy

    def settings(self) -> dict[str, Any]:
        """Return the settings that every stage depends on: network, data, seed; of files only the kind."""
        recipe = self.recipe
        return {
            "model": recipe.model.name,
            "data": {**asdict(recipe.data), "name": recipe.data.name.partition(":")[0]},
            "seed": recipe.seed,
        }

    def inputs(self) -> dict[str, str]:
        """Return the digests of what every stage depends on: data, the user's modules, the given weights."""
        return dict(self._read_inputs())

    def _inputs(self) -> dict[str, str]:
        found = {"data": _fingerprint(self.data())}
        for what, name in (("model", self.recipe.model.name), ("data", self.recipe.data.name)):
            kind, colon, rest = name.partition(":")
            if kind == "npz":
                found["npz"] = files.sha256(rest)
            elif colon and kind not in _NAMED:
                self.network()  # the module is known once it is imported
                found |= {f"{what} {path.name}": files.sha256(path) for path in _sources(kind, self.search)}
        if self.recipe.model.weights:
            found["weights"] = files.sha256(self.recipe.model.weights)
        return found

    def digests(self, *names: str) -> dict[str, str]:
        """Return the digests of files of this folder."""
        return {name: files.sha256(self.folder / name) for name in names}


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use this many threads for as long as the block runs; 0: as many as it does."""
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _sources(name: str, search: Sequence[Path]) -> list[Path]:
    """Return the files of a user's module and of all that it imports from the folders that are searched."""
    folders, waiting, found = [folder.resolve() for folder in search], [name], dict[str, Path]()
    while waiting:
        module = sys.modules.get(waiting.pop())
        file = getattr(module, "__file__", None)
        if module is None or not file or module.__name__ in found:
            continue
        if module.__name__.startswith("compressor."):
            continue
        path = Path(file).resolve()
        if "site-packages" not in path.parts and any(path.is_relative_to(folder) for folder in folders):
            found[module.__name__] = path
            for value in vars(module).values():
                origin = (
                    value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
                )
                waiting += [origin] if isinstance(origin, str) else []
    return sorted(found.values())


def _fingerprint(found: data.Data) -> str:
    """Return a digest of a data set: labels, how they are normalised, and the inputs (64 of a split above 1 GiB)."""
    digest = hashlib.sha256(repr((found.shape, found.classes, found.mean, found.std)).encode())
    splits: Sequence[data.Images | None] = (found.train, found.validation, found.test)
    for images in splits:
        if images is not None:
            digest.update(images.y.numpy().tobytes())
            whole = 4 * math.prod(images.shape) * len(images) <= _HASHED_WHOLE
            count = len(images) if whole else min(64, len(images))
            places = torch.linspace(0, len(images) - 1, count, dtype=torch.float64).round().long()
            for part in places.split(1000):
                digest.update(images.take(part)[0].numpy().tobytes())
    return digest.hexdigest()
