"""Edge-popup under way: scores stand in for the weights while the optimiser steps, and nowhere else.

Through step hooks, so that the module only ever computes with its weights under the mask and any optimiser will do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressor.errors import InputError
from compressor.held import has_closure
from compressor.selection import Quota, keep
from compressor.weights import Mask


def score_gradient(gradient: Tensor, weight: Tensor, score: Tensor) -> Tensor:
    """Return dL/dS = dL/dw * W * sign(S) for every weight, kept or not; all of one shape.

    gradient: dL/dw of the masked weights w. Source: papers/edge-popup.md §2.4, number 3.
    """
    # copysign, because sign(0) = 0 would hold a score at 0 for ever.
    return gradient * weight * torch.copysign(score.new_ones(()), score)


@dataclass(slots=True)
class _Layer:
    """One weight. values: what the module computes with, weight * kept; score: what the optimiser trains."""

    parameter: nn.Parameter
    values: Tensor
    weight: Tensor
    score: Tensor
    kept: Tensor


class Popup:
    """A running edge-popup: `mask` and `density` are those in force; the module holds the weights under it."""

    def __init__(
        self,
        weights: Mapping[str, nn.Parameter],
        frozen: frozenset[nn.Parameter],
        scores: Mapping[str, Tensor],
        wanted: Sequence[Quota],
        optimizers: Sequence[Optimizer],
    ) -> None:
        self._frozen, self._quotas = frozen, wanted
        self._layers = {
            name: _Layer(w, w.data, w.detach().clone(), scores[name].to(w.device, w.dtype), torch.empty(0))
            for name, w in weights.items()
        }
        self._scored: list[tuple[_Layer, Tensor | None]] = []
        self._hidden: list[tuple[nn.Parameter, Tensor]] = []
        self._choose()
        self._handles = [
            handle
            for optimizer in optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
            )
        ]

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
        owned = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        for parameter in owned & self._frozen:
            if parameter.grad is not None:
                self._hidden.append((parameter, parameter.grad))
                parameter.grad = None
        for layer in self._layers.values():
            if layer.parameter in owned:
                gradient = layer.parameter.grad
                self._scored.append((layer, gradient))
                layer.parameter.data = layer.score
                if gradient is not None:
                    layer.parameter.grad = score_gradient(gradient, layer.weight, layer.score)

    def _after(self, *_: object) -> None:
        self._put_back()
        self._choose()

    def _put_back(self) -> None:
        """Give the module its weights, and every parameter its own gradient."""
        for layer, gradient in self._scored:
            layer.score, layer.parameter.data = layer.parameter.data, layer.values
            layer.parameter.grad = gradient
        for parameter, gradient in self._hidden:
            parameter.grad = gradient
        self._scored, self._hidden = [], []

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
        return {"kept": self.mask.kept, "layers": layers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, to the same bits. Raises InputError for one of other layers or another density."""
        shapes = {name: layer["score"].shape for name, layer in state["layers"].items()}
        if shapes != {name: layer.score.shape for name, layer in self._layers.items()}:
            raise InputError(
                "the checkpoint is of another edge-popup: its layers are not those of this network"
            )
        if state["kept"] != self.mask.kept:
            raise InputError(
                f"the checkpoint is of another edge-popup: it keeps {state['kept']} weights, this {self.mask.kept}"
            )
        for name, layer in self._layers.items():
            layer.score.copy_(state["layers"][name]["score"])
            layer.weight.copy_(state["layers"][name]["weight"])
        self._choose()

    def remove(self) -> None:
        """Let go: the module keeps its weights under the mask; what is pruned is +0.0."""
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
