"""ASNI-II as it is deployed: every kept weight is one of its layer's two levels, at every moment of the training.

Source: papers/asni.md §9 (recipe `move`) and §3.5 (`move=False`: the mask is fixed); nothing of it is in the paper
or its code, which train the two-level start with free floats. Latents of all weights are trained by the user's
optimiser with the gradient of the two-level weights (straight-through); the levels are parameters of their own;
the mask is chosen again among all latents until 0.7 of the moving part; at the end signs and mask rest and the
levels settle. Differs from §9: levels keep their sign by a floor on |level|, and the biases' rate stays the user's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sqrt
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressor.errors import InputError
from compressor.flow import reach
from compressor.levels import Levels, centroids
from compressor.selection import keep_largest
from compressor.weights import Mask, fit

# All measured on LeNet-300-100 and MNIST, papers/asni.md §9.1: shares of the training, steps, rate and floor.
_SETTLE: Final = 0.2
_MOVE_UNTIL: Final = 0.7
_MOVE_EVERY: Final = 20
_PATHS_EVERY: Final = 100
_LEVEL_RATE: Final = 1e-3
_LEVEL_FLOOR: Final = 1e-4
_RELEASE: Final = 0.05


def tied(
    model: nn.Module, optimizer: Optimizer, mask: Mapping[str, Tensor], *, steps: int, move: bool = True
) -> "TwoLevel":
    """Train the network that is deployed at two levels per layer, for `steps` steps of the optimiser.

    The module computes with two levels from now on; its per-layer counts are those of the mask. move=False keeps
    the mask where it is. The optimiser's rate drives the latents (Adam at 1e-3, decaying to 0, is what was measured).
    Raises InputError for a mask that does not fit, a layer whose kept weights are all 0, or steps below 1.
    """
    if steps < 1:
        raise InputError(f"steps {steps} must be at least 1")
    return TwoLevel(model, optimizer, mask, steps=steps, move=move)


@dataclass(slots=True)
class _Layer:
    """One weight: its two-level values, the latents of the same shape, and the Adam moments of its levels.

    index: flat places of the kept weights, ascending; high: which of those have the upper level. What happens at
    every step touches these places only: at low density that is nearly free.
    """

    parameter: nn.Parameter
    values: Tensor
    latent: Tensor
    index: Tensor
    high: Tensor
    levels: Tensor
    first: Tensor
    second: Tensor
    gradient: Tensor

    def kept(self) -> Tensor:
        """Return the mask in force, of the weight's shape."""
        flat = torch.zeros(self.latent.numel(), dtype=torch.bool, device=self.latent.device)
        return flat.index_fill_(0, self.index, True).view(self.latent.shape)

    def keep(self, mask: Tensor) -> None:
        """Put another mask in force; the two-level values follow."""
        self.index = mask.to(self.latent.device).flatten().nonzero().flatten()
        self.high = self.latent.view(-1)[self.index] > 0
        self.values.zero_()
        self.write()

    def write(self) -> None:
        """Write the levels to the kept places."""
        low, high = self.levels.unbind()
        self.values.view(-1).index_copy_(0, self.index, torch.where(self.high, high, low))

    def step(self, rate: float, age: int) -> None:
        """One bias-corrected Adam step (0.9, 0.999, 1e-8) of the levels, `age` steps since its moments were 0."""
        self.first.mul_(0.9).add_(self.gradient, alpha=0.1)
        self.second.mul_(0.999).addcmul_(self.gradient, self.gradient, value=0.001)
        spread = self.second.sqrt().div_(sqrt(1 - 0.999**age)).add_(1e-8)
        self.levels.addcdiv_(self.first, spread, value=-rate / (1 - 0.9**age))
        self.levels[0].clamp_(max=-_LEVEL_FLOOR)
        self.levels[1].clamp_(min=_LEVEL_FLOOR)


