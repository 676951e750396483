"""Edge-popup: weights that never train, under a mask that does.

Source: Ramanujan et al. 2020 (arXiv 1911.13299), section 3.3; allenai/hidden-networks utils/conv_type.py,
simple_mnist_example.py; papers/edge-popup.md. Every weight has a score, each layer computes with the weights of the
largest |score|, and the gradient passes straight through the choice. Differs from the reference: the count is exact
and ties fall by position (it floors the pruned share, and its faster top-k keeps all ties); signs are drawn as bits
(sign(0) would kill an edge), and a score of 0 has the sign of its zero, for the same reason; the scale is
sqrt(2 / (density * fan_in)), where the code has 1 - density; fan_in of a transposed convolution counts the inputs of
an output, the mean over a stride.
"""

import logging
from collections.abc import Mapping, Sequence
from math import prod, sqrt
from typing import Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressor.errors import InputError, unknown
from compressor.levels import implied
from compressor.methods.popup import Popup, refuse_running
from compressor.selection import erk_densities, quotas
from compressor.weights import prunable, refuse_nan

log = logging.getLogger(__name__)

WEIGHTS: Final = ("signed-constant", "given")
_TRANSPOSED = nn.modules.conv._ConvTransposeNd


def signed_constant(fan_in: float, density: float) -> float:
    """Return the absolute value of all weights of a layer: the variance of He et al., kept in spite of the zeros.

    Source: papers/edge-popup.md §2 ("scaled") and §9: without batch norm the scale is worth 2 points; numbers 1.
    """
    return sqrt(2 / (density * fan_in))


def edge_popup(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer],
    *,
    density: float,
    scope: str = "layer",
    exclude: Sequence[str] = (),
    weights: str = "signed-constant",
    generator: torch.Generator | None = None,
) -> Popup:
    """Attach edge-popup to a training loop: the optimiser trains scores, the weights stay, the mask follows.

    weights: "signed-constant" gives every layer new weights, one constant with random signs, biases 0 and norms 1 / 0
    (the finished network is mask, signs and a constant per layer, which packs as two levels); "given" leaves all as it
    is (a mask per task over one trained network). Biases, norms and all else that cannot be masked (embeddings,
    recurrent layers, parameters of the module's own) are frozen, and what is no bias or norm is named in a warning of
    the log; running statistics move; an excluded weight trains as usual, with its bias. generator: draws scores and
    signs, on the CPU (left out: seed 0). The mask is chosen after every step, so the training may end at any. Weight
    decay acts on the scores, gradient clipping on dL/dw. What the optimisers remember of the weights (momentum) is
    dropped here and by remove().
    A step may fail and be caught: the module's forward and state_dict find its weights, not the scores.
    Raises InputError for a density that leaves less than a weight per layer, an unknown scope or weights, weights that
    no optimiser here trains, that are not finite or under edge-popup already, and at the first step of an optimiser
    that wants a closure.
    """
    if weights not in WEIGHTS:
        raise unknown("weights", weights, WEIGHTS)
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(dict.fromkeys(optimizer))
    found = {name: weight for name, weight in prunable(model, exclude).items() if weight.numel()}
    if not found:
        raise InputError("every prunable weight of this network is empty; there is nothing to choose from")
    refuse_running(found)
    _refuse_untrained(found, optimizers)
    shapes = {name: tuple(weight.shape) for name, weight in found.items()}
    wanted = quotas(shapes, density, scope)
    if sum(count for _, count in wanted) < len(found):
        raise InputError(f"density {density} leaves less than one weight in each of {len(found)} layers")
    fans, frozen = _fan_ins(model, found), _frozen(model, found)
    if weights == "given":
        refuse_nan(found, "weight")
        scores = {name: _sizes(weight, fans[name]) for name, weight in found.items()}
    else:
        each = erk_densities(shapes, density) if scope == "erk" else dict.fromkeys(shapes, density)
        constants = {name: signed_constant(fans[name], each[name]) for name in shapes}
        scores = _drawn(found, fans, constants, generator)
        _reset(model, frozen)
    _tell_frozen(model, frozen)
    return Popup(model, found, frozen, scores, wanted, optimizers)


