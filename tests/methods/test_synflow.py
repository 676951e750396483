"""SynFlow: the worked numbers of papers/synflow.md §5, conservation, collapse and overflow."""

import copy
import itertools

import pytest
import torch
import toys
from torch import nn

import compressor
from compressor.errors import InputError
from compressor.methods.rounds import complement, exponential, schedule
from compressor.methods.synflow import synflow, synflow_scores
from compressor.models import build


def scores(net: nn.Module, mask: dict[str, torch.Tensor] | None = None) -> list[list[list[float]]]:
    return [score.tolist() for score in synflow_scores(net, (2,), mask).values()]


def kept(net: nn.Module, density: float, rounds: int) -> list[tuple[int, int, int]]:
    return toys.places(dict(synflow(net, density, (2,), rounds=rounds)))


def test_a1_the_scores_of_the_first_round() -> None:
    assert scores(toys.chain(*toys.A)) == [[[2, 4], [1, 0], [7.5, 10]], [[3, 0, 14], [3, 1, 3.5]]]


@pytest.mark.parametrize("rounds", [1, 100])
def test_a2_two_of_twelve(rounds: int) -> None:
    net = toys.chain(*toys.A)
    assert kept(net, 1 / 6, rounds) == [(1, 2, 1), (2, 0, 2)]
    last = {"0.weight": torch.zeros(3, 2).bool(), "2.weight": torch.zeros(2, 3).bool()}
    last["0.weight"][2] = True
    last["2.weight"][0, 2] = True
    first, second = scores(net, last)
    assert first[2] == [6, 8]
    assert second[0] == [0, 0, 14]


@pytest.mark.parametrize("rounds", [1, 2, 3, 100])
def test_a3_three_of_twelve(rounds: int) -> None:
    assert kept(toys.chain(*toys.A), 0.25, rounds) == [(1, 2, 0), (1, 2, 1), (2, 0, 2)]


def test_a3_and_the_schedule_of_83900_weights() -> None:
    shapes = {"a": (12,)}
    assert [quota[0][1] for quota in schedule(shapes, 0.25, 3, "global", complement)] == [8, 5, 3]
    assert exponential(0.05, 5) == pytest.approx([0.54928, 0.301709, 0.165723, 0.091028, 0.05], abs=1e-6)
    found = schedule({"a": (83900,)}, 0.05, 5, "global", complement)
    assert [quota[0][1] for quota in found] == [46085, 25314, 13905, 7638, 4195]


def test_a4_a_tie_at_the_threshold_falls_by_position() -> None:
    found = kept(toys.chain(*toys.A), 0.5, 1)
    assert found == [(1, 0, 1), (1, 2, 0), (1, 2, 1), (2, 0, 0), (2, 0, 2), (2, 1, 2)]


def test_b_biases_add_flow_that_earlier_layers_do_not_carry() -> None:
    net = toys.chain(*toys.A)
    net[0].bias = nn.Parameter(torch.tensor([-1.0, 2, 0.5]))
    net[2].bias = nn.Parameter(torch.tensor([0.3, -0.7]))
    assert scores(net) == [[[2, 4], [1, 0], [7.5, 10]], [[4, 0, 15], [4, 5, 3.75]]]


def test_c_synflow_keeps_a_path_where_magnitude_empties_a_layer() -> None:
    net = toys.chain(*toys.C)
    first, second = scores(net)
    assert first == [pytest.approx([0.4, 0.8]), pytest.approx([1.8, 0.9])]
    assert second == [pytest.approx([0.3, 0.9]), pytest.approx([0.9, 1.8])]
    for rounds in (1, 100):
        assert kept(net, 0.25, rounds) == [(1, 1, 0), (2, 1, 1)]
    assert kept(net, 0.5, 100) == [(1, 1, 0), (1, 1, 1), (2, 0, 1), (2, 1, 1)]
    with pytest.raises(InputError, match=r"layer collapse by magnitude.*0\.weight"):
        compressor.prune(net, "magnitude", density=0.25, data=(2,))


@pytest.mark.parametrize(
    ("mean", "beta", "first", "last"),
    [
        ((-1.0, 0.5), (0.25, -0.5), [[1.5, 3], [8, 4]], [[3.5, 6]]),
        ((-1.0, 3.0), (0.25, 0.0), [[1.5, 3], [0, 0]], [[3.5, 0]]),
    ],
)
def test_d_batch_norm_subtracts_the_absolute_mean(
    mean: tuple[float, float], beta: tuple[float, float], first: list[list[float]], last: list[list[float]]
) -> None:
    norm = nn.BatchNorm1d(2, eps=0.0)
    norm.weight.data, norm.bias.data = torch.tensor([-1.5, 2.0]), torch.tensor(beta)
    norm.running_mean, norm.running_var = torch.tensor(mean), torch.tensor([4.0, 0.25])
    hidden, out = toys.chain([[1.0, -2.0], [0.5, 0.25]])[0], toys.chain([[2.0, -4.0]])[0]
    assert scores(nn.Sequential(hidden, norm, nn.ReLU(), out)) == [first, last]


