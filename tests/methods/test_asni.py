"""ASNI-I: the normalised curve (E6), and the author's own, which reproduces his logs (E1 to E5, E7)."""

import struct
from collections.abc import Callable
from itertools import pairwise
from math import exp, floor

import pytest
import torch
from torch import nn

import compressor
from compressor.errors import InputError
from compressor.methods.asni import densities
from compressor.selection import kept_count, select


def single(x: float) -> float:
    value: float = struct.unpack("f", struct.pack("f", x))[0]
    return value


def author_curve(mag: float, scale: float, stages: int) -> Callable[[int], float]:
    return lambda t: mag / (1 + exp(-(t - 0.5 * stages) / scale)) if t >= 0 else 0.0


def author_alive(total: int, curve: Callable[[int], float], stages: int, skip: float = 0.1) -> list[int]:
    """The author's loop with its skip rule and floors: alive count after each stage (papers/asni.md §2.1, §2.2)."""
    alive, history = total, []
    for t in range(stages):
        share = 100 * (curve(t) - curve(t - 1)) / (100 - curve(t - 1))
        if share > skip:
            alive -= floor(alive * share / 100)
        history.append(alive)
    return history


def test_e1_the_author_s_sigmoid() -> None:
    s = author_curve(98, 5, 50)
    wanted = {0: 0.655899, 1: 0.799932, 24: 44.116268, 25: 49.0, 40: 93.352264, 48: 97.024723, 49: 97.200068}
    assert {t: round(s(t), 6) for t in wanted} == wanted
    p = {t: round(100 * (s(t) - s(t - 1)) / (100 - s(t - 1)), 6) for t in (0, 1, 2, 24, 25, 40, 48, 49)}
    assert list(p.values()) == [
        0.655899,
        0.144984,
        0.176759,
        7.891131,
        8.739094,
        12.733828,
        6.689799,
        5.893389,
    ]


def test_e2_alive_counts_of_the_log_of_lenet() -> None:
    alive = author_alive(266200, author_curve(98, 5, 50), 50)
    wanted = {0: 264454, 1: 264071, 2: 263605, 24: 148770, 25: 135769, 48: 7925, 49: 7458}
    assert {t: alive[t] for t in wanted} == wanted
    assert (alive[0] + 410, alive[48] + 410, alive[49] + 410) == (264864, 8335, 7868)


@pytest.mark.parametrize(
    ("total", "mag", "scale", "stages", "alive"),
    [
        (4300992, 98.5, 2, 20, 140715),
        (2425024, 95, 2, 25, 133280),
        (2261184, 94, 3, 30, 163209),
        (11678912, 97, 16, 160, 440623),
        (25502912, 81.4, 10, 90, 5026178),
    ],
)
def test_e3_alive_counts_of_the_other_logs(
    total: int, mag: float, scale: float, stages: int, alive: int
) -> None:
    assert author_alive(total, author_curve(mag, scale, stages), stages)[stages - 2] == alive


def test_e3_resnet18_in_single_precision_is_one_less_as_logged() -> None:
    def curve(t: int) -> float:
        return single(float(97 * torch.sigmoid(torch.tensor((t - 80) / 16)))) if t >= 0 else 0.0

    assert author_alive(11678912, curve, 160)[158] == 440622


def test_e4_the_skip_rule_loses_one_percent() -> None:
    s = author_curve(97, 16, 160)
    alive = author_alive(11678912, s, 160)
    assert 11678912 - alive[0] == 75820
    assert alive[0] == alive[15]
    assert alive[15] - alive[16] == 12258
    assert author_alive(11678912, s, 160, skip=0)[158] == 436224


def test_e5_two_sigmoids() -> None:
    first = author_curve(90, 2, 35)

    def both(t: int) -> float:
        return first(t) if t < 35 else first(34) + 10 / (1 + exp(-(t - 35 - 0.5 * 15) / 2))

    wanted = {0: 0.014259, 17: 39.404115, 34: 89.976493, 35: 90.206267, 42: 94.354728, 43: 95.598258}
    wanted |= {48: 99.375626, 49: 99.603224}
    assert {t: round(both(t), 6) for t in wanted} == wanted


@pytest.mark.parametrize(
    ("density", "wanted", "counts"),
    [
        (
            0.05,
            {0: 0.997452, 5: 0.930263, 9: 0.637201, 10: 0.518241, 14: 0.148325, 18: 0.05},
            [265522, 247636, 169623, 137956, 39484, 13310],
        ),
        (
            0.01,
            {0: 0.997345, 5: 0.927327, 9: 0.621925, 10: 0.497956, 14: 0.112465, 18: 0.01},
            [265493, 246854, 165556, 132556, 29938, 2662],
        ),
    ],
)
def test_e6_the_normalised_curve(density: float, wanted: dict[int, float], counts: list[int]) -> None:
    curve = densities(20, density)
    assert len(curve) == 19
    assert {t: round(curve[t], 6) for t in wanted} == wanted
    assert [kept_count(curve[t], 266200) for t in wanted] == counts


def test_e7_the_author_s_threshold_drops_ties_and_ours_keeps_the_exact_count() -> None:
    w = torch.tensor([0.4, -0.1, 0.3, -0.2, 0.15, 0, -0.5, 0.2])

    def author(weights: torch.Tensor, percent: float) -> int:
        alive = weights.abs()[weights != 0]
        threshold = alive.kthvalue(floor(len(alive) * percent / 100)).values
        return int((weights.abs() > threshold).sum())

    other = w.clone()
    other[4] = 0.1
    assert (author(other, 40), author(w, 30), author(w, 45)) == (5, 5, 3)
    kept = select({"w": w.abs()}, 4 / 8)["w"]
    assert w[kept].tolist() == pytest.approx([0.4, 0.3, -0.2, -0.5])


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4))


