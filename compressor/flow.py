"""Which weights lie on a path from input to output, and the guard against collapsed masks (DESIGN §3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressor.batches import example_inputs
from compressor.copies import copied, first_line, floating, undisturbed
from compressor.errors import InputError, listed
from compressor.weights import fit

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
_TRANSPOSED = nn.modules.conv._ConvTransposeNd


@dataclass(frozen=True, slots=True)
class Survey:
    """What a mask cut off without cutting the network; counted, not refused.

    dead_outputs: outputs per sample that no input reaches. isolated_units: output units of the masked layers that
    no path passes. silent: masked layers that no path passes at all (an emptied shortcut, an unused head).
    """

    dead_outputs: int
    isolated_units: int
    silent: tuple[str, ...]


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
    return _probed(model, mask, inputs, torch.float64).reached


def flows(model: nn.Module, mask: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> bool:
    """Say whether anything flows from input to output through the weights that the mask keeps.

    One pass in float32 for the gradient of the inputs on the positive copy; where that finds none, or there are
    integers among the inputs, one in float64; and before the answer is no, the network as it is, signs and biases
    included: a half of it that only negative numbers reach, or a gate that a bias opens, is alive.
    Raises InputError if the network does not run on the inputs.
    """
    moved = any(x.is_floating_point() for x in inputs)
    if moved and _probed(model, mask, inputs, torch.float32, weights=False).from_input:
        return True
    found = _probed(model, mask, inputs, torch.float64)
    if moved and found.from_input:
        return True
    whole = all(x.is_floating_point() for x in inputs)
    if not whole and any(bool((found.reached[name] & kept.cpu()).any()) for name, kept in mask.items()):
        return True
    return moved and _probed(model, mask, inputs, torch.float64, weights=False, as_it_is=True).from_input


def survey(model: nn.Module, mask: Mapping[str, Tensor], data: Any) -> Survey:
    """Return what a mask cut off. data: as for `prune`. Raises InputError if the network does not run on it."""
    found = _probed(model, mask, example_inputs(data), torch.float64)
    transposed = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, _TRANSPOSED)
    }
    isolated, silent = 0, []
    for name, kept in mask.items():
        alive = found.reached[name] & kept.cpu()
        units = alive.movedim(1 if name in transposed else 0, 0).flatten(1).any(1)
        isolated += int((~units).sum())
        if not bool(units.any()):
            silent.append(name)
    return Survey(found.dead_outputs, isolated, tuple(silent))


def collapse(model: nn.Module, mask: Mapping[str, Tensor], data: Any) -> str:
    """Return how a mask collapses, naming the layers with zero flow, or "" for a mask that does not.

    With data or a shape the whole graph is probed, so an emptied branch beside a living one is fine; without, or
    where the probe finds no path even with nothing pruned, a mask that empties a layer collapses.
    Raises InputError if the network does not run on the data.
    """
    empty = [name for name, kept in mask.items() if not bool(kept.any())]
    if data is not None:
        inputs = example_inputs(data)
        if flows(model, mask, inputs):
            return ""
        if flows(model, {name: torch.ones_like(kept) for name, kept in mask.items()}, inputs):
            cut = empty or _without_flow(model, mask, inputs)
            return f"nothing can flow from input to output, cut at {listed(cut)}"
    if empty:
        proof = "" if data is not None else "; data= (a batch or an input shape) would prove another path"
        return f"nothing is kept in {listed(empty)}{proof}"
    return ""


def _without_flow(model: nn.Module, mask: Mapping[str, Tensor], inputs: Sequence[Tensor]) -> list[str]:
    reached = reach(model, mask, inputs)
    return [name for name, kept in mask.items() if not bool((reached[name] & kept.cpu()).any())] or list(mask)


def remedy(method: str) -> str:
    """Return what to try when a method left nothing to flow."""
    others = "" if method == "synflow" else " (synflow looks for paths)"
    return f'raise the density, try scope="layer" or "erk", or another method{others}'


@dataclass(frozen=True, slots=True)
class _Found:
    """from_input: whether the output depends on an input; reached: as `reach`, {} where it was not asked for."""

    from_input: bool
    reached: dict[str, Tensor]
    dead_outputs: int


def _probed(
    model: nn.Module,
    mask: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    *,
    weights: bool = True,
    as_it_is: bool = False,
) -> _Found:
    small = [x[:2] if x.dim() else x for x in inputs]
    failure: Exception | None = None
    for kind in dict.fromkeys((dtype, torch.float32)):
        for examples in (small, inputs):
            try:
                with undisturbed(next(model.parameters()).device):
                    return _probe(model, mask, examples, kind, weights=weights, as_it_is=as_it_is)
            except InputError:
                raise
            except Exception as error:  # whatever a foreign module raises in there
                failure = failure or error
    raise InputError(f"{type(model).__name__} does not run on the data ({first_line(failure)})") from failure


def _probe(
    model: nn.Module,
    mask: Mapping[str, Tensor],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    *,
    weights: bool,
    as_it_is: bool,
) -> _Found:
    """Run one copy. weights: for the gradients of the weights too; then biases are no source of anything."""
    probe = copied(model, dtype)
    masked = fit(probe, mask)
    generator = torch.Generator().manual_seed(0)
    _prepare(probe, masked, mask, None if as_it_is else generator, biases=not weights)
    device = next(iter(masked.values())).device

    def drawn() -> list[Tensor]:
        own = [
            x.clone().to(dtype) if as_it_is else _positive(x, dtype, generator)
            for x in inputs
            if x.is_floating_point()
        ]
        found = iter(own)
        return [(next(found) if x.is_floating_point() else x).to(device) for x in inputs]

    examples = drawn()
    starts = [x.requires_grad_(True) for x in examples if x.is_floating_point()]
    for parameter in probe.parameters():
        parameter.requires_grad_(weights and parameter.is_floating_point())
    outputs = floating(probe(*examples))
    if not outputs:
        raise InputError(f"{type(model).__name__} returns no floating tensor; nothing can be derived from it")
    total = torch.stack([_scalar(output) for output in outputs]).sum()
    wanted = [*starts, *(masked.values() if weights else ())]
    gradients: Sequence[Tensor | None] = [None] * len(wanted)
    if total.requires_grad:
        gradients = torch.autograd.grad(total, wanted, allow_unused=True)
    hits = [(torch.zeros_like(x) if g is None else g).ne(0) for x, g in zip(wanted, gradients, strict=True)]
    dead = 0
    if weights and starts:
        with torch.no_grad():
            others = floating(probe(*drawn()))
        dead = sum(int((a[:1] == b[:1]).sum()) for a, b in zip(outputs, others, strict=True) if a.dim())
    return _Found(
        any(bool(hit.any()) for hit in hits[: len(starts)]),
        {name: hit.cpu() for name, hit in zip(masked, hits[len(starts) :], strict=False)},
        dead,
    )


@torch.no_grad()
def _prepare(
    probe: nn.Module,
    masked: Mapping[str, nn.Parameter],
    mask: Mapping[str, Tensor],
    generator: torch.Generator | None,
    *,
    biases: bool,
) -> None:
    """Mask the copy and, with a generator, make it positive first; biases: keep their absolute values, else 0."""
    if generator is not None:
        for module in probe.modules():
            if isinstance(module, _NORMS):
                module.reset_parameters()
        for name, parameter in probe.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(parameter.abs() if biases else torch.zeros_like(parameter))
            elif parameter.dim() >= 2:
                parameter.copy_(_positive(parameter, parameter.dtype, generator))
    for name, weight in masked.items():
        weight.masked_fill_(~mask[name].to(weight.device), 0.0)
    if generator is not None:
        for parameter in probe.parameters():
            if parameter.dim() >= 2:
                parameter.div_(parameter.flatten(1).sum(1).max().clamp_min(1e-30))


def _positive(like: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=dtype, device="cpu").add_(0.5).to(like.device)


def _scalar(output: Tensor) -> Tensor:
    """Sum with unequal coefficients: a softmax sums to 1 and would hide its flow."""
    unequal = torch.linspace(1, 2, output.numel(), dtype=output.dtype, device=output.device)
    return (output * unequal.view(output.shape)).sum()
