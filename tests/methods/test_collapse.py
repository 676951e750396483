"""The anti-collapse claim of SynFlow on VGG-16 for CIFAR, at compression 1000 (papers/synflow.md §3, §4)."""

import pytest
import torch
from torch import nn

import compressor
from compressor.errors import InputError
from compressor.models import build

DENSITY = 1e-3


@pytest.fixture(scope="module")
def vgg16() -> nn.Module:
    return build("vgg16", shape=(3, 32, 32), classes=10, seed=0)


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(100, 3, 32, 32, generator=generator), torch.arange(100) % 10


def test_100_rounds_of_synflow_leave_weights_in_every_layer(vgg16: nn.Module) -> None:
    mask = compressor.prune(vgg16, "synflow", density=DENSITY, data=(3, 32, 32))
    assert mask.kept == 14716
    assert min(kept for kept, _ in mask.per_layer().values()) > 500


@pytest.mark.parametrize(("method", "options"), [("snip", {"mode": "train"}), ("magnitude", {})])
def test_single_shot_snip_and_magnitude_empty_layers(
    method: str, options: dict[str, str], vgg16: nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    with pytest.raises(InputError, match=rf"layer collapse by {method}: .*cut at features\.\d+\.weight"):
        compressor.prune(vgg16, method, density=DENSITY, data=data, **options)


def test_snip_with_running_statistics_still_has_a_path(
    vgg16: nn.Module, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """The published arrays agree: 76 % accuracy at this compression, where magnitude is at chance."""
    assert compressor.prune(vgg16, "snip", density=DENSITY, data=data).kept == 14716
