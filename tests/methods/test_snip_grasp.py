"""SNIP and GraSP: the worked numbers of papers/snip-grasp.md §5, several batches, modes and wrong inputs."""

from typing import Any

import pytest
import torch
import toys
from torch import nn

import compressor
from compressor.errors import InputError
from compressor.methods.grasp import grasp, grasp_scores
from compressor.methods.snip import snip, snip_scores

B = toys.chain([[0.8, -0.3], [-0.5, 0.6], [0.2, 0.9]], [[0.7, -0.4, 0.5], [-0.6, 0.3, 0.9]])
B_DATA = (torch.tensor([[1.0, 2], [2, -1], [-1, 1], [0.5, 0.5]]), torch.tensor([0, 1, 1, 0]))


def close(scores: dict[str, torch.Tensor], *expected: list[list[float]], tolerance: float = 2e-6) -> None:
    for score, wanted in zip(scores.values(), expected, strict=True):
        assert torch.allclose(score.double(), torch.tensor(wanted, dtype=torch.float64), atol=tolerance)


def normalised(scores: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    total = sum(float(score.sum()) for score in scores.values())
    return {name: score / total for name, score in scores.items()}


def test_s1_snip_on_net_a() -> None:
    net, data = toys.chain(*toys.A), (torch.tensor([[1.0, 2.0]]), torch.tensor([0]))
    scores = snip_scores(net, data)
    first = [[0, 0], [0.999999, 0], [7.499990, 19.999973]]
    close(scores, first, [[0, 0, 9.999986], [0, 0.999999, 2.499997]])
    assert [round(float(score.sum()), 4) for score in scores.values()] == [28.5, 13.5]
    assert toys.places(dict(snip(net, 0.25, data))) == [(1, 2, 0), (1, 2, 1), (2, 0, 2)]


def test_s2_snip_on_net_b() -> None:
    scores = snip_scores(B, B_DATA)
    close(
        scores,
        [[0.225122, 0.257117], [0.108272, 0.152865], [0.024748, 0.131027]],
        [[0.259667, 0.025482, 0.194719], [0.222572, 0.019111, 0.350494]],
    )
    assert float(normalised(scores)["2.weight"][1, 2]) == pytest.approx(0.177808, abs=1e-6)
    found = toys.places(dict(snip(B, 0.5, B_DATA)))
    assert found == [(1, 0, 0), (1, 0, 1), (2, 0, 0), (2, 0, 2), (2, 1, 0), (2, 1, 2)]


def test_g1_grasp_at_temperature_200() -> None:
    scores = grasp_scores(B, B_DATA)
    assert sum(float(score.sum()) for score in scores.values()) == pytest.approx(1.50372e-5, rel=1e-5)
    assert float(scores["2.weight"][0, 0]) == pytest.approx(4.48832e-6, rel=1e-5)
    close(
        normalised(scores),
        [[0.031163, 0.081431], [0.021918, -0.014984], [0.048350, 0.131974]],
        [[0.298479, 0.062410, -0.045757], [0.255840, 0.046808, 0.082362]],
    )
    found = toys.places(dict(grasp(B, 0.5, B_DATA)))
    assert found == [(1, 0, 1), (1, 2, 1), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 1, 2)]


def test_g2_grasp_at_temperature_1_is_another_mask() -> None:
    scores = grasp_scores(B, B_DATA, temperature=1.0)
    assert sum(float(score.sum()) for score in scores.values()) == pytest.approx(2.306, abs=1e-3)
    close(
        scores,
        [[0.019455, 0.332366], [-0.085250, 0.217689], [0.063170, 0.417877]],
        [[0.479415, 0.134928, -0.267787], [0.410927, 0.101196, 0.482017]],
    )
    found = toys.places(dict(grasp(B, 0.5, B_DATA, temperature=1.0)))
    assert found == [(1, 0, 1), (1, 1, 1), (1, 2, 1), (2, 0, 0), (2, 1, 0), (2, 1, 2)]


