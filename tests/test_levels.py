"""Centroids, two-level weights, the compressed initialisation, and E11's sizes."""

from math import log2
from pathlib import Path

import pytest
import torch
from torch import nn

import compressor
from compressor.errors import InputError
from compressor.levels import implied, reset_implied

W = torch.tensor([[0.5, -0.25, 0, 0.125, -0.75, 0, 0.25, -0.5]])


def test_e8_centroids_and_their_squared_error() -> None:
    layer = nn.Linear(8, 1)
    with torch.no_grad():
        layer.weight.copy_(W)
    mask = compressor.find_mask(layer)
    levels = compressor.centroids(layer, mask)
    assert levels["weight"] == pytest.approx((-0.5, 0.875 / 3))
    compressor.to_levels(layer, mask, levels)
    assert float((layer.weight.detach() - W).square().sum()) == pytest.approx(0.197916667)
    assert layer.weight.detach().unique().numel() == 3


def test_an_absent_level_is_zero_and_a_state_dict_will_do() -> None:
    state = {"w": torch.tensor([[1.0, 3.0, 0.0]])}
    mask = compressor.Mask({"w": torch.tensor([[True, True, False]])})
    assert compressor.centroids(state, mask) == {"w": (0.0, 2.0)}
    compressor.to_levels(state, mask, {"w": (0.0, 2.0)})
    assert state["w"].tolist() == [[2, 2, 0]]


def test_a_layer_of_kept_zeros_has_no_level() -> None:
    state = {"w": torch.zeros(1, 2)}
    with pytest.raises(InputError, match="every kept weight is 0"):
        compressor.centroids(state, {"w": torch.tensor([[True, False]])})


@pytest.mark.parametrize(
    ("density", "kept", "signs", "total", "ideal_mask", "ideal_total"),
    [
        (0.10, 26620, 3328, 38267, 15605.8, 20597.3),
        (0.05, 13310, 1664, 36603, 9529.9, 12857.6),
        (0.02, 5324, 666, 35605, 4706.4, 7035.9),
        (0.01, 2662, 333, 35272, 2688.4, 4685.1),
    ],
)
def test_e11_sizes_of_lenet(
    density: float, kept: int, signs: int, total: int, ideal_mask: float, ideal_total: float
) -> None:
    n = 266200
    entropy = -n * (density * log2(density) + (1 - density) * log2(1 - density)) / 8
    assert (round(density * n), -(-kept // 8)) == (kept, signs)
    assert 33275 + signs + 24 + 1640 == total
    assert entropy == pytest.approx(ideal_mask, abs=0.05)
    assert entropy + kept / 8 + 24 + 1640 == pytest.approx(ideal_total, abs=0.05)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(216, 10),
            nn.LayerNorm(10),
        )


def test_what_a_start_implies_is_biases_and_norms() -> None:
    assert implied(network()) == {
        "0.bias": 0.0,
        "1.weight": 1.0,
        "1.bias": 0.0,
        "1.running_mean": 0.0,
        "1.running_var": 1.0,
        "1.num_batches_tracked": 0.0,
        "4.bias": 0.0,
        "5.weight": 1.0,
        "5.bias": 0.0,
    }


def started() -> tuple[nn.Sequential, compressor.Mask]:
    net = network()
    net(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    mask = compressor.prune(net, "magnitude", density=0.2, exclude=["0.*"])
    compressor.to_levels(net, mask, compressor.centroids(net, mask), reset=True)
    return net, mask


def test_a_start_file_rebuilds_the_start_bit_for_bit(tmp_path: Path) -> None:
    net, mask = started()
    compressor.save_start(net, mask, tmp_path / "start.safetensors")
    other = network()
    with torch.no_grad():
        other[1].running_mean.fill_(3.0)
    loaded = compressor.load_start(other, tmp_path / "start.safetensors")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in net.state_dict().items())
    assert list(loaded) == ["4.weight"]
    assert torch.equal(loaded["4.weight"], mask["4.weight"])
    # Masks, signs and levels of 2,160 weights, the excluded convolution dense, and not one bias or norm.
    assert sorted(compressor.unpack(tmp_path / "start.safetensors")) == ["0.weight", "4.weight"]


def test_a_start_that_is_not_reset_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    net, mask = started()
    path = tmp_path / "start.safetensors"
    compressor.save_start(net, mask, path)
    with pytest.raises(InputError, match="does not fit the network"):
        compressor.load_start(nn.Sequential(nn.Linear(3, 3)), path)
    with torch.no_grad():
        net[4].bias[0] = 1.0
    with pytest.raises(InputError, match=r'"4\.bias" is not 0 everywhere'):
        compressor.save_start(net, mask, path)
    compressor.pack(net, path, mask=mask)
    with pytest.raises(InputError, match="a packed network, not a start"):
        compressor.load_start(net, path)


@pytest.mark.parametrize("levels", [(0.5, -0.5), (float("nan"), 1.0), (0.1, 0.1)])
def test_levels_that_are_not_two_finite_numbers_in_order_are_refused(levels: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="low < high"):
        compressor.to_levels({"w": torch.ones(2, 2)}, {"w": torch.ones(2, 2) > 0}, {"w": levels})


def test_free_floats_are_not_a_start(tmp_path: Path) -> None:
    net = network()
    mask = compressor.prune(net, "magnitude", density=0.2)
    mask.apply_(net)
    reset_implied(net)
    with pytest.raises(InputError, match="more than two levels"):
        compressor.save_start(net, mask, tmp_path / "start.safetensors")
    assert not list(tmp_path.iterdir())


class Scaled(nn.LayerNorm):
    def __init__(self) -> None:
        super().__init__(4)
        self.alpha = nn.Parameter(torch.ones(1))


def test_what_a_norm_of_ones_own_adds_is_stored() -> None:
    assert implied(Scaled()) == {"weight": 1.0, "bias": 0.0}
