"""FORCE and Iterative SNIP: the worked numbers of papers/force.md §5, nestedness and resurrection."""

import itertools
from collections.abc import Callable

import pytest
import torch
import toys
from torch import nn

import compressor
from compressor.errors import InputError
from compressor.methods.force import force, force_scores
from compressor.methods.iterative_snip import iterative_snip
from compressor.methods.rounds import exponential, floored, schedule

Masks = list[dict[str, torch.Tensor]]
FIRST = [[0.010759, 0.021517], [0.067292, 0.147832], [0.322761, 0.129104]]


def walked(
    method: Callable[..., compressor.Mask], net: nn.Module, density: float, **options: object
) -> Masks:
    rounds: Masks = []
    method(net, density, toys.F_DATA, on_round=lambda _, masks: rounds.append(dict(masks)), **options)
    return rounds


def close(scores: dict[str, torch.Tensor], *expected: list[list[float]]) -> None:
    for score, wanted in zip(scores.values(), expected, strict=True):
        assert torch.allclose(score, torch.tensor(wanted), atol=2e-6)


def test_f1_the_first_round_is_snip_and_keeps_seven() -> None:
    net = toys.chain(*toys.F)
    whole = {f"{place}.weight": torch.ones_like(net[place].weight, dtype=torch.bool) for place in (0, 2)}
    second = [[0.043035, 0.026847, 0.150622], [0.032276, 0.107386, 0.301243]]
    close(force_scores(net, toys.F_DATA, whole), FIRST, second)
    seven = [(1, 1, 0), (1, 1, 1), (1, 2, 0), (1, 2, 1), (2, 0, 2), (2, 1, 1), (2, 1, 2)]
    for method in (force, iterative_snip):
        assert toys.places(walked(method, net, 0.25, rounds=3)[0]) == seven


def test_f2_in_the_second_round_force_scores_pruned_weights_and_iterative_snip_does_not() -> None:
    net = toys.chain(*toys.F)
    mask = walked(force, net, 0.25, rounds=3)[0]
    first = [[0, 0], [0.084551, 0.205251], [0.320874, 0.128349]]
    close(force_scores(net, toys.F_DATA, mask), first, [[0, 0.030175, 0.149741], [0, 0.120700, 0.299482]])
    nested = force_scores(net, toys.F_DATA, mask, nested=True)
    close(nested, first, [[0, 0, 0.149741], [0, 0.120700, 0.299482]])
    for method in (force, iterative_snip):
        four = [(1, 1, 1), (1, 2, 0), (2, 0, 2), (2, 1, 2)]
        assert toys.places(walked(method, net, 0.25, rounds=3)[1]) == four


def test_f3_in_the_third_round_a_weight_comes_back_with_force_alone() -> None:
    net = toys.chain(*toys.F)
    mask = walked(force, net, 0.25, rounds=3)[1]
    first = [[0, 0], [0, 0], [0.236541, 0.236354]]
    close(force_scores(net, toys.F_DATA, mask), first, [[0, 0.004869, 0.078847], [0, 0.019477, 0.157694]])
    assert toys.places(walked(force, net, 0.25, rounds=3)[2]) == [(1, 2, 0), (1, 2, 1), (2, 1, 2)]
    assert toys.places(walked(iterative_snip, net, 0.25, rounds=3)[2]) == [(1, 2, 0), (2, 0, 2), (2, 1, 2)]


def test_f4_one_round_is_snip() -> None:
    net = toys.chain(*toys.F)
    one_shot = [(1, 2, 0), (2, 0, 2), (2, 1, 2)]
    for rounds in (1, 2):
        assert toys.places(dict(force(net, 0.25, toys.F_DATA, rounds=rounds))) == one_shot
    assert toys.places(dict(iterative_snip(net, 0.25, toys.F_DATA, rounds=1))) == one_shot
    found = compressor.prune(net, "synflow", density=0.25, data=(2,))
    assert toys.places(dict(found)) == [(1, 2, 0), (1, 2, 1), (2, 1, 2)]


@pytest.mark.parametrize(
    ("density", "rounds", "total", "counts"),
    [
        (0.2, 10, 83900, [71427, 60809, 51769, 44073, 37521, 31943, 27194, 23151, 19710, 16780]),
        (0.05, 10, 83900, [62181, 46084, 34154, 25313, 18760, 13904, 10304, 7637, 5660, 4195]),
        (0.01, 4, 1000, [316, 100, 31, 10]),
        (0.25, 2, 100, [50, 25]),
    ],
)
def test_f5_the_schedule_rounds_down_but_at_its_end(
    density: float, rounds: int, total: int, counts: list[int]
) -> None:
    found = schedule({"a": (total,)}, density, rounds, "global", floored)
    assert [quota[0][1] for quota in found] == counts


def test_f5_the_densities() -> None:
    assert exponential(0.05, 5) == pytest.approx([0.549280, 0.301709, 0.165723, 0.091028, 0.05], abs=1e-6)


@pytest.mark.parametrize("method", [force, iterative_snip])
def test_f6_where_most_scores_are_zero_the_count_is_exact_and_ties_fall_by_position(
    method: Callable[..., compressor.Mask],
) -> None:
    net = toys.chain([[1.0, -1], [-1, -2]], [[1.0, 2], [-1, 0.5]])
    mask = method(net, 0.5, (torch.tensor([[1.0, 0.0]]), torch.tensor([0])), rounds=2)
    assert toys.places(dict(mask)) == [(1, 0, 0), (1, 0, 1), (2, 0, 0), (2, 1, 0)]


def test_f7_the_loss_of_the_reference_code_is_not_ours() -> None:
    def slip(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.nll_loss(output, labels)

    net = toys.chain(*toys.F)
    for method in (force, iterative_snip):
        theirs = toys.places(dict(method(net, 1 / 3, toys.F_DATA, rounds=3, loss=slip)))
        assert theirs == [(1, 1, 0), (1, 2, 0), (2, 1, 1), (2, 1, 2)]
        assert theirs != toys.places(dict(method(net, 1 / 3, toys.F_DATA, rounds=3)))


def mlp() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10))
        return net, (torch.randn(64, 60), torch.randint(10, (64,)))


@pytest.mark.parametrize("scope", ["global", "layer", "erk"])
def test_iterative_snip_never_brings_a_weight_back_and_force_does(scope: str) -> None:
    net, data = mlp()
    back = {}
    for method in (force, iterative_snip):
        rounds: Masks = []
        method(net, 0.1, data, scope=scope, on_round=lambda _, m, rounds=rounds: rounds.append(dict(m)))
        pairs = list(itertools.pairwise(rounds))
        assert len(rounds) == 10
        back[method] = sum(int((b[name] & ~a[name]).sum()) for a, b in pairs for name in a)
    assert back[iterative_snip] == 0
    assert back[force] > 0


def test_a_collapse_names_the_emptied_layers_and_the_round() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(20, 20, bias=False) for _ in range(12)]
    net = nn.Sequential(*[m for layer in layers for m in (layer, nn.ReLU())], nn.Linear(20, 5))
    data = (torch.randn(32, 20), torch.randint(5, (32,)))
    with pytest.raises(InputError, match=r"layer collapse by force in round \d+: .*cut at \d+\.weight"):
        compressor.prune(net, "force", density=0.003, data=data, rounds=5)


def test_no_rounds_are_refused() -> None:
    with pytest.raises(InputError, match="rounds 0 must be a whole number, at least 1"):
        compressor.prune(toys.chain(*toys.F), "force", density=0.5, data=toys.F_DATA, rounds=0)
