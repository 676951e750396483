"""ASNI-II as an initialisation: one mask, the signs of its survivors and two floats per layer.

Source: papers/asni.md §3; sdamadi/image-classification utils/init.py (get_sparse_init, net_quantizer). Differs:
the mask covers prunable weights only, so biases and norms always train (§3.2); a layer with one sign has the
absent level 0.0 where the reference gets NaN; every norm is reset, with its running statistics.
The network that is *deployed* at two levels is another object: compressor.tied.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compressor.errors import InputError
from compressor.weights import Mask, aliases, fit, is_weight, refuse_nan

if TYPE_CHECKING:
    from compressor.packed import Sizes

Levels = dict[str, tuple[float, float]]


def centroids(source: nn.Module | Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> Levels:
    """Return {name: (low, high)}: the means of the kept weights <= 0 and of those > 0, in the weight's dtype.

    source: a module or a state dict. An absent level is 0.0. Raises InputError for a mask that does not fit, NaN
    weights, or a layer whose kept weights are all 0. Source: papers/asni.md §3.1, number E8.
    """
    weights = _weights(source, mask)
    refuse_nan(weights, "weight")
    levels: Levels = {}
    for name, weight in weights.items():
        values = weight.detach()[mask[name].to(weight.device)]
        low, high = _mean(values[values <= 0]), _mean(values[values > 0])
        if low == high and values.numel():
            raise InputError(f'"{name}": every kept weight is 0, which gives no level; train it first')
        levels[name] = (low, high)
    return levels


def _mean(values: Tensor) -> float:
    return float(values.double().mean().to(values.dtype)) if values.numel() else 0.0


def _weights(source: nn.Module | Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(source, nn.Module):
        return dict(fit(source, mask))
    for name, kept in mask.items():
        if name not in source or source[name].shape != kept.shape:
            raise InputError(f'mask "{name}": the state dict has no tensor of that name and shape')
        if kept.dtype != torch.bool:
            raise InputError(f'mask "{name}": not a bool tensor; True means kept')
    return {name: source[name] for name in mask}


def to_levels(
    source: nn.Module | Mapping[str, Tensor],
    mask: Mapping[str, Tensor],
    levels: Mapping[str, tuple[float, float]],
    *,
    reset: bool = False,
) -> None:
    """Set every kept weight to its layer's level by sign (> 0: high, else low), every pruned one to +0.0, in place.

    reset: the ASNI-II start: biases 0, norm scale 1 and shift 0, running statistics 0 / 1 as well; needs a module.
    Raises InputError for a mask or levels that do not fit. Source: papers/asni.md §3.1 and §3.2.
    """
    if set(mask) != set(levels):
        raise InputError(f"levels and mask name different weights: {sorted(set(mask) ^ set(levels))[0]}")
    with torch.no_grad():
        for name, weight in _weights(source, mask).items():
            if bool(mask[name].any()) and not -math.inf < levels[name][0] < levels[name][1] < math.inf:
                raise InputError(f'"{name}": levels {levels[name]} are not two finite numbers, low < high')
            low, high = (
                torch.tensor(level, dtype=weight.dtype, device=weight.device) for level in levels[name]
            )
            kept = mask[name].to(weight.device)
            weight.copy_(torch.where(weight > 0, high, low).masked_fill_(~kept, 0.0))
    if reset:
        if not isinstance(source, nn.Module):
            raise InputError("reset needs a module: a state dict does not say which tensors are norms")
        reset_implied(source)


def implied(model: nn.Module) -> dict[str, float]:
    """Return {state-dict key: the value all its elements have in an ASNI-II start}.

    Biases of prunable layers and of norms 0, norm scales 1, running means 0 and variances 1, batch counts 0.
    """
    values = {"bias": 0.0, "running_mean": 0.0, "running_var": 1.0, "num_batches_tracked": 0.0}
    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
    found: dict[str, float] = {}
    for prefix, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, _ in own:
            name = f"{prefix}.{key}" if prefix else key
            if isinstance(module, norms) and (key == "weight" or key in values):
                found[name] = 1.0 if key == "weight" else values[key]
            elif key in ("bias", "in_proj_bias") and any(is_weight(module, k) for k, _ in own):
                found[name] = 0.0
    return {name: value for name, value in found.items() if name in model.state_dict()}


def reset_implied(model: nn.Module) -> None:
    """Set everything that an ASNI-II start implies to its implied value, in place."""
    state = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, value in implied(model).items():
            state[name].fill_(value)


def save_start(model: nn.Module, mask: Mapping[str, Tensor], path: Path | str) -> "Sizes":
    """Write the module, as `to_levels(..., reset=True)` left it, as a compressed initialisation.

    The file holds mask, signs and two levels per masked layer; what is implied is not stored, what is neither
    is stored dense and counted. Raises InputError if an implied tensor does not have its implied value, or a masked
    layer more than two.
    """
    from compressor.packed import pack

    state, skipped = model.state_dict(), implied(model)
    for name, value in skipped.items():
        if not bool((state[name] == value).all()):
            raise InputError(f'"{name}" is not {value:g} everywhere; call to_levels(..., reset=True) first')
    again = aliases(model)
    mask = {again.get(name, name): kept for name, kept in mask.items()}
    for name, weight in fit(model, mask).items():
        if weight.detach()[mask[name].to(weight.device)].unique().numel() > 2:
            raise InputError(f'"{name}" has more than two levels; call to_levels(..., reset=True) first')
    stored = {name: tensor for name, tensor in state.items() if name not in skipped and name not in again}
    return pack(stored, path, mask=mask, kind="start")


def load_start(model: nn.Module, path: Path | str) -> Mask:
    """Put an ASNI-II start into a module and return its mask.

    Raises FormatError for a damaged file, InputError for one that is not a start or does not fit the module.
    """
    from compressor.packed import reader, unpack, unpack_mask

    if reader.parse(path).kind != "start":
        raise InputError(f"{path}: a packed network, not a start; a run of asni writes start.safetensors")
    stored, names = unpack(path), set(implied(model)) | set(aliases(model))
    expected = {name: tensor for name, tensor in model.state_dict().items() if name not in names}
    for name in sorted(set(stored) ^ set(expected)):
        where = "the network" if name in stored else "the file"
        raise InputError(f'{path}: does not fit the network: {where} has no "{name}"')
    for name, tensor in expected.items():
        if stored[name].shape != tensor.shape:
            raise InputError(
                f'{path}: "{name}" has shape {tuple(stored[name].shape)}, the network {tuple(tensor.shape)}'
            )
    reset_implied(model)
    model.load_state_dict(stored, strict=False)
    return Mask(unpack_mask(path))
