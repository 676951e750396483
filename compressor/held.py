"""Masks that stay: a pruned weight is exactly +0.0 after every step, and so is its optimiser state.

The optimisers of the SGD and Adam families map a zero weight with zero state and zero gradient to a zero
weight, so masking the gradient before the step is enough and costs least; other optimisers, and steps with a
closure (which computes gradients inside), are followed by a fill. Plain parameters, no reparametrisation.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressor.weights import Mask, fit

_STAY_AT_ZERO: Final = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


def hold(model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], mask: Mapping[str, Tensor]) -> "Held":
    """Set the pruned weights to +0.0 and keep them there through every step of the optimiser(s).

    Works as a context manager too; `remove()` lets go. Load checkpoints into the module before, not after. A gradient
    that is not finite spoils pruned weights as it spoils kept ones. Raises InputError for a mask that does not fit;
    warns of masked weights that train but belong to none of the optimisers.
    """
    return Held(model, [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer), mask)


class Held:
    """A held mask. `mask` is the one in force; `update` narrows or moves it."""

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer], mask: Mapping[str, Tensor]) -> None:
        self._model = model
        self._optimizers = optimizers
        self._handles: list[Any] = []
        self.update(mask)
        owned = {
            id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]
        }
        strange = [n for n, p in fit(model, self.mask).items() if p.requires_grad and id(p) not in owned]
        if strange:
            warnings.warn(
                f"not held, because no optimiser here trains it: {', '.join(strange)}", stacklevel=3
            )
        for optimizer in optimizers:
            self._handles += [
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
                optimizer.register_load_state_dict_post_hook(lambda _: self._zero_state()),
            ]

    @property
    def density(self) -> float:
        """Kept / total of the mask in force."""
        return self.mask.density

    def update(self, mask: Mapping[str, Tensor]) -> None:
        """Put another mask in force: weights and optimiser state are zeroed outside it at once."""
        self.mask = mask if isinstance(mask, Mask) else Mask(mask)
        self._pruned: list[tuple[nn.Parameter, Tensor]] = []
        self._factors: dict[nn.Parameter, Tensor] = {}
        for name, parameter in fit(self._model, self.mask).items():
            kept = self.mask[name].to(parameter.device)
            self._pruned.append((parameter, ~kept))
            self._factors[parameter] = kept.to(parameter.dtype)
        self._fill()
        self._zero_state()

    @torch.no_grad()
    def _fill(self) -> None:
        for parameter, pruned in self._pruned:
            parameter.masked_fill_(pruned, 0.0)

    @torch.no_grad()
    def _zero_state(self) -> None:
        for optimizer in self._optimizers:
            for parameter, pruned in self._pruned:
                for value in optimizer.state.get(parameter, {}).values():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        value.masked_fill_(pruned, 0.0)

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _needs_fill(optimizer, args, kwargs):
            return
        pairs = [(p.grad, factor) for p, factor in self._factors.items() if p.grad is not None]
        if pairs:
            with torch.no_grad():
                torch._foreach_mul_([grad for grad, _ in pairs], [factor for _, factor in pairs])

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _needs_fill(optimizer, args, kwargs):
            self._fill()
            self._zero_state()

    def remove(self) -> None:
        """Let go: the weights stay as they are, later steps may move them."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def state_dict(self) -> dict[str, Any]:
        """Return the mask as plain tensors, for a checkpoint."""
        return {"mask": dict(self.mask)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the mask of a checkpoint in force."""
        self.update(state["mask"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def _needs_fill(optimizer: Optimizer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return has_closure(optimizer, args, kwargs) or type(optimizer) not in _STAY_AT_ZERO


class Steps:
    """Where the steps of optimisers begin and end.

    torch calls the hooks of a step for a `super().step()` inside it as well, and none after one that raised.
    """

    def __init__(self) -> None:
        self._within: Optimizer | None = None
        self._depth = 0

    def begins(self, optimizer: Optimizer) -> bool:
        """Say, in a pre-hook, whether a step begins; False for one inside another."""
        hooked = [hasattr(vars(kind).get("step"), "hooked") for kind in type(optimizer).__mro__]
        # Deeper than classes have hooks: the step before has failed, and this is a new one.
        if self._within is optimizer and self._depth < sum(hooked):
            self._depth += 1
            return False
        self._within, self._depth = optimizer, 1
        return True

    def ends(self, optimizer: Optimizer) -> bool:
        """Say, in a post-hook, whether the step that began is over."""
        if self._within is not optimizer:
            return False
        self._depth -= 1
        if self._depth:
            return False
        self._within = None
        return True

    def forget(self) -> None:
        """Take the step that began for one that failed; the next one begins."""
        self._within = None


def before_use(model: nn.Module, call: Callable[..., None]) -> list[Any]:
    """Have `call` called before the module computes or gives its state; return the handles.

    For as long as a step lasts, or after one that failed: copies of the module stay free of the hooks.
    """
    return [
        model.register_forward_pre_hook(call, prepend=True),
        model.register_state_dict_pre_hook(call),
    ]


def has_closure(optimizer: Optimizer, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Say whether the step that a hook was called for has a closure; args begins with the optimiser itself."""
    return any(a is not None and a is not optimizer for a in (*args, kwargs.get("closure")))
