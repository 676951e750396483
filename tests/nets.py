"""Small networks, masks and comparisons that the tests of the transforms share."""

import copy

import torch
from torch import nn

from compressor.weights import Mask, prunable


def masked(model, density=0.5, empty=0.25, seed=0):
    """Mask a network at random, a share of the rows of all weights but the last wholly; set it to zero under it."""
    generator = torch.Generator().manual_seed(seed)
    found = {
        name: torch.rand(weight.shape, generator=generator) < density
        for name, weight in prunable(model).items()
    }
    for kept in list(found.values())[:-1]:
        kept[torch.randperm(len(kept), generator=generator)[: round(empty * len(kept))]] = False
    mask = Mask(found)
    mask.apply_(model)
    return model.eval(), mask


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None:
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return model.eval()


def noise(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def change(before, after, *inputs):
    """Return the largest change of an output in float64."""
    with torch.no_grad():
        wide = [x.double() if x.is_floating_point() else x for x in inputs]
        old, new = (copy.deepcopy(m).double().eval()(*wide) for m in (before, after))
    return float((old - new).abs().max() / old.abs().max().clamp(min=1e-9))


def rows(mask, name):
    return ["".join("01"[int(bit)] for bit in row) for row in mask[name].flatten(1)]


def lenet(activation=nn.ReLU):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 12), activation(), nn.Linear(12, 8), activation(), nn.Linear(8, 4)
    )


def convolutional(padding=0, bias=True):
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=bias),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, padding=padding, bias=bias),
        nn.BatchNorm2d(5),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, padding=1),
        nn.Flatten(),
        nn.Linear(5 * 9 if padding else 5 * 4, 7),
        nn.Tanh(),
        nn.Linear(7, 3),
    )
