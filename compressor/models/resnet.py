"""Residual networks for small images: ResNet-18/34 with a 3x3 stem, ResNet-20/32/44/56 with free shortcuts.

Source: He et al. 2015, sections 3.3 and 4.2. Names of the state dict as in the two implementations that most
CIFAR checkpoints come from: kuangliu/pytorch-cifar (18, 34), akamaster/pytorch_resnet_cifar10 (20 to 56).
"""

from typing import Final

import torch
from torch import nn
from torch.nn import functional as F

from compressor.models.plain import images

DEPTHS: Final = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
THREE_STAGES: Final = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Where the shape changes the shortcut is, projected, a 1x1 convolution with batch norm (option B of the
    paper), otherwise every second pixel with zero channels in front and behind (option A, no parameters).
    """

    def __init__(self, channels: int, planes: int, stride: int, projected: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride, self.added = stride, planes - channels
        changes = stride != 1 or channels != planes
        self.shortcut = nn.Sequential()
        if changes and projected:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
            )
            self.added = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, planes, H / stride, W / stride)."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        skip = self.shortcut(x)
        if self.added:
            skip = F.pad(
                x[:, :, :: self.stride, :: self.stride], [0, 0, 0, 0, self.added // 2, self.added // 2]
            )
        return F.relu(out + skip)


class ResNet(nn.Module):
    """3x3 stem, stages of blocks (each after the first halves the image), mean over pixels, linear."""

    def __init__(
        self, channels: int, width: int, depths: tuple[int, ...], classes: int, projected: bool
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = [f"layer{stage + 1}" for stage in range(len(depths))]
        before = width
        for stage, depth in enumerate(depths):
            planes = width * 2**stage
            first = Block(before, planes, 1 if stage == 0 else 2, projected)
            rest = (Block(planes, planes, 1, projected) for _ in range(depth - 1))
            self.add_module(self.stages[stage], nn.Sequential(first, *rest))
            before = planes
        self.linear = nn.Linear(before, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (N, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def wide(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-18 or ResNet-34 for small images: 64 to 512 channels, projected shortcuts."""
    channels, _, _ = images(name, shape, 8)
    return ResNet(channels, 64, DEPTHS[name], classes, projected=True)


def narrow(name: str, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return ResNet-20, 32, 44 or 56: 16, 32 and 64 channels, shortcuts without parameters."""
    channels, _, _ = images(name, shape, 4)
    return ResNet(channels, 16, (THREE_STAGES[name],) * 3, classes, projected=False)
