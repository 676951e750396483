"""Which weights lie on a path from input to output, and the guard against collapsed masks (DESIGN §3)."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import InputError
from compressor.weights import fit

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def example_inputs(data: Any) -> tuple[Tensor, ...]:
    """Return one batch of inputs from what methods take as `data`.

    data: (x, y), ((x1, x2), y), an iterable of such batches, x alone, or a shape without the batch.
    Raises InputError for anything else.
    """
    if isinstance(data, Tensor):
        return (data,)
    if isinstance(data, Sequence) and data and all(isinstance(size, int) for size in data):
        return (torch.ones(2, *data),)
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[1], Tensor):
        inputs = data[0] if isinstance(data[0], tuple | list) else (data[0],)
        if all(isinstance(x, Tensor) for x in inputs):
            return tuple(inputs)
    try:
        first = next(iter(data))
    except (TypeError, StopIteration):
        raise InputError("data: not a batch (x, y), an iterable of batches, inputs x or a shape") from None
    if first is data or isinstance(first, int | float | str):
        raise InputError("data: not a batch (x, y), an iterable of batches, inputs x or a shape")
    return example_inputs(tuple(first) if isinstance(first, list) else first)


def reach(model: nn.Module, mask: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return {name: bool tensor of the weight's shape}: where a kept weight lies, or would lie, on a path.

    A path leads from input to output through weights that the mask keeps. On a copy whose weights are positive
    random numbers under the mask, dR/dw is the sum over the paths through w without w itself, as in SynFlow
    (Tanaka et al. 2020, eq. 3). Random rather than equal numbers, because a normalisation over equal features is
    0 everywhere; each layer divided by its largest row sum, so that depth does not overflow. In float64, or where the
    network insists on its own types or batch size, in float32 or with all of the inputs.
    What the module itself silences (an input shifted far below 0 before a ReLU, a gate that starts at 0) is not
    reached under any mask: compare with a mask that keeps all. The caller's module and the global random state
    are untouched. Raises InputError if the network does not run on the inputs.
    """
    small = [x[:2] if x.dim() else x for x in inputs]
    failure: Exception | None = None
    for dtype in (torch.float64, torch.float32):
        for examples in (small, inputs):
            try:
                with torch.random.fork_rng():
                    return _reach(model, mask, examples, dtype)
            except InputError:
                raise
            except Exception as error:  # whatever a foreign module raises in there
                failure = error
    raise InputError(
        f"{type(model).__name__} does not run on the data ({str(failure).splitlines()[0]})"
    ) from failure


def _reach(
    model: nn.Module, mask: Mapping[str, Tensor], inputs: Sequence[Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    probe = copy.deepcopy(model).to(dtype).eval()
    weights = fit(probe, mask)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in probe.modules():
            if isinstance(module, _NORMS):
                module.reset_parameters()
        for name, parameter in probe.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif parameter.dim() >= 2:
                parameter.copy_(_positive(parameter, generator))
        for name, weight in weights.items():
            weight.mul_(mask[name].to(weight.device))
        for parameter in probe.parameters():
            if parameter.dim() >= 2:
                parameter.div_(parameter.flatten(1).sum(1).max().clamp_min(1e-30))
        device = next(iter(weights.values())).device
        examples = [
            (_positive(x, generator).to(dtype) if x.is_floating_point() else x).to(device) for x in inputs
        ]
    for parameter in probe.parameters():
        parameter.requires_grad_(True)
    with torch.enable_grad():
        total = _scalar(probe(*examples))
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    return {
        name: (torch.zeros_like(weight) if gradient is None else gradient).ne(0).cpu()
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }


def _positive(like: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5).to(like.device)


def _scalar(outputs: Any) -> Tensor:
    """Sum every floating output with unequal coefficients: a softmax sums to 1 and would hide its flow."""
    if isinstance(outputs, Tensor):
        unequal = torch.linspace(1, 2, outputs.numel(), dtype=outputs.dtype, device=outputs.device)
        return (outputs * unequal.view(outputs.shape)).sum()
    values = outputs.values() if isinstance(outputs, Mapping) else outputs
    parts = [_scalar(value) for value in values if isinstance(value, Tensor | Mapping | tuple | list)]
    return torch.stack(parts).sum()


def guard(model: nn.Module, mask: Mapping[str, Tensor], data: Any) -> None:
    """Refuse a mask through which nothing can flow. Raises InputError that names the layers.

    With data or a shape the whole graph is probed, so an emptied branch beside a living one is fine; without, or
    where the probe finds no path even with nothing pruned, a mask that empties a layer is refused.
    """
    empty = [name for name, kept in mask.items() if not bool(kept.any())]
    if data is not None:
        inputs = example_inputs(data)
        if _flows(model, mask, inputs):
            return
        if _flows(model, {name: torch.ones_like(kept) for name, kept in mask.items()}, inputs):
            raise InputError(
                f"layer collapse: nothing can flow from input to output, cut at {', '.join(empty or mask)}; "
                "raise the density or try another scope"
            )
    if empty:
        raise InputError(
            f"layer collapse: nothing is kept in {', '.join(empty)}; raise the density, try another scope, "
            "or give data= (a batch or an input shape), which would prove another path"
        )


def _flows(model: nn.Module, mask: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> bool:
    reached = reach(model, mask, inputs)
    return any(bool((reached[name] & kept.cpu()).any()) for name, kept in mask.items())
