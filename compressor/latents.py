"""One weight of a two-level network while it trains: latents, levels and the two-level values made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import torch
from torch import Tensor, nn

_LEVEL_FLOOR: Final = 1e-4  # papers/asni.md §9.1, step 3: levels keep their sign


@dataclass(slots=True)
class Layer:
    """One weight: its two-level values, the latents of the same shape, and the Adam moments of its levels.

    index: flat places of the kept weights, ascending; high: which of those have the upper level. What happens at
    every step touches these places only: at low density that is nearly free.
    """

    parameter: nn.Parameter
    values: Tensor
    latent: Tensor
    index: Tensor
    high: Tensor
    levels: Tensor  # float32, as they are stored, whatever the weight's dtype
    first: Tensor
    second: Tensor
    gradient: Tensor

    def kept(self) -> Tensor:
        """Return the mask in force, of the weight's shape."""
        flat = torch.zeros(self.latent.numel(), dtype=torch.bool, device=self.latent.device)
        return flat.index_fill_(0, self.index, True).view(self.latent.shape)

    def keep(self, mask: Tensor) -> None:
        """Put another mask in force; the two-level values follow."""
        self.index = mask.to(self.latent.device).flatten().nonzero().flatten()
        self.high = self.latent.view(-1)[self.index] > 0
        self.values.zero_()
        self.write()

    def write(self) -> None:
        """Write the levels to the kept places."""
        low, high = self.levels.to(self.values.dtype).unbind()
        self.values.view(-1).index_copy_(0, self.index, torch.where(self.high, high, low))

    def step(self, rate: float, age: int) -> None:
        """One bias-corrected Adam step (0.9, 0.999, 1e-8) of the levels, `age` steps since its moments were 0."""
        self.first.mul_(0.9).add_(self.gradient, alpha=0.1)
        self.second.mul_(0.999).addcmul_(self.gradient, self.gradient, value=0.001)
        spread = self.second.sqrt().div_(sqrt(1 - 0.999**age)).add_(1e-8)
        self.levels.addcdiv_(self.first, spread, value=-rate / (1 - 0.9**age))
        self.levels[0].clamp_(max=-_LEVEL_FLOOR)
        self.levels[1].clamp_(min=_LEVEL_FLOOR)


def layer_of(parameter: nn.Parameter, mask: Tensor, start: Sequence[float]) -> Layer:
    """Return the layer of a weight under a mask; start: its levels (low, high), 0.0 for an absent one."""
    latent = parameter.detach().clone(memory_format=torch.contiguous_format)
    # An absent level starts as the mirror image of the other: signs may flip, and then it is needed.
    low, high = start[0] or -start[1], start[1] or -start[0]
    levels = torch.tensor([low, high], dtype=torch.float32, device=latent.device)
    moments = [torch.zeros_like(levels) for _ in range(3)]
    nothing = torch.zeros(0, dtype=torch.int64, device=latent.device)
    layer = Layer(parameter, torch.zeros_like(latent), latent, nothing, nothing > 0, levels, *moments)
    layer.keep(mask)
    parameter.data = layer.values
    return layer
