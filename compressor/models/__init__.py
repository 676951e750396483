"""Named networks, torchvision's, and the user's own; their weights from files."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import nn

from compressor.errors import unknown
from compressor.models import own, plain, resnet
from compressor.models.checkpoint import load_weights, state_of
from compressor.models.fits import check_fits

__all__ = ["MODELS", "build", "check_fits", "load_weights", "state_of"]

MODELS: Final[Mapping[str, Callable[[tuple[int, ...], int], nn.Module]]] = {
    "lenet-300-100": plain.lenet,
    "conv2": partial(plain.conv, 2),
    "conv4": partial(plain.conv, 4),
    "conv6": partial(plain.conv, 6),
    "vgg11": partial(plain.vgg, "vgg11"),
    "vgg13": partial(plain.vgg, "vgg13"),
    "vgg16": partial(plain.vgg, "vgg16"),
    "vgg19": partial(plain.vgg, "vgg19"),
    "resnet18": partial(resnet.wide, "resnet18"),
    "resnet34": partial(resnet.wide, "resnet34"),
    "resnet20": partial(resnet.narrow, "resnet20"),
    "resnet32": partial(resnet.narrow, "resnet32"),
    "resnet44": partial(resnet.narrow, "resnet44"),
    "resnet56": partial(resnet.narrow, "resnet56"),
}


def build(
    name: str, *, shape: tuple[int, ...], classes: int, seed: int, search: Sequence[Path] = ()
) -> nn.Module:
    """Return a network with random weights that follow from the seed; global random state is untouched.

    name: one of MODELS (Kaiming normal weights, biases 0), `torchvision:NAME`, or `package.module:factory`, a
    function found in `search`; these two keep their own initialisation.
    shape: of one input; classes: how many outputs.

    Raises InputError for an unknown name, a shape that the network cannot take, and a factory that fails.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if name in MODELS:
            model = MODELS[name](shape, classes)
            plain.initialise(model)
            return model
        kind, separator, rest = name.partition(":")
        if not separator:
            raise unknown("model", name, (*MODELS, "torchvision:NAME", "package.module:factory"))
        if kind == "torchvision":
            return own.from_torchvision(rest, classes)
        return own.made(name, shape, classes, search)
