"""The training loop of the pipeline: deterministic, resumable after every epoch, masks attached from outside.

The order of the data is a function of (seed, epoch), augmentation of (seed, epoch, step); dropout draws from the
global generator, which is seeded anew for every epoch, so that a killed run goes on to the same bits.
"""

import hashlib
import io
import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressor.data import Data, Images, Loader
from compressor.errors import FormatError, InputError
from compressor.files import write_bytes
from compressor.optimizers import learning_rate, make_optimizer, pick_device, steps_per_epoch
from compressor.recipe import Train
from compressor.two_level import TwoLevel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One trained epoch. loss: mean over the training split; accuracy: top-1 on the test split, a fraction."""

    stage: str
    epoch: int
    loss: float
    accuracy: float
    density: float


class Handle(Protocol):
    """What can be attached to a training: `hold`, `asni` and `tied` return one."""

    @property
    def density(self) -> float:
        """Kept / total of the mask in force."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""

    def __enter__(self) -> Self:
        """Attach."""

    def __exit__(self, *args: Any) -> None:
        """Let go."""


Attach = Callable[[nn.Module, Optimizer, int, int], Handle]
"""(model, optimizer, total steps, steps per epoch) -> handle."""


def fit(
    model: nn.Module,
    data: Data,
    settings: Train,
    *,
    seed: int,
    stage: str,
    first: int = 0,
    attach: Attach | None = None,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch, nn.Module], None] | None = None,
) -> tuple[tuple[Epoch, ...], Handle | None]:
    """Train the model in place and return its epochs and the handle that was attached.

    first: the epoch of the settings to begin with: rates, data order and augmentation are those of a training that
    is that far, the optimiser's state is fresh, and the epochs of this training are counted from 0.
    checkpoint: gone on from when it is there, written whole after every epoch; the caller deletes it.
    on_epoch is called after every epoch trained in this call. The model ends on the CPU in eval mode.
    Raises InputError for unknown settings, a loss that is not finite, or a checkpoint of another training.
    """
    device = pick_device(settings.device)
    model.to(device)
    per_epoch = steps_per_epoch(len(data.train), settings.batch)
    count = settings.epochs - first
    optimizer = make_optimizer(model, settings)
    handle = attach(model, optimizer, count * per_epoch, per_epoch) if attach else None
    restart = handle.settle_from if isinstance(handle, TwoLevel) else 0
    key = hashlib.sha256(repr((stage, seed, first, asdict(settings))).encode()).hexdigest()
    epochs = _resume(checkpoint, key, model, optimizer, handle)
    with handle if handle is not None else nullcontext():
        for number in range(len(epochs), count):
            loss = _epoch(model, data.train, optimizer, settings, seed, first + number, restart)
            if not math.isfinite(loss):
                what = f"{stage}: the loss is not finite in epoch {number + 1}"
                raise InputError(f"{what}; lower lr {settings.lr:g}")
            density = handle.density if handle else 1.0
            epochs = (*epochs, Epoch(stage, number, loss, evaluate(model, data.test, device), density))
            if on_epoch is not None:
                on_epoch(epochs[-1], model)
            # After on_epoch: whatever it writes must be there before a checkpoint says that the epoch is over.
            if checkpoint is not None and number + 1 < count:
                _save(checkpoint, key, model, optimizer, handle, epochs)
    model.to("cpu").eval()
    return epochs, handle


def _epoch(
    model: nn.Module,
    images: Images,
    optimizer: Optimizer,
    settings: Train,
    seed: int,
    number: int,
    restart: int,
) -> float:
    """Train one epoch; return the mean loss over its samples."""
    torch.manual_seed(_seed(seed, number, -1))
    device = next(model.parameters()).device
    per_epoch = steps_per_epoch(len(images), settings.batch)
    order = torch.randperm(len(images), generator=_generator(seed, number, -2))
    loss_function = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    total = torch.zeros((), dtype=torch.float64, device=device)
    model.train()
    for step in range(per_epoch):
        rate = learning_rate(settings, number * per_epoch + step, per_epoch, restart)
        for group in optimizer.param_groups:
            group["lr"] = rate
        indices = order[step * settings.batch : (step + 1) * settings.batch]
        x, y = images.take(indices, _generator(seed, number, step))
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        with _autocast(settings, device):
            outputs = model(x)
            # Networks with auxiliary heads (GoogLeNet, Inception) return a tuple while they train, logits first.
            loss = loss_function(outputs if isinstance(outputs, Tensor) else outputs[0], y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(y)
    return float(total) / min(len(images), per_epoch * settings.batch)


def _autocast(settings: Train, device: torch.device) -> AbstractContextManager[object]:
    # bfloat16 has float32's range: no loss scaling, so masks and levels meet true gradients.
    if settings.amp and device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, device: torch.device | None = None) -> float:
    """Return the top-1 accuracy as a fraction, in eval mode; the module's mode is put back."""
    place = device if device is not None else next(model.parameters()).device
    training = model.training
    model.eval()
    correct = sum(int((model(x.to(place)).argmax(1) == y.to(place)).sum()) for x, y in Loader(images, 500))
    model.train(training)
    return correct / len(images)


def _seed(seed: int, epoch: int, step: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{epoch}/{step}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")


def _generator(seed: int, epoch: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(seed, epoch, step))


def _save(
    path: Path,
    key: str,
    model: nn.Module,
    optimizer: Optimizer,
    handle: Handle | None,
    epochs: tuple[Epoch, ...],
) -> None:
    state = {
        "key": key,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "handle": handle.state_dict() if handle else {},
        "epochs": [asdict(epoch) for epoch in epochs],
    }
    # Through memory: on a full disk torch.save raises RuntimeError, a plain write the OSError that is ours to tell.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def _resume(
    path: Path | None, key: str, model: nn.Module, optimizer: Optimizer, handle: Handle | None
) -> tuple[Epoch, ...]:
    """Load a checkpoint of this very training, if there is one, and return its epochs."""
    if path is None or not path.exists():
        return ()
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise FormatError(
            f"{path}: not a checkpoint that can be read; delete it to start the stage again"
        ) from error
    if state["key"] != key:
        return ()
    model.load_state_dict(state["model"])
    if handle is not None:
        handle.load_state_dict(state["handle"])
    optimizer.load_state_dict(state["optimizer"])
    log.info("going on after epoch %d", len(state["epochs"]))
    return tuple(Epoch(**epoch) for epoch in state["epochs"])