def test_e_equal_scores_leave_a_living_network() -> None:
    net = toys.chain([[1.0, 1.0], [1.0, 1.0]], [[1.0, 1.0]])
    assert kept(net, 0.5, 1) == [(1, 0, 0), (2, 0, 0), (2, 0, 1)]


def test_the_scores_of_every_layer_that_cuts_a_net_without_biases_sum_to_r_in_every_round() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, 2, bias=False),
        nn.ReLU(), nn.Flatten(), nn.Linear(45, 7, bias=False), nn.ReLU(), nn.Linear(7, 4, bias=False),
    )  # fmt: skip
    rounds = []
    synflow(net, 0.1, (3, 9, 9), rounds=10, on_round=lambda _, masks: rounds.append(dict(masks)))
    for mask in [None, *rounds]:
        sums = [float(score.sum()) for score in synflow_scores(net, (3, 9, 9), mask).values()]
        assert max(sums) - min(sums) < 1e-10 * max(sums)


def test_the_masks_of_the_rounds_are_nested_and_their_counts_exact() -> None:
    rounds = []
    net = build("lenet-300-100", shape=(1, 8, 8), classes=10, seed=1)
    mask = synflow(net, 0.02, (1, 8, 8), rounds=20, on_round=lambda _, masks: rounds.append(dict(masks)))
    for before, after in itertools.pairwise(rounds):
        assert not any((after[name] & ~before[name]).any() for name in after)
    assert [sum(int(m.sum()) for m in one.values()) for one in rounds] == [
        quota[0][1]
        for quota in schedule({n: tuple(m.shape) for n, m in mask.items()}, 0.02, 20, "global", complement)
    ]


def deep_mlp(*, bias: bool) -> nn.Module:
    sizes = [100, 400, 300, 200, 100, 100, 100, 100, 20, 10]
    pairs = itertools.pairwise(sizes)
    layers = [m for a, b in pairs for m in (nn.Linear(a, b, bias=bias), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def test_on_a_deep_mlp_snip_and_magnitude_collapse_where_100_rounds_of_synflow_do_not() -> None:
    torch.manual_seed(0)
    net = deep_mlp(bias=False)
    data = (torch.randn(64, 100), torch.randint(10, (64,)))
    assert compressor.prune(net, "synflow", density=1e-3, data=data).kept == 272
    for method in ("snip", "magnitude"):
        with pytest.raises(InputError, match=f"layer collapse by {method}"):
            compressor.prune(net, method, density=1e-3, data=data)


def test_biases_can_starve_the_first_layers_and_the_error_names_them_and_the_round() -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=r"synflow in round \d+: nothing can flow .* cut at 0\.weight"):
        compressor.prune(deep_mlp(bias=True), "synflow", density=1e-3, data=(100,))


def test_resnet50_at_224_overflows_in_float32_and_not_here() -> None:
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet50().eval()
    single = copy.deepcopy(net)
    with torch.no_grad():
        for value in single.state_dict().values():
            value.abs_()
        assert not torch.isfinite(single(torch.ones(1, 3, 224, 224)).sum())
    assert synflow(net, 0.5, (3, 224, 224), rounds=1).density == pytest.approx(0.5, abs=1e-7)


def test_integers_a_missing_shape_and_an_r_that_is_not_finite_are_refused() -> None:
    net = toys.chain(*toys.A)
    with pytest.raises(InputError, match="integers"):
        compressor.prune(net, "synflow", density=0.5, data=torch.ones(4, 2, dtype=torch.long))
    with pytest.raises(InputError, match="wants data="):
        compressor.prune(net, "synflow", density=0.5)
    huge = toys.chain(*toys.A).double()
    for layer in (huge[0], huge[2]):
        layer.weight.data.fill_(1e300)
    with pytest.raises(InputError, match=r"synflow: R, the sum of the outputs, is inf in round 1"):
        compressor.prune(huge, "synflow", density=0.5, data=(2,))


def test_what_is_not_the_shape_of_the_inputs_is_one_sentence() -> None:
    with pytest.raises(InputError, match="Sequential does not run on the data"):
        compressor.prune(toys.chain(*toys.A), "synflow", density=0.5, data=(3,))


def test_all_is_kept_at_density_1_without_a_round() -> None:
    called = []
    mask = synflow(toys.chain(*toys.A), 1.0, (2,), on_round=lambda *_: called.append(1))
    assert mask.density == 1.0
    assert not called
