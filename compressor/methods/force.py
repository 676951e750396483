"""FORCE: in every round all weights compete again, by the gradient of the network that is left.

Source: de Jorge, Sanyal, Behl, Torr, Rogez, Dokania 2021 (arXiv 2006.09081); papers/force.md; naver/force
pruning/pruning_algos.py (prune_method 3). Differs: the loss is the cross-entropy that trains the network, where the
code takes nll_loss of raw logits; the count is exact and ties fall by position, those kept before first, where the
code keeps all ties; one fixed list of batches for all rounds; dropout is off in train mode; the last count is rounded
half up. Rounds amplify: one rank flipped by rounding early can change a third of the mask (papers/force.md §3).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressor.batches import Batch, labelled
from compressor.methods.rounds import OnRound, floored, narrow, schedule
from compressor.methods.scratch import Loss, cross_entropy, scratch, summed_gradients
from compressor.methods.snip import sensitivity
from compressor.weights import Mask, prunable


def force(
    model: nn.Module,
    density: float,
    data: Any = None,
    *,
    generator: torch.Generator | None = None,  # noqa: ARG001 - the socket of the menu; nothing is drawn
    scope: str = "global",
    exclude: Sequence[str] = (),
    rounds: int = 10,
    mode: str = "train",
    loss: Loss = cross_entropy,
    on_round: OnRound | None = None,
) -> Mask:
    """Keep the largest |w * dL/dw|, the gradient taken under the mask, of all weights: pruned ones may come back.

    rounds: a forward and a backward pass of the data each, at exponentially falling density. mode: "train" (batch
    norm takes the statistics of the batch) or "eval". data, loss: as for `snip`. Raises InputError as `snip` does.
    """
    return progressive(
        model,
        density,
        data,
        method="force",
        nested=False,
        scope=scope,
        exclude=exclude,
        rounds=rounds,
        mode=mode,
        loss=loss,
        on_round=on_round,
    )


def progressive(
    model: nn.Module,
    density: float,
    data: Any,
    *,
    method: str,
    nested: bool,
    scope: str,
    exclude: Sequence[str],
    rounds: int,
    mode: str,
    loss: Loss,
    on_round: OnRound | None,
) -> Mask:
    """Prune in rounds by the sensitivity under the mask; nested: Iterative SNIP, not nested: FORCE."""
    batches = labelled(data, method)
    with scratch(model, exclude, mode=mode) as (probe, weights):
        start = {name: weight.detach() for name, weight in prunable(model, exclude).items()}
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        wanted = schedule(shapes, density, rounds, scope, floored)
        whole = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}

        def score(_: int, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return _scores(probe, weights, start, masks, batches, loss, nested=nested)

        return Mask(narrow(score, wanted, whole, method=method, nested=nested, on_round=on_round))


def force_scores(
    model: nn.Module,
    data: Any,
    mask: Mapping[str, Tensor],
    *,
    nested: bool = False,
    exclude: Sequence[str] = (),
    mode: str = "train",
    loss: Loss = cross_entropy,
) -> dict[str, Tensor]:
    """Return |w * dL/dw| with the gradient under the mask: one round. nested: 0 for pruned weights (Iterative SNIP)."""
    batches = labelled(data, "force")
    with scratch(model, exclude, mode=mode) as (probe, weights):
        start = {name: weight.detach() for name, weight in prunable(model, exclude).items()}
        return _scores(probe, weights, start, mask, batches, loss, nested=nested)


def _scores(
    probe: nn.Module,
    weights: Mapping[str, nn.Parameter],
    start: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    batches: Sequence[Batch],
    loss: Loss,
    *,
    nested: bool,
) -> dict[str, Tensor]:
    """Return the sensitivities at the masked weights; start: the weights before any was pruned."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(start[name]).masked_fill_(~masks[name].to(weight.device), 0.0)
    found = summed_gradients(probe, weights, batches, loss)
    factors = weights if nested else start
    return {name: sensitivity(factors[name], gradient) for name, gradient in found.items()}
