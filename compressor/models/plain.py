"""Networks without shortcuts: LeNet-300-100, conv2/4/6 and VGG for CIFAR.

Source: LeCun et al. 1998; Frankle and Carbin 2019, figure 2; Simonyan and Zisserman 2015, table 1, cut down
for CIFAR. Widths and parameter counts: papers/asni.md 4.1.
"""

import math
from collections import OrderedDict
from typing import Final

from torch import nn

from compressor.errors import InputError

VGG: Final = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
VGG_WIDTHS: Final = (64, 128, 256, 512, 512)


def lenet(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return 300-100-classes fully connected, ReLU between; inputs of any shape are flattened."""
    return nn.Sequential(
        OrderedDict([("flatten", nn.Flatten()), *_head([math.prod(shape), 300, 100, classes])])
    )


def conv(depth: int, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return conv2, conv4 or conv6: pairs of 3x3 convolutions (64, 128, 256), pooled; 256-256-classes."""
    channels, height, width = images(f"conv{depth}", shape, 2 ** (depth // 2))
    layers: list[tuple[str, nn.Module]] = []
    for index in range(1, depth + 1):
        planes = 32 * 2 ** ((index + 1) // 2)
        layers += [(f"conv{index}", nn.Conv2d(channels, planes, 3, padding=1)), (f"act{index}", nn.ReLU())]
        if index % 2 == 0:
            layers.append((f"pool{index // 2}", nn.MaxPool2d(2)))
            height, width = height // 2, width // 2
        channels = planes
    head = _head([channels * height * width, 256, 256, classes], first=depth + 1)
    return nn.Sequential(OrderedDict([*layers, ("flatten", nn.Flatten()), *head]))


def vgg(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return VGG for small images: batch norm, convolutions with biases, one linear layer on the mean map.

    On 32x32 images the last map is 1x1 and the mean changes nothing.
    """
    channels, _, _ = images(name, shape, 32)
    layers: list[nn.Module] = []
    for width, depth in zip(VGG_WIDTHS, VGG[name], strict=True):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.AdaptiveAvgPool2d(1))
    head = [("flatten", nn.Flatten()), ("classifier", nn.Linear(channels, classes))]
    return nn.Sequential(OrderedDict([("features", nn.Sequential(*layers)), *head]))


def images(name: str, shape: tuple[int, ...], smallest: int) -> tuple[int, int, int]:
    """Return (C, H, W). Raises InputError if the data is not images of at least `smallest` pixels a side."""
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise InputError(
            f"{name}: wants images (C, H, W) of at least {smallest}x{smallest}; the data has {shape}"
        )
    return shape[0], shape[1], shape[2]


def initialise(model: nn.Module) -> None:
    """Fill every convolution and linear layer: Kaiming normal (fan_in, relu), biases 0."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _head(sizes: list[int], first: int = 1) -> list[tuple[str, nn.Module]]:
    """Return linear layers fc1, fc2, ... with a ReLU after each but the last (act numbered from `first`)."""
    layers: list[tuple[str, nn.Module]] = []
    last = len(sizes) - 1
    for index in range(1, last + 1):
        layers.append((f"fc{index}", nn.Linear(sizes[index - 1], sizes[index])))
        if index < last:
            layers.append((f"act{first + index - 1}", nn.ReLU()))
    return layers