def _refuse_untrained(weights: Mapping[str, nn.Parameter], optimizers: Sequence[Optimizer]) -> None:
    owned = {parameter for one in optimizers for group in one.param_groups for parameter in group["params"]}
    for name, weight in weights.items():
        if weight not in owned or not weight.requires_grad:
            why = "no optimiser here has it" if weight not in owned else "it does not require grad"
            raise InputError(f'"{name}" would keep a random mask: {why}; train it, or exclude it')


def _sizes(weight: Tensor, fan_in: float) -> Tensor:
    """Return |W| as scores, the largest at the bound of random ones.

    Measured, LeNet-300-100 over frozen weights, SGD 0.1, density 0.1, mean of 2 seeds: trained on Fashion-MNIST (the
    8,500 images at hand) and masked for it 85.2 %, from random scores 82.3; trained on MNIST and masked for
    Fashion-MNIST 83.1 against 80.6.
    """
    size = weight.detach().abs()
    return size / (size.max().clamp_min(torch.finfo(size.dtype).tiny) * sqrt(fan_in))


@torch.no_grad()
def _drawn(
    weights: Mapping[str, nn.Parameter],
    fans: Mapping[str, float],
    constants: Mapping[str, float],
    generator: torch.Generator | None,
) -> dict[str, Tensor]:
    """Return random scores, Kaiming uniform with a = sqrt(5), and fill the weights with +-constant, in place."""
    source = torch.Generator().manual_seed(0) if generator is None else generator
    if source.device.type != "cpu":
        source = torch.Generator().manual_seed(source.initial_seed())
    scores = {}
    for name, weight in weights.items():
        uniform = 2 * torch.rand(weight.shape, generator=source, dtype=torch.float64) - 1
        scores[name] = uniform / sqrt(fans[name])
        signs = 2 * torch.randint(0, 2, weight.shape, generator=source) - 1
        weight.copy_(signs.float() * constants[name])  # of any dtype: the packed file has float32 levels
    return scores


def _fan_ins(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> dict[str, float]:
    """Return how many products one output of each layer sums; of a strided transposed convolution the mean."""
    fans = {name: float(prod(weight.shape[1:])) for name, weight in weights.items()}
    names = {id(weight): name for name, weight in weights.items()}
    for module in model.modules():
        if isinstance(module, _TRANSPOSED) and id(module.weight) in names:
            products = module.in_channels // module.groups * prod(module.kernel_size)
            fans[names[id(module.weight)]] = max(1.0, products / prod(module.stride))
    return fans


def _frozen(model: nn.Module, weights: Mapping[str, nn.Parameter]) -> frozenset[nn.Parameter]:
    """Return the parameters that no step may move: all but the weights and the layers that were excluded."""
    excluded = set(prunable(model).values()) - set(weights.values())
    free = set(weights.values())
    for module in model.modules():
        own = set(module.parameters(recurse=False))
        free |= own if own & excluded else set()
    return frozenset(model.parameters()) - free


def _plain(model: nn.Module) -> dict[nn.Parameter, float]:
    """Return biases and norms with the value at which they do nothing."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {parameters[name]: value for name, value in implied(model).items() if name in parameters}
    scales = [module.weight for module in model.modules() if isinstance(module, nn.RMSNorm)]
    return found | {scale: 1.0 for scale in scales if scale is not None}


def _tell_frozen(model: nn.Module, frozen: frozenset[nn.Parameter]) -> None:
    plain = _plain(model)
    lost = [n for n, p in model.named_parameters() if p in frozen and p.requires_grad and p not in plain]
    if lost:
        log.warning(
            "edge-popup masks no %s: frozen as they are (only a layer that is excluded trains)",
            ", ".join(lost),
        )


@torch.no_grad()
def _reset(model: nn.Module, frozen: frozenset[nn.Parameter]) -> None:
    """Set frozen biases to 0 and frozen norms to scale 1 and shift 0: the paper's layers have neither."""
    for parameter, value in _plain(model).items():
        if parameter in frozen:
            parameter.fill_(value)
