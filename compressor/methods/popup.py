"""Edge-popup under way: scores stand in for the weights while the optimiser steps, and nowhere else.

Through step hooks, so that the module only ever computes with its weights under the mask and any optimiser will do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressor.errors import InputError
from compressor.held import Steps, before_use, has_closure
from compressor.selection import Quota, keep
from compressor.weights import Mask, refuse_nan


def score_gradient(gradient: Tensor, weight: Tensor, score: Tensor) -> Tensor:
    """Return dL/dS = dL/dw * W * sign(S) for every weight, kept or not; all of one shape.

    gradient: dL/dw of the masked weights w. Source: papers/edge-popup.md §2.4, number 3.
    """
    # copysign, because sign(0) = 0 would hold a score at 0 for ever.
    return gradient * weight * torch.copysign(score.new_ones(()), score)


@dataclass(slots=True)
class _Layer:
    """One weight. values: what the module computes with, weight * kept; score (contiguous): what is trained."""

    parameter: nn.Parameter
    values: Tensor
    weight: Tensor
    score: Tensor
    kept: Tensor


class Popup:
    """A running edge-popup: `mask` and `density` are those in force; the module holds the weights under it."""

    def __init__(
        self,
        model: nn.Module,
        weights: Mapping[str, nn.Parameter],
        frozen: frozenset[nn.Parameter],
        scores: Mapping[str, Tensor],
        wanted: Sequence[Quota],
        optimizers: Sequence[Optimizer],
    ) -> None:
        self._model, self._optimizers = model, optimizers
        self._frozen, self._quotas = frozen, wanted
        self._layers = {
            name: _Layer(
                w, w.data, w.detach().clone(), scores[name].to(w.device, w.dtype).contiguous(), torch.empty(0)
            )
            for name, w in weights.items()
        }
        self._stepping = Steps()
        # Empty but for a step under way, or after one that failed: the parameters here have scores for data, in place
        # of `values`, and in place of their gradient (second) that of the scores (third); the hidden ones have none.
        self._scored: list[tuple[_Layer, Tensor | None, Tensor | None]] = []
        self._hidden: list[tuple[nn.Parameter, Tensor]] = []
        self._rescues: list[Any] = []
        self._choose()
        self._forget_state()
        self._handles = [
            handle
            for optimizer in optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
            )
        ]
        _RUNNING.add(self)

    @property
    def mask(self) -> Mask:
        """The mask in force."""
        return Mask({name: layer.kept for name, layer in self._layers.items()})

    @property
    def density(self) -> float:
        """Kept / total of the mask in force; it does not change."""
        return self.mask.density

    @torch.no_grad()
    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let the optimiser's step meet the scores and their gradients, and nothing of what is frozen."""
        if has_closure(optimizer, args, kwargs):
            raise InputError(
                "edge_popup cannot train with a closure: its gradients would be taken at the scores"
            )
        if not self._stepping.begins(optimizer):
            return
        self._put_back()
        self._rescues = before_use(self._model, self._rescue)
        owned = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for parameter in owned & self._frozen:
            if parameter.grad is not None:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None
        for layer in self._layers.values():
            if layer.parameter in owned:
                given, shown = layer.parameter.grad, None
                layer.parameter.data = layer.score
                if given is not None:
                    shown = score_gradient(given, layer.weight, layer.score).contiguous()
                    layer.parameter.grad = shown
                self._scored.append((layer, given, shown))

    def _after(self, optimizer: Optimizer, *_: object) -> None:
        if self._stepping.ends(optimizer):
            self._put_back()
            self._choose()

    def _rescue(self, *_: object) -> None:
        """Give the module its weights back after a step that failed, before anyone sees the scores."""
        self._stepping.forget()
        self._put_back()

    def _put_back(self) -> None:
        """Give the module its weights, and every parameter its own gradient, if it was not dropped since."""
        for rescue in self._rescues:
            rescue.remove()
        for layer, given, shown in self._scored:
            layer.score, layer.parameter.data = layer.parameter.data, layer.values
            if layer.parameter.grad is not None or shown is None:
                layer.parameter.grad = given
        for parameter, gradient in self._hidden:
            if parameter.grad is None:
                parameter.grad = gradient
        self._scored, self._hidden, self._rescues = [], [], []

    def _forget_state(self) -> None:
        """Drop what the optimisers remember of the weights: momentum of weights is none of scores, nor the reverse."""
        for optimizer in self._optimizers:
            for layer in self._layers.values():
                optimizer.state.pop(layer.parameter, None)

    @torch.no_grad()
    def _choose(self) -> None:
        """Keep the largest |score|, and write the weights under that mask."""
        sizes = {name: layer.score.abs() for name, layer in self._layers.items()}
        for name, size in sizes.items():
            if not isfinite(float(size.max())):
                raise InputError(f'the scores of "{name}" are not finite any more; lower the learning rate')
        if len(self._quotas) < len(sizes):  # one ranking over all layers would empty some
            for size in sizes.values():
                size.view(-1)[size.argmax()] = torch.inf
        for name, kept in keep(sizes, self._quotas).items():
            layer = self._layers[name]
            layer.kept = kept
            layer.values.copy_(layer.weight).masked_fill_(~kept, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Return scores and frozen weights, for a checkpoint; the module's own state lacks what is pruned."""
        layers = {
            name: {"score": layer.score.clone(), "weight": layer.weight.clone()}
            for name, layer in self._layers.items()
        }
        return {"kept": self.mask.kept, "quotas": self._wanted(), "layers": layers}

    def _wanted(self) -> list[list[Any]]:
        return [[list(names), count] for names, count in self._quotas]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, to the same bits; nothing of another one is taken.

        Raises InputError for one of other layers, another density or scope, or with scores that are not finite.
        """
        if set(state) != {"kept", "quotas", "layers"}:
            raise InputError("the checkpoint is not one of edge-popup; give what state_dict() returned")
        shapes = {name: layer["score"].shape for name, layer in state["layers"].items()}
        if shapes != {name: layer.score.shape for name, layer in self._layers.items()}:
            raise InputError(
                "the checkpoint is of another edge-popup: its layers are not those of this network"
            )
        if state["kept"] != self.mask.kept:
            raise InputError(
                f"the checkpoint is of another edge-popup: it keeps {state['kept']} weights, this {self.mask.kept}"
            )
        if state["quotas"] != self._wanted():
            raise InputError("the checkpoint is of another edge-popup: its scope is not the one of this")
        refuse_nan({name: layer["score"] for name, layer in state["layers"].items()}, "score")
        for name, layer in self._layers.items():
            layer.score.copy_(state["layers"][name]["score"])
            layer.weight.copy_(state["layers"][name]["weight"])
        self._choose()

    def remove(self) -> None:
        """Let go: the module keeps its weights under the mask; what is pruned is +0.0."""
        self._put_back()
        if self._handles:
            self._forget_state()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        _RUNNING.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


_RUNNING: Final[WeakSet[Popup]] = WeakSet()


def refuse_running(weights: Mapping[str, nn.Parameter]) -> None:
    """Raise InputError for a weight that is under edge-popup already: its scores would be taken for weights."""
    running = {layer.parameter for popup in _RUNNING for layer in popup._layers.values()}
    for name, weight in weights.items():
        if weight in running:
            raise InputError(
                f'"{name}" is under edge-popup already; call remove() of the handle that holds it'
            )
