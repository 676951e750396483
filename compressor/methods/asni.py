"""ASNI-I: one training that removes the smallest weights of the whole network after every stage.

Source: Damadi, Nouri, Pirsiavash 2022 (arXiv 2202.09284); sdamadi/image-classification main.py and
utils/pruning.py; papers/asni.md §2.5. Differs from the reference: the asked density is reached exactly (no skip
rule, no lost increments), the last pruning is the one that is trained on, ties fall by position, no layer is
emptied, and the curve ends at 0.75 of the training, because a decayed rate cannot repair late prunings (§8).
"""

import warnings
from collections.abc import Mapping, Sequence
from math import exp, floor
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressor.errors import InputError
from compressor.held import Held, Steps
from compressor.selection import keep_largest, kept_count
from compressor.weights import Mask, prunable, refuse_nan

# Centre and slope of the sigmoid in units of its length: nearly all of the author's runs (asni.md §2.1).
_CENTRE, _SCALE = 0.5, 0.1


def densities(stages: int, density: float) -> tuple[float, ...]:
    """Return the density after each pruning t = 0..stages-2; the last one is `density` exactly.

    stages: T', the number of stages over which the curve runs. Raises InputError for fewer than two prunings.
    Source: papers/asni.md §2.5, numbers E6.
    """
    if stages < 3:
        raise InputError(
            f"ASNI would prune {max(0, stages - 1)} times; it needs at least 2 prunings: train longer or prune oftener"
        )

    def sigmoid(t: int) -> float:
        return 1 / (1 + exp(-(t - _CENTRE * stages) / (_SCALE * stages)))

    start, end = sigmoid(-1), sigmoid(stages - 2)
    inner = [1 - (1 - density) * (sigmoid(t) - start) / (end - start) for t in range(stages - 2)]
    return (*inner, density)


def asni(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    density: float,
    steps: int,
    every: int,
    end: float = 0.75,
    exclude: Sequence[str] = (),
) -> "Schedule":
    """Attach ASNI-I to a training loop of `steps` optimiser steps, with a stage of `every` steps (an epoch).

    end: where the curve ends, in units of the training (half-up to whole stages); afterwards the mask is fixed.
    With several optimisers the steps of the first are counted. Weights may be random or trained.
    Raises InputError for a density outside (0, 1], one that leaves less than a weight per layer, NaN weights,
    `end` outside (0, 1], and fewer than two prunings. Source: papers/asni.md §2.5.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    return Schedule(model, optimizers, density=density, steps=steps, every=every, end=end, exclude=exclude)


class Schedule:
    """A running ASNI-I: `density` and `mask` are those in force."""

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        density: float,
        steps: int,
        every: int,
        end: float,
        exclude: Sequence[str],
    ) -> None:
        if not 0 < end <= 1:
            raise InputError(f"end {end} is outside (0, 1]; 0.75 lets the curve end at three quarters")
        if steps < 1 or every < 1:
            raise InputError(f"steps {steps} and every {every} must be at least 1")
        self._weights = prunable(model, exclude)
        refuse_nan(self._weights, "weight")
        total = sum(weight.numel() for weight in self._weights.values())
        asked = kept_count(density, total)
        if asked < len(self._weights):
            raise InputError(
                f"density {density} keeps {asked} weights in {len(self._weights)} layers; each needs at least one"
            )
        curve = densities(floor(end * (steps // every) + 0.5 + 1e-9), density)
        self._counts = [max(kept_count(d, total), len(self._weights)) for d in curve]
        self._every = every
        self._step = 0
        every_weight = Mask({n: torch.ones(w.shape, dtype=torch.bool) for n, w in self._weights.items()})
        self._held = Held(model, optimizers, every_weight)
        self._stepping = Steps()
        self._handles = [
            optimizers[0].register_step_pre_hook(self._before),
            optimizers[0].register_step_post_hook(self._after),
        ]

    @property
    def mask(self) -> Mask:
        """The mask in force."""
        return self._held.mask

    @property
    def density(self) -> float:
        """Kept / total of the mask in force."""
        return self._held.density

    def _before(self, optimizer: Optimizer, *_: object) -> None:
        self._stepping.begins(optimizer)

    def _after(self, optimizer: Optimizer, *_: object) -> None:
        if not self._stepping.ends(optimizer):
            return
        self._step += 1
        stage, rest = divmod(self._step, self._every)
        if rest == 0 and stage <= len(self._counts):
            self._held.update(_survivors(self._weights, self.mask, self._counts[stage - 1]))

    def state_dict(self) -> dict[str, Any]:
        """Return step and mask, for a checkpoint."""
        return {"step": self._step, "mask": dict(self.mask)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. Raises InputError for one of another schedule."""
        stage = min(int(state["step"]) // self._every, len(self._counts))
        wanted = self._counts[stage - 1] if stage else self.mask.total
        if Mask(state["mask"]).kept != wanted:
            raise InputError(
                f"the checkpoint is of another schedule: after {state['step']} steps {wanted} weights are kept"
            )
        self._step = int(state["step"])
        self._held.update(state["mask"])

    def remove(self) -> None:
        """Let go of the optimiser; the mask that was reached stays readable. Warns if the training had only begun."""
        self._detach()
        if self._step:
            self._warn_if_early()

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._held.remove()

    def _warn_if_early(self) -> None:
        end = self._every * len(self._counts)
        if self._step < end:
            warnings.warn(
                f"ASNI was left after {self._step} steps at density {self.density:.6g}, before its last pruning "
                f"at step {end}",
                stacklevel=3,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._detach()
        if kind is None:
            self._warn_if_early()


def _survivors(weights: Mapping[str, nn.Parameter], mask: Mapping[str, Tensor], count: int) -> Mask:
    """Keep exactly `count` of the alive weights, the largest |w| of the whole network, one per layer at least."""
    refuse_nan(weights, "weight")
    scores: dict[str, Tensor] = {}
    for name, weight in weights.items():
        score = weight.detach().abs().contiguous()
        score.masked_fill_(~mask[name].to(score.device), -1.0)
        score.view(-1)[score.argmax()] = torch.inf
        scores[name] = score
    return keep_largest(scores, count)
