"""ASNI-II as it is deployed: every kept weight is one of its layer's two levels, at every moment of the training.

Source: papers/asni.md §9 (recipe `move`) and §3.5 (`move=False`: the mask is fixed); nothing of it is in the paper
or its code, which train the two-level start with free floats. Latents of all weights are trained by the user's
optimiser with the gradient of the two-level weights (straight-through); the levels are parameters of their own;
the mask is chosen again among all latents until 0.7 of the moving part; at the end signs and mask rest and the
levels settle. Differs from §9: levels keep their sign by a floor on |level|, and the biases' rate stays the user's.
"""

import logging
from collections.abc import Mapping
from math import cos, pi
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressor.errors import InputError
from compressor.flow import reach
from compressor.held import Steps, before_use, has_closure
from compressor.latents import layer_of
from compressor.levels import Levels, centroids
from compressor.selection import keep_largest
from compressor.weights import Mask, fit

log = logging.getLogger(__name__)

# All measured on LeNet-300-100 and MNIST, papers/asni.md §9.1: shares of the training, steps, rate and floor.
_SETTLE: Final = 0.2
_MOVE_UNTIL: Final = 0.7
_MOVE_EVERY: Final = 20
_PATHS_EVERY: Final = 100
_LEVEL_RATE: Final = 1e-3
_RELEASE: Final = 0.05


def tied(
    model: nn.Module, optimizer: Optimizer, mask: Mapping[str, Tensor], *, steps: int, move: bool = True
) -> "TwoLevel":
    """Train the network that is deployed at two levels per layer, for `steps` steps of the optimiser.

    The module computes with two levels from now on; its per-layer counts are those of the mask. move=False keeps
    the mask where it is. The optimiser's rate drives the latents (Adam at 1e-3, decaying to 0, is what was measured).
    Raises InputError for a mask that does not fit, a layer whose kept weights are all 0, steps below 1, and at the
    first step of an optimiser that wants a closure (its gradients would belong to the latents).
    """
    if steps < 1:
        raise InputError(f"steps {steps} must be at least 1")
    if not isinstance(optimizer, Optimizer):
        raise InputError("tied takes one optimiser, which trains all weights of the mask")
    return TwoLevel(model, optimizer, mask, steps=steps, move=move)


class TwoLevel:
    """A running two-level training: `mask`, `levels` and `density` are those in force.

    settle_from: the step from which signs rest and levels and biases settle; a decaying rate begins anew there.
    """

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, mask: Mapping[str, Tensor], *, steps: int, move: bool
    ) -> None:
        self._model = model
        self._inputs: tuple[Tensor, ...] = ()
        self._judged: dict[str, Tensor] = {}
        self._move = move
        self._step = 0
        self.settle_from = steps - round(_SETTLE * steps)
        self._fixed_from = round(_MOVE_UNTIL * self.settle_from) if move else 0
        self._steps = steps
        start = centroids(model, mask)
        self._layers = {name: layer_of(p, mask[name], start[name]) for name, p in fit(model, mask).items()}
        self._grads: list[tuple[nn.Parameter, Tensor]] = []
        self._stepping = Steps()
        self._rescues: list[Any] = []
        self._forward_hook = model.register_forward_pre_hook(self._remember)
        self._handles = [
            self._forward_hook,
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
        found: Levels = {}
        for name, layer in self._layers.items():
            low, high = layer.levels.to(layer.values.dtype).tolist()
            found[name] = (0.0 if bool(layer.high.all()) else low, high if bool(layer.high.any()) else 0.0)
        return found

    def _remember(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Keep two samples of the first batch, to probe the paths with."""
        self._forward_hook.remove()
        if not self._inputs and all(isinstance(x, Tensor) for x in inputs):
            self._inputs = tuple((x[:2] if x.dim() else x).detach().cpu() for x in inputs)

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the levels' gradients, and let the optimiser's step meet the latents (or nothing, while settling)."""
        if has_closure(optimizer, args, kwargs):
            raise InputError(
                "tied cannot train with a closure: its gradients would not be those of the two levels"
            )
        if not self._stepping.begins(optimizer):
            return
        self._put_back()
        self._rescues = before_use(self._model, self._rescue)
        # A fused optimiser under GradScaler unscales by itself.
        scale = getattr(optimizer, "grad_scale", None)
        for layer in self._layers.values():
            gradient = layer.parameter.grad
            if gradient is None:
                layer.gradient.zero_()
                continue
            held = gradient.reshape(-1)[layer.index]
            sums = torch.stack([(held * ~layer.high).sum(), (held * layer.high).sum()]).float()
            layer.gradient.copy_(sums if scale is None else sums / scale)
            if self._step >= self.settle_from:
                self._grads.append((layer.parameter, gradient))
                layer.parameter.grad = None
                continue
            if self._step >= self._fixed_from:
                gradient.copy_(
                    torch.zeros_like(gradient).view(-1).index_copy_(0, layer.index, held).view_as(gradient)
                )
            layer.parameter.data = layer.latent

    @torch.no_grad()
    def _after(self, optimizer: Optimizer, *_: object) -> None:
        """Step the levels, choose the mask where it is due, and give the module its two-level weights back."""
        if not self._stepping.ends(optimizer):
            return
        self._put_back()
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is not None and bool(overflow):
            return  # a fused optimiser under GradScaler has skipped this step
        settling = self._step >= self.settle_from
        begun, length = (self.settle_from, self._steps) if settling else (0, self.settle_from)
        progress = min(1.0, (self._step - begun) / max(1, length - begun))
        rate = _LEVEL_RATE * 0.5 * (1 + cos(pi * progress))
        for layer in self._layers.values():
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

    def _rescue(self, *_: object) -> None:
        """Give the module its two-level weights back after a step that failed, before anyone sees the latents."""
        self._stepping.forget()
        self._put_back()

    def _put_back(self) -> None:
        """Give the module its two-level weights, and every parameter its gradient."""
        for rescue in self._rescues:
            rescue.remove()
        for layer in self._layers.values():
            if layer.parameter.data_ptr() == layer.latent.data_ptr():
                layer.parameter.data = layer.values
        for parameter, gradient in self._grads:
            parameter.grad = gradient
        self._grads, self._rescues = [], []

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
        What is not reached with nothing pruned either cannot be judged, nor can a network that the probe cannot run.
        """
        if not self._inputs:
            return
        mask = self.mask
        try:
            if not self._judged:
                self._judged = reach(
                    self._model, {n: torch.ones_like(k) for n, k in mask.items()}, self._inputs
                )
            reached = reach(self._model, mask, self._inputs)
        except InputError as error:
            log.info("weights on dead paths stay: %s", error)
            self._inputs = ()
            return
        for name, layer in self._layers.items():
            flat = layer.latent.view(-1)
            loose = (self._judged[name] & ~reached[name]).flatten().to(flat.device)
            dead = layer.index[loose[layer.index]]
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
        self._put_back()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
