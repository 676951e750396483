"""Sigma: measured against what float32 really does, and against the formula where there is one."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from exporters.rounding import Reference, samples_of

U = 2.0**-24


def test_sigma_of_one_linear_layer_is_the_formula():
    torch.manual_seed(0)
    layer = nn.Linear(64, 1)
    with torch.no_grad():
        layer.weight[:, 32:] = 0
    x = torch.randn(16, 64)
    reference = Reference(layer)
    measured = reference.sigma([x], reference.run([x]))[0]
    squares = x.double().square() @ layer.weight.double().square().T + layer.bias.double().square()
    # 32 kept products and the bias, and one more
    formula = (U * U / 3 * (32 + 2) / 2 * squares).sqrt()[:, 0].detach()
    assert float(measured.square().mean().sqrt()) == pytest.approx(
        float(formula.square().mean().sqrt()), rel=0.35
    )


def test_fewer_weights_make_less_noise():
    torch.manual_seed(0)
    x = torch.randn(16, 64)
    sigmas = []
    for kept in (64, 4):
        layer = nn.Linear(64, 8)
        with torch.no_grad():
            layer.weight[:, kept:] = 0
        reference = Reference(layer)
        sigmas.append(float(reference.sigma([x], reference.run([x]))[0].max()))
    assert sigmas[1] < sigmas[0] / 4


def test_sigma_is_the_same_every_time_and_leaves_the_global_generator():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(4, 8)
    state = torch.random.get_rng_state()
    first, second = (Reference(net).sigma([x], Reference(net).run([x])) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_reference_is_float64_whatever_the_code_casts_to():
    class Casting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(6, 6))
            self.scale = torch.full((6,), 0.1)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x = functional.linear(x.half().float(), self.weight)
            return (x.to(torch.bfloat16) * self.scale + torch.zeros(6)).float()

    torch.manual_seed(0)
    net, x = Casting(), torch.randn(3, 6)
    right = x.double() @ net.weight.detach().double().T * net.scale.double()
    assert torch.equal(Reference(net).run([x])[0], right)


def test_code_that_compares_with_an_exact_zero_is_not_disturbed():
    class Masked(nn.Module):
        def forward(self, x):
            positions = torch.arange(4.0)
            return x.masked_fill((positions[:, None] - positions) != 0, -100.0).sum((1, 2))

    x = torch.randn(16, 4, 4)
    reference = Reference(Masked())
    assert float(reference.sigma([x], reference.run([x]))[0].max()) < 1e-3


def test_equal_values_are_rounded_alike():
    """A plane that pruning leaves constant errs by the same amount everywhere: its mean does too."""
    x = torch.randn(16, 1, 32, 32)
    conv = nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.fill_(0.3)
    net = nn.Sequential(conv, nn.Tanh(), nn.AdaptiveAvgPool2d(1))
    reference = Reference(net)
    sigma = float(reference.sigma([x], reference.run([x]))[0].max())
    assert sigma > 0.2 * U * math.tanh(0.3)


def test_exact_networks_have_no_noise():
    x = torch.randn(16, 8)
    net = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Identity())
    reference = Reference(net)
    assert float(reference.sigma([x], reference.run([x]))[0].max()) == 0.0


def test_outputs_without_a_batch_axis_count_as_one_sample():
    assert samples_of(torch.zeros(3, 5), 4).shape == (1, 15)
    assert samples_of(torch.zeros(4, 5, 2), 4).shape == (4, 10)
    assert samples_of(torch.zeros(()), 4).shape == (1, 1)


@pytest.mark.parametrize("seed", range(3))
def test_float32_stays_within_the_limit_and_bfloat16_does_not(seed):
    torch.manual_seed(seed)
    layers = [
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3),
        nn.Flatten(),
        nn.Linear(512, 10),
    ]
    net, x = nn.Sequential(*layers).eval(), torch.randn(16, 3, 12, 12)
    reference = Reference(net)
    right = reference.run([x])
    sigma = reference.sigma([x], right)[0]
    with torch.no_grad():
        honest = net(x).double()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            narrow = net(x).double()
    assert float(((honest - right[0]).abs().amax(1) / sigma).max()) < 4
    assert float(((narrow - right[0]).abs().amax(1) / sigma).min()) > 500
