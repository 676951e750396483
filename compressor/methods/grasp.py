"""GraSP: keep the weights whose removal would lower the norm of the gradient, the speed of the first step, most.

Source: Wang, Zhang, Grosse 2020 (arXiv 2002.07376), eq. 7 and 8; papers/snip-grasp.md §2; alecwangcq/GraSP
pruner/GraSP.py; ganguli-lab/Synaptic-Flow Pruners/pruners.py (GraSP). Sign: larger = keep, s = +w * Hg, where the
paper removes the largest -w * Hg. Differs from the first code: no Linear weight is drawn anew before scoring, eval
mode by default, the count is exact, ties fall by position, and both passes see the same batches; from both: scores
are not divided by their sum.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from compressor.batches import Batch, labelled
from compressor.copies import floating
from compressor.errors import InputError
from compressor.methods.rounds import refuse_useless
from compressor.methods.scratch import (
    Loss,
    cross_entropy,
    filled,
    forward,
    gradients,
    losses,
    scratch,
    summed_gradients,
)
from compressor.selection import select
from compressor.weights import Mask


def grasp(
    model: nn.Module,
    density: float,
    data: Any = None,
    *,
    generator: torch.Generator | None = None,  # noqa: ARG001 - the socket of the menu; nothing is drawn
    scope: str = "global",
    exclude: Sequence[str] = (),
    mode: str = "eval",
    loss: Loss = cross_entropy,
    temperature: float = 200.0,
) -> Mask:
    """Keep the largest w * Hg, signed: a forward, a backward and a second backward pass of the data.

    data, mode, loss: as for `snip`. temperature: what the output is divided by before the loss; 200 flattens the
    softmax, which is another mask than 1 gives. Raises InputError as `snip` does, and names the layers that have
    no second derivative.
    """
    scores = grasp_scores(model, data, exclude=exclude, mode=mode, loss=loss, temperature=temperature)
    return select(scores, density, scope)


def grasp_scores(
    model: nn.Module,
    data: Any,
    *,
    exclude: Sequence[str] = (),
    mode: str = "eval",
    loss: Loss = cross_entropy,
    temperature: float = 200.0,
) -> dict[str, Tensor]:
    """Return w * Hg of every prunable weight; g and the Hessian H are of the prunable weights alone."""
    if not isinstance(temperature, int | float) or not temperature > 0:
        raise InputError(f"temperature {temperature!r} must be a number above 0")
    batches = labelled(data, "grasp")

    def cooled(output: Any, labels: Any) -> Tensor:
        return loss(_divided(output, temperature), labels)

    with scratch(model, exclude, mode=mode) as (probe, weights):
        found = _curvature(probe, weights, batches, cooled)
        with torch.no_grad():
            scores = {name: product.mul_(weights[name]) for name, product in found.items()}
    refuse_useless(scores, "grasp")
    return scores


def _divided(output: Any, temperature: float) -> Any:
    """Return the output of a network with every floating tensor divided, nested as it was."""
    if isinstance(output, Tensor):
        return output / temperature if output.is_floating_point() else output
    if isinstance(output, dict):
        return {key: _divided(value, temperature) for key, value in output.items()}
    return [_divided(value, temperature) for value in output] if isinstance(output, tuple | list) else output


def _curvature(
    probe: nn.Module, weights: dict[str, nn.Parameter], batches: Sequence[Batch], loss: Loss
) -> dict[str, Tensor]:
    """Return Hg. One batch needs its forward pass once; of several, g is summed over all of them first."""
    vector: list[Tensor] | None = None
    if len(batches) > 1:
        vector = list(summed_gradients(probe, weights, batches, loss).values())
    products: list[Tensor | None] = [None] * len(weights)
    for number, value in enumerate(losses(probe, batches, loss)):
        try:
            first = gradients(value, weights, graph=True)
            _refuse_silent_zeros(first)
            found = _derived(first, vector or first, weights)
        except RuntimeError as error:
            names = _without_second_derivative(probe, batches[number][0])
            if not names:
                raise
            raise InputError(f"grasp: no second derivative in {', '.join(names)}") from error
        for place, product in enumerate(found):
            before = products[place]
            products[place] = product if before is None or product is None else before.add_(product)
    return filled(weights, products)


def _derived(
    outputs: Sequence[Tensor | None], along: Sequence[Tensor | None], weights: dict[str, nn.Parameter]
) -> list[Tensor | None]:
    """Return the derivative of <outputs, along> by the weights; a gradient that is constant has none."""
    pairs = [
        (g, v)
        for g, v in zip(outputs, along, strict=True)
        if g is not None and v is not None and g.requires_grad
    ]
    if not pairs:
        return [None] * len(weights)
    return list(
        torch.autograd.grad(
            [g for g, _ in pairs], list(weights.values()), [v.detach() for _, v in pairs], allow_unused=True
        )
    )


def _refuse_silent_zeros(found: Sequence[Tensor | None]) -> None:
    """Raise RuntimeError where a function is once_differentiable: autograd.grad would go round it without a word."""
    waiting, seen = [g.grad_fn for g in found if g is not None], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name().endswith("Error"):
            raise RuntimeError("a function is differentiable only once")
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]


def _without_second_derivative(probe: nn.Module, inputs: Sequence[Tensor]) -> list[str]:
    """Return the modules that can not be derived twice though everything inside them can."""
    called: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(name: str, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        called[name] = args, kwargs

    modules = dict(probe.named_modules())
    hooks = [m.register_forward_pre_hook(partial(note, n), with_kwargs=True) for n, m in modules.items()]
    forward(probe, inputs)
    for hook in hooks:
        hook.remove()
    failing = [name for name, (args, kwargs) in called.items() if not _twice(modules[name], args, kwargs)]
    inner = [
        n for n in failing if not any(other != n and other.startswith(f"{n}." * bool(n)) for other in failing)
    ]
    return [f'"{name}" ({type(modules[name]).__name__})' if name else type(probe).__name__ for name in inner]


def _twice(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    def leaf(value: Any) -> Any:
        moved = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().requires_grad_(True) if moved else value

    moved, named = [leaf(value) for value in args], {key: leaf(value) for key, value in kwargs.items()}
    try:
        outputs = [output for output in floating(module(*moved, **named)) if output.requires_grad]
        wanted = [
            x
            for x in (*moved, *named.values(), *module.parameters())
            if isinstance(x, Tensor) and x.requires_grad
        ]
        if not outputs or not wanted:
            return True
        total = torch.stack([output.square().sum() for output in outputs]).sum()
        first = torch.autograd.grad(total, wanted, create_graph=True, allow_unused=True)
        _refuse_silent_zeros(first)
        again = [g.square().sum() for g in first if g is not None and g.requires_grad]
        if again:
            torch.autograd.grad(torch.stack(again).sum(), wanted, allow_unused=True)
    except Exception:  # whatever a foreign module raises in there
        return False
    return True
