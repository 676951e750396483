"""Conformance of every scoring method: a new one is covered by being listed."""

import copy
import random
from typing import Any

import pytest
import torch
from torch import nn

import compressor
from compressor.errors import InputError
from compressor.methods import METHODS, TRAINING_METHODS
from compressor.selection import SCOPES, kept_count


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(144, 20),
            nn.ReLU(),
            nn.Linear(20, 5),
        )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(16, 1, 8, 8, generator=g), torch.randint(5, (16,), generator=g)


TOTAL = 36 + 144 * 20 + 100


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", METHODS)
def test_the_count_is_exact_in_every_scope(name: str, scope: str) -> None:
    mask = compressor.prune(network(), name, density=0.3, data=batch(), scope=scope)
    assert mask.kept == kept_count(0.3, TOTAL)
    assert mask.total == TOTAL


@pytest.mark.parametrize("name", METHODS)
def test_the_caller_s_module_and_the_global_generators_are_untouched(name: str) -> None:
    net = network().train()
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(5)
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    compressor.prune(net, name, density=0.3, data=batch())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert net.training
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_the_same_call_gives_the_same_mask(name: str) -> None:
    masks = [
        compressor.prune(network(), name, density=0.1, data=batch(), generator=seeded()) for _ in range(2)
    ]
    assert all(torch.equal(masks[0][key], masks[1][key]) for key in masks[0])


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("name", METHODS)
def test_density_1_keeps_all_and_an_excluded_weight_is_not_counted(name: str) -> None:
    assert compressor.prune(network(), name, density=1.0, data=batch()).density == 1.0
    mask = compressor.prune(network(), name, density=0.5, data=batch(), exclude=["0.weight"])
    assert list(mask) == ["4.weight", "6.weight"]
    assert mask.kept == kept_count(0.5, TOTAL - 36)


@pytest.mark.parametrize("name", METHODS)
def test_an_unknown_option_is_an_error_with_a_suggestion(name: str) -> None:
    with pytest.raises(InputError, match='did you mean "scope"'):
        compressor.prune(network(), name, density=0.5, scop="layer")


@pytest.mark.parametrize("name", TRAINING_METHODS)
def test_a_training_method_points_to_its_own_function(name: str) -> None:
    with pytest.raises(InputError, match=rf"use compressor\.{name.replace('-', '_')}\("):
        compressor.prune(network(), name, density=0.5)


def test_an_unknown_method_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match='did you mean "magnitude"'):
        compressor.prune(network(), "magnitud", density=0.5)


def test_magnitude_of_equal_weights_keeps_the_earliest() -> None:
    net = nn.Linear(4, 2)
    nn.init.ones_(net.weight)
    mask = compressor.prune(net, "magnitude", density=0.5)
    assert mask["weight"].tolist() == [[True] * 4, [False] * 4]


def test_nan_weights_are_refused_by_name() -> None:
    net: Any = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r'"0\.weight" holds NaN'):
        compressor.prune(net, "magnitude", density=0.5)


def test_random_depends_on_its_generator_alone() -> None:
    masks = [
        compressor.prune(network().to(d), "random", density=0.2, generator=seeded())
        for d in (torch.float32, torch.bfloat16)
    ]
    assert all(torch.equal(masks[0][key], masks[1][key]) for key in masks[0])
    other = compressor.prune(network(), "random", density=0.2, generator=torch.Generator().manual_seed(8))
    assert not torch.equal(other["4.weight"], masks[0]["4.weight"])


def test_a_collapsed_mask_is_refused_by_prune() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.1, 0.2], [-0.3, 0.15]]))
        net[1].weight.copy_(torch.tensor([[3.0, 4.0]]))
    with pytest.raises(InputError, match=r"0\.weight"):
        compressor.prune(net, "magnitude", density=0.34, data=(2,))
