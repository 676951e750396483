"""SynFlow: keep the weights with the strongest paths through them, in many rounds; no data, no labels, no loss.

Source: Tanaka, Kunin, Yamins, Ganguli 2020 (arXiv 2006.05467), algorithm 1 and eq. 5; papers/synflow.md §2, §3;
ganguli-lab/Synaptic-Flow Pruners/pruners.py (SynFlow). Differs: float64 (float32 overflows from ResNet-50 on; it is
taken only for a network that insists on it), the count is exact and ties fall by position, a pruned weight never
wins a tie against one that is alive, and what is not finite is an error. The counts of the rounds before the last
are the reference's.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressor.batches import example_inputs
from compressor.copies import floating
from compressor.errors import InputError
from compressor.methods.rounds import OnRound, complement, narrow, schedule
from compressor.methods.scratch import filled, forward, gradients, scratch
from compressor.methods.snip import sensitivity
from compressor.weights import Mask


def synflow(
    model: nn.Module,
    density: float,
    data: Any = None,
    *,
    generator: torch.Generator | None = None,  # noqa: ARG001 - the socket of the menu; nothing is drawn
    scope: str = "global",
    exclude: Sequence[str] = (),
    rounds: int = 100,
    on_round: OnRound | None = None,
) -> Mask:
    """Keep the largest |w * dR/dw|: a forward and a backward pass of one sample per round.

    R is the sum of all outputs for an input of ones, with every number of the network replaced by its absolute value,
    in eval mode. data: a shape without the batch, x, or batches; only its shape counts. Networks with tanh, GELU or
    attention, and ReLU6, which the many positive paths saturate, are outside the theory (conservation, no collapse) and
    run all the same.
    Raises InputError without a shape, for integer inputs, R or scores that are not finite, and as the others do.
    """
    with _positive(model, data, exclude) as (probe, weights, ones):
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        wanted = schedule(shapes, density, rounds, scope, complement)
        whole = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}

        def score(number: int, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return _flow(probe, weights, ones, masks, f" in round {number}")

        return Mask(narrow(score, wanted, whole, method="synflow", nested=True, on_round=on_round))


def synflow_scores(
    model: nn.Module, data: Any, mask: Mapping[str, Tensor] | None = None, *, exclude: Sequence[str] = ()
) -> dict[str, Tensor]:
    """Return |w * dR/dw| of every prunable weight under a mask, 0 where it is pruned: one round of `synflow`."""
    with _positive(model, data, exclude) as (probe, weights, ones):
        return _flow(probe, weights, ones, mask or {}, "")


@contextmanager
def _positive(
    model: nn.Module, data: Any, exclude: Sequence[str]
) -> Iterator[tuple[nn.Module, dict[str, nn.Parameter], list[Tensor]]]:
    """Yield the copy with every floating number replaced by its absolute value, its weights, and ones for inputs."""
    if data is None:
        raise InputError("synflow wants data=, an input shape without the batch, or a batch; there is none")
    inputs = example_inputs(data)
    if not all(x.is_floating_point() for x in inputs):
        raise InputError("synflow: the inputs are integers, which can not be ones; try snip or magnitude")
    with scratch(model, exclude, mode="eval", dtype=torch.float64) as (probe, weights):
        ones = [torch.ones((1, *x.shape[1:]), dtype=torch.float64, device="cpu") for x in inputs]
        with torch.no_grad():
            for value in probe.state_dict().values():
                if value.is_floating_point():
                    value.abs_()
            try:
                forward(probe, ones)
            except InputError:
                probe.float()  # a network that insists on its own type
        yield probe, weights, ones


def _flow(
    probe: nn.Module,
    weights: Mapping[str, nn.Parameter],
    ones: Sequence[Tensor],
    masks: Mapping[str, Tensor],
    when: str,
) -> dict[str, Tensor]:
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].masked_fill_(~mask.to(weights[name].device), 0.0)
    outputs = floating(forward(probe, ones))
    if not outputs:
        raise InputError(f"synflow: {type(probe).__name__} returns no floating tensor")
    total = torch.stack([output.sum() for output in outputs]).sum()
    if not bool(torch.isfinite(total)):
        raise InputError(
            f"synflow: R, the sum of the outputs, is {float(total.detach())}{when}; no score can be ranked"
        )
    found = filled(weights, gradients(total, weights))
    return {name: sensitivity(weights[name], gradient) for name, gradient in found.items()}
