"""What a transform gives back, and what both transforms do before and after their own work."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.copies import copied
from compressor.errors import InputError
from compressor.transforms.chains import Network
from compressor.transforms.proof import Proof
from compressor.weights import Mask, fit


@dataclass(frozen=True, slots=True)
class Layer:
    """What was done to the weight `name`: units are its rows.

    folded: units that read nothing, now part of what follows. removed: units that fed nothing. moved: units that stand
    elsewhere now. dropped: kept weights that are pruned now, in rows and in columns.
    """

    name: str
    folded: int = 0
    removed: int = 0
    moved: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Transformed:
    """A network that computes the same: a module of its own, its mask, what was done, what was not, and the proof.

    layers: those to which something was done, in the order of the mask. left: why the units of a masked weight, or
    some of them, were left alone.
    """

    model: nn.Module
    mask: Mask
    layers: tuple[Layer, ...]
    left: Mapping[str, str]
    proof: Proof

    @property
    def dropped(self) -> int:
        """The number of kept weights that are pruned now."""
        return sum(layer.dropped for layer in self.layers)


def refuse_misfit(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Raise InputError for a mask that does not fit, or whose pruned weights are not zero."""
    for name, weight in fit(model, mask).items():
        if bool((weight.detach().cpu() != 0)[~mask[name].cpu()].any()):
            raise InputError(
                f'"{name}": a pruned weight is not zero; set them to zero first, as Mask.apply_ does'
            )


def device_of(model: nn.Module) -> torch.device | None:
    """Return where a module computes, None for one without parameters."""
    return next((parameter.device for parameter in model.parameters()), None)


def twin_of(model: nn.Module) -> nn.Module:
    """Return a copy of a module in the modes that its parts are in."""
    twin = copied(model)
    for own, other in zip(model.modules(), twin.modules(), strict=True):
        other.training = own.training
    return twin


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by its state-dict key: the module's own memory, without gradients."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.detach() for name, tensor in named}


def untouched(network: Network, mask: Iterable[str], more: Mapping[str, str]) -> dict[str, str]:
    """Return why masked weights are no part of any chain, and what else was left alone."""
    known = {chain.weight for chain in network.chains}
    other = "no linear layer or convolution alone reads it in the traced network"
    reasons = {name: network.tied.get(name, other) for name in mask if name not in known}
    return reasons | dict(more)


def plain(mask: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the masks as tensors on the CPU that may be changed."""
    return {
        name: kept.detach().cpu().clone(memory_format=torch.contiguous_format) for name, kept in mask.items()
    }