def walk(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    g = torch.Generator().manual_seed(2)
    for _ in range(steps):
        x = torch.randn(8, 20, generator=g)
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def test_the_asked_density_is_reached_exactly_and_pruned_weights_never_return() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    seen = []
    with compressor.asni(net, optimizer, density=0.1, steps=40, every=2) as schedule:
        for _ in range(20):
            walk(net, optimizer, 2)
            seen.append(schedule.mask)
    for before, after in pairwise(seen):
        assert all(not bool((after[name] & ~before[name]).any()) for name in after)
    assert schedule.mask.kept == kept_count(0.1, 720)
    # 20 stages, the curve ends at 0.75: 15 stages, 14 prunings, the last one after the 14th stage.
    assert seen[12].kept > seen[13].kept == seen[19].kept
    zeros = {name: p == 0 for name, p in net.named_parameters() if p.dim() > 1}
    assert all(torch.equal(zeros[name], ~schedule.mask[name]) for name in zeros)


def test_no_layer_is_emptied() -> None:
    net = network()
    with torch.no_grad():
        net[2].weight.mul_(1e-6)
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    with compressor.asni(net, optimizer, density=0.01, steps=12, every=1, end=1.0) as schedule:
        walk(net, optimizer, 12)
    assert schedule.mask.per_layer() == {"0.weight": (6, 600), "2.weight": (1, 120)}


def test_leaving_early_warns_with_the_density_reached() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with (
        pytest.warns(UserWarning, match=r"after 4 steps at density 0\.9"),
        compressor.asni(net, optimizer, density=0.1, steps=40, every=2),
    ):
        walk(net, optimizer, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.1, "steps": 4, "every": 2}, "at least 2 prunings"),
        ({"density": 0.0, "steps": 40, "every": 2}, "outside"),
        ({"density": 0.001, "steps": 40, "every": 2}, "each needs at least one"),
        ({"density": 0.1, "steps": 40, "every": 2, "end": 1.5}, "end 1.5"),
        ({"density": 0.1, "steps": 40, "every": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_scheduled_is_an_input_error(options: dict[str, float], message: str) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with pytest.raises(InputError, match=message):
        compressor.asni(net, optimizer, **options)  # type: ignore[arg-type]
    walk(net, optimizer, 1)


def test_a_schedule_goes_on_from_its_state_to_the_same_bits() -> None:
    def build() -> tuple[nn.Sequential, torch.optim.Optimizer]:
        net = network()
        return net, torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)

    net, optimizer = build()
    with compressor.asni(net, optimizer, density=0.1, steps=40, every=2) as schedule:
        for _ in range(40):
            walk(net, optimizer, 1)
    again, second = build()
    first_half = compressor.asni(again, second, density=0.1, steps=40, every=2)
    for _ in range(21):
        walk(again, second, 1)
    state = first_half.state_dict()
    with pytest.warns(UserWarning, match="after 21 steps"):
        first_half.remove()
    with compressor.asni(again, second, density=0.1, steps=40, every=2) as resumed:
        resumed.load_state_dict(state)
        for _ in range(19):
            walk(again, second, 1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert schedule.mask.kept == resumed.mask.kept


def test_a_checkpoint_of_another_schedule_is_refused() -> None:
    net = network()
    schedule = compressor.asni(net, torch.optim.SGD(net.parameters(), 0.1), density=0.1, steps=40, every=2)
    with pytest.raises(InputError, match="another schedule"):
        schedule.load_state_dict(
            {"step": 2, "mask": {name: mask & False for name, mask in schedule.mask.items()}}
        )


@pytest.mark.parametrize(("end", "stages", "prunings"), [(0.145, 100, 14), (0.29, 50, 14), (0.57, 50, 28)])
def test_the_end_is_rounded_half_up_in_spite_of_floating_point(
    end: float, stages: int, prunings: int
) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.0)
    with compressor.asni(net, optimizer, density=0.1, steps=stages, every=1, end=end) as schedule:
        walk(net, optimizer, prunings - 1)
        assert schedule.mask.kept > kept_count(0.1, 720)
        walk(net, optimizer, 1)
        assert schedule.mask.kept == kept_count(0.1, 720)


def test_a_step_by_way_of_the_parent_s_counts_once_and_one_that_failed_not_at_all() -> None:
    class Inner(torch.optim.SGD):
        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            return super().step(closure)

    def boom(*_: object) -> None:
        raise RuntimeError("out of memory")

    nets = network(), network()
    plain, inner = torch.optim.SGD(nets[0].parameters(), 0.1), Inner(nets[1].parameters(), 0.1)
    with (
        compressor.asni(nets[0], plain, density=0.1, steps=40, every=2) as wanted,
        compressor.asni(nets[1], inner, density=0.1, steps=40, every=2) as found,
    ):
        for _ in range(40):
            walk(nets[0], plain, 1)
            hook = inner.register_step_pre_hook(boom)
            with pytest.raises(RuntimeError, match="out of memory"):
                walk(nets[1], inner, 1)
            hook.remove()
            walk(nets[1], inner, 1)
            assert found.mask == wanted.mask