class Quadratic(nn.Module):
    """L = theta^T A theta / 2, whatever the input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1, bias=False)
        self.layer.weight.data = torch.tensor([[1.0, -1.0, 2.0]])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        curvature = torch.tensor([[2.0, 1, 0], [1, 3, -1], [0, -1, 1]])
        theta = self.layer.weight[0]
        return theta @ curvature @ theta / 2 + 0 * x.sum()


def as_it_is(output: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return output


def test_g3_a_quadratic_loss_keeps_what_carries_the_gradient() -> None:
    data = (torch.zeros(1, 3), torch.zeros(1))
    scores = grasp_scores(Quadratic(), data, loss=as_it_is, temperature=1.0)
    assert scores["layer.weight"].tolist() == [[-2, 14, 14]]
    mask = grasp(Quadratic(), 2 / 3, data, loss=as_it_is, temperature=1.0)
    assert mask["layer.weight"].tolist() == [[False, True, True]]


def squares(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().sum() / 2


def test_g4_least_squares() -> None:
    net = nn.Linear(3, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, -1.0, 2.0]])
    data = (torch.tensor([[1.0, 0, 1], [0, 2, -1]]), torch.tensor([[1.0], [0.0]]))
    scores = grasp_scores(net, data, loss=squares, temperature=1.0)
    assert scores["weight"].tolist() == [[8, 44, 60]]
    close(normalised(scores), [[0.071429, 0.392857, 0.535714]])


def test_net_f_of_the_force_sheet() -> None:
    net = toys.chain(*toys.F)
    assert toys.places(dict(snip(net, 0.25, toys.F_DATA))) == [(1, 2, 0), (2, 0, 2), (2, 1, 2)]
    close(
        normalised(grasp_scores(net, toys.F_DATA)),
        [[-0.004852, 0.009704], [-0.120667, 0.360228], [0.173751, 0.069500]],
        [[0.048882, -0.018482, 0.148220], [-0.036661, 0.073927, 0.296440]],
    )
    assert toys.places(dict(grasp(net, 0.25, toys.F_DATA))) == [(1, 1, 1), (1, 2, 0), (2, 1, 2)]


def smooth() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 4)).double()


def test_the_product_with_the_hessian_is_that_of_the_hessian_written_out() -> None:
    net = smooth()
    x, y = torch.randn(12, 6, dtype=torch.float64), torch.randint(4, (12,))

    def loss(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        weights = {"0.weight": first, "2.weight": second}
        return nn.functional.cross_entropy(torch.func.functional_call(net, weights, (x,)) / 200, y)

    at = (net[0].weight.detach(), net[2].weight.detach())
    gradient = torch.autograd.functional.jacobian(loss, at)
    hessian = torch.autograd.functional.hessian(loss, at)
    for name, weight, row in zip(("0.weight", "2.weight"), at, hessian, strict=True):
        product = sum(torch.einsum("abcd,cd->ab", h, g) for h, g in zip(row, gradient, strict=True))
        assert torch.allclose(grasp_scores(net, (x, y))[name], weight * product, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("scores", [snip_scores, grasp_scores])
def test_several_batches_score_as_their_sum(scores: Any) -> None:
    net, x, y = smooth(), torch.randn(12, 6), torch.randint(4, (12,))
    whole = scores(net, (x, y))
    parts = scores(net, [(x[:6], y[:6]), [x[6:], y[6:]]])
    factor = 2 if scores is snip_scores else 4  # two means of halves are twice the mean; GraSP is quadratic
    for name in whole:
        assert torch.allclose(parts[name], factor * whole[name], rtol=1e-6, atol=1e-18)


def test_a_generator_of_batches_serves_both_passes_and_the_guard() -> None:
    net, x, y = smooth(), torch.randn(12, 6), torch.randint(4, (12,))
    batches = [(x[:6], y[:6]), (x[6:], y[6:])]
    again = compressor.prune(net, "grasp", density=0.5, data=iter(batches))
    assert again == compressor.prune(net, "grasp", density=0.5, data=batches)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Squared(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Once.apply(x)


def test_a_layer_without_second_derivative_is_named_by_grasp_and_serves_snip() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.Sequential(nn.ReLU(), Squared()), nn.Linear(5, 3))
    data = (torch.randn(8, 6), torch.randint(3, (8,)))
    assert compressor.prune(net, "snip", density=0.9, data=data).kept == 41
    with pytest.raises(InputError, match=r'no second derivative in "1\.1" \(Squared\)'):
        compressor.prune(net, "grasp", density=0.9, data=data)


def test_a_network_without_curvature_has_nothing_to_rank() -> None:
    def linear(output: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        return output.sum()

    three = (torch.randn(4, 3), torch.tensor([0, 1, 1, 0]))
    with pytest.raises(InputError, match="grasp: all scores are zero"):
        compressor.prune(nn.Linear(3, 2), "grasp", density=0.5, data=three, loss=linear)


def test_batch_statistics_make_another_mask_than_running_ones() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.1, 5)
    data = (torch.randn(32, 8), torch.randint(4, (32,)))
    for method in ("snip", "grasp", "force", "iterative-snip"):
        masks = [compressor.prune(net, method, density=0.3, data=data, mode=m) for m in ("train", "eval")]
        assert masks[0] != masks[1]
    with pytest.raises(InputError, match='did you mean "train"'):
        compressor.prune(net, "snip", density=0.3, data=data, mode="trian")