class TwoLevel:
    """A running two-level training: `mask`, `levels` and `density` are those in force.

    settle_from: the step from which signs rest and levels and biases settle; a decaying rate begins anew there.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, mask: Mapping[str, Tensor], *, steps: int, move: bool
    ) -> None:
        self._model = model
        self._inputs: tuple[Tensor, ...] = ()
        self._move = move
        self._step = 0
        self.settle_from = steps - round(_SETTLE * steps)
        self._fixed_from = round(_MOVE_UNTIL * self.settle_from) if move else 0
        self._steps = steps
        start = centroids(model, mask)
        self._layers = {name: _layer(p, mask[name], start[name]) for name, p in fit(model, mask).items()}
        self._handles = [
            model.register_forward_pre_hook(self._remember),
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    @property
    def mask(self) -> Mask:
        """The mask in force."""
        return Mask({name: layer.kept() for name, layer in self._layers.items()})

    @property
    def density(self) -> float:
        """Kept / total of the mask in force; it does not change."""
        return self.mask.density

    @property
    def levels(self) -> Levels:
        """The levels in force, {name: (low, high)}; a level that no weight has is 0.0."""
        return {
            name: (
                0.0 if bool(layer.high.all()) else float(layer.levels[0]),
                float(layer.levels[1]) if bool(layer.high.any()) else 0.0,
            )
            for name, layer in self._layers.items()
        }

    def _remember(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not self._inputs:
            self._inputs = tuple(x[:2].detach().cpu() for x in inputs if isinstance(x, Tensor))

    @torch.no_grad()
    def _before(self, *_: object) -> None:
        """Take the levels' gradients, and let the optimiser's step meet the latents (or nothing, while settling)."""
        settling = self._step >= self.settle_from
        for layer in self._layers.values():
            gradient = layer.parameter.grad
            if gradient is None:
                layer.gradient.zero_()
                continue
            held = gradient.reshape(-1)[layer.index]
            high = (held * layer.high).sum()
            layer.gradient.copy_(torch.stack([held.sum() - high, high]))
            if settling:
                layer.parameter.grad = None
                continue
            if self._step >= self._fixed_from:
                gradient.copy_(
                    torch.zeros_like(layer.values)
                    .view(-1)
                    .index_copy_(0, layer.index, held)
                    .view_as(gradient)
                )
            layer.parameter.data = layer.latent

    @torch.no_grad()
    def _after(self, *_: object) -> None:
        """Step the levels, choose the mask where it is due, and give the module its two-level weights back."""
        settling = self._step >= self.settle_from
        begun, length = (self.settle_from, self._steps) if settling else (0, self.settle_from)
        progress = min(1.0, (self._step - begun) / max(1, length - begun))
        rate = _LEVEL_RATE * 0.5 * (1 + cos(pi * progress))
        for layer in self._layers.values():
            layer.parameter.data = layer.values
            if not settling:
                layer.high = layer.latent.view(-1)[layer.index] > 0
            layer.step(rate, self._step - begun + 1)
            layer.write()
        self._step += 1
        if self._move and self._step <= self._fixed_from:
            self._choose()
        if self._step == self.settle_from:
            for layer in self._layers.values():
                layer.first.zero_()
                layer.second.zero_()

    def _choose(self) -> None:
        """Choose the mask again among all latents, per layer."""
        last = self._step == self._fixed_from
        if last or self._step % _PATHS_EVERY == 0:
            self._release_dead()
        if last or self._step % _MOVE_EVERY == 0:
            for name, layer in self._layers.items():
                layer.keep(keep_largest({name: layer.latent.abs()}, len(layer.index))[name])

    def _release_dead(self) -> None:
        """Set latents of kept weights on no input-output path to 0, the smallest first, so that others take over.

        Dead weights do nothing, but each that takes over enters at a full level: all at once can wreck the network.
        """
        reached = reach(self._model, self.mask, self._inputs)
        for name, layer in self._layers.items():
            flat = layer.latent.view(-1)
            dead = layer.index[~reached[name].flatten().to(flat.device)[layer.index]]
            some = max(1, round(_RELEASE * len(layer.index)))
            flat[dead[flat[dead].abs().argsort(stable=True)[:some]]] = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on, as plain tensors and numbers."""
        keys = ("values", "latent", "index", "high", "levels", "first", "second")
        layers = {
            name: {key: getattr(layer, key).clone() for key in keys} for name, layer in self._layers.items()
        }
        return {"step": self._step, "layers": layers, "inputs": list(self._inputs)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._step = int(state["step"])
        self._inputs = tuple(state["inputs"])
        for name, values in state["layers"].items():
            layer = self._layers[name]
            for key, value in values.items():
                setattr(layer, key, value.to(layer.latent.device, copy=True))
            layer.parameter.data = layer.values

    def remove(self) -> None:
        """Let go: the module keeps its two-level weights."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _layer(parameter: nn.Parameter, mask: Tensor, start: Sequence[float]) -> _Layer:
    latent = parameter.detach().clone(memory_format=torch.contiguous_format)
    # An absent level starts as the mirror image of the other: signs may flip, and then it is needed.
    low, high = start[0] or -start[1], start[1] or -start[0]
    levels = torch.tensor([low, high], dtype=latent.dtype, device=latent.device)
    moments = [torch.zeros_like(levels) for _ in range(3)]
    nothing = torch.zeros(0, dtype=torch.int64, device=latent.device)
    layer = _Layer(parameter, torch.zeros_like(latent), latent, nothing, nothing > 0, levels, *moments)
    layer.keep(mask)
    parameter.data = layer.values
    return layer
