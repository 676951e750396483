"""tied: the module computes with two levels per layer at every moment, with exact counts."""

import pytest
import torch
from torch import nn

import compressor
from compressor.errors import InputError
from compressor.flow import reach


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 3))


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(32, 12, generator=torch.Generator().manual_seed(number))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def walk(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    losses = []
    for number in range(first, last):
        x, y = batch(number)
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def started(density: float = 0.1) -> tuple[nn.Sequential, torch.optim.Optimizer, compressor.Mask]:
    net = network()
    mask = compressor.prune(net, "magnitude", density=density, scope="layer")
    return net, torch.optim.Adam(net.parameters(), 1e-2), mask


@pytest.mark.parametrize("move", [True, False])
def test_every_kept_weight_is_one_of_two_levels_after_every_step(move: bool) -> None:
    net, optimizer, mask = started()
    with compressor.tied(net, optimizer, mask, steps=300, move=move) as two_level:
        for number in range(300):
            walk(net, optimizer, number, number + 1)
            if number % 7 and number < 280:
                continue
            state, now = net.state_dict(), two_level.mask
            for name in mask:
                assert set(state[name][now[name]].unique().tolist()) <= set(two_level.levels[name])
                assert not state[name][~now[name]].view(torch.int32).any()
    assert two_level.mask.per_layer() == mask.per_layer()
    moved = any(not torch.equal(two_level.mask[name], mask[name]) for name in mask)
    assert moved == move


@pytest.mark.parametrize("move", [True, False])
def test_the_two_level_network_learns(move: bool) -> None:
    net, optimizer, mask = started(density=0.4)
    with compressor.tied(net, optimizer, mask, steps=900, move=move):
        losses = walk(net, optimizer, 0, 900)
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


def test_the_mask_rests_after_the_moving_part_and_signs_in_the_settling_part() -> None:
    net, optimizer, mask = started()
    with compressor.tied(net, optimizer, mask, steps=300) as two_level:
        walk(net, optimizer, 0, 168)  # 0.7 of 0.8 of 300
        chosen = two_level.mask
        walk(net, optimizer, 168, 240)
        signs = {name: net.state_dict()[name] > 0 for name in mask}
        walk(net, optimizer, 240, 300)
    assert all(torch.equal(chosen[name], two_level.mask[name]) for name in mask)
    assert all(torch.equal(signs[name], net.state_dict()[name] > 0) for name in mask)


def dead(net: nn.Module, mask: compressor.Mask) -> int:
    reached = reach(net, mask, [batch(0)[0]])
    return sum(int((mask[name] & ~reached[name]).sum()) for name in mask)


def test_kept_weights_on_dead_paths_are_released_and_others_take_over() -> None:
    net, optimizer, mask = started(density=0.15)
    with compressor.tied(net, optimizer, mask, steps=900) as two_level:
        walk(net, optimizer, 0, 900)
    assert dead(net, two_level.mask) < dead(net, mask)


def test_it_goes_on_from_its_state_to_the_same_bits() -> None:
    net, optimizer, mask = started()
    with compressor.tied(net, optimizer, mask, steps=120):
        walk(net, optimizer, 0, 120)
    again, second, _ = started()
    first = compressor.tied(again, second, mask, steps=120)
    walk(again, second, 0, 50)
    saved = (again.state_dict(), second.state_dict(), first.state_dict())
    saved = tuple(torch.load(_copy(part), weights_only=True) for part in saved)
    fresh, third, _ = started()
    with compressor.tied(fresh, third, mask, steps=120) as resumed:
        fresh.load_state_dict(saved[0])
        third.load_state_dict(saved[1])
        resumed.load_state_dict(saved[2])
        walk(fresh, third, 50, 120)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), fresh.parameters(), strict=True))


def _copy(part: object) -> object:
    import io

    buffer = io.BytesIO()
    torch.save(part, buffer)
    buffer.seek(0)
    return buffer


def test_steps_below_one_and_a_layer_of_zeros_are_refused() -> None:
    net, optimizer, mask = started()
    with pytest.raises(InputError, match="steps 0"):
        compressor.tied(net, optimizer, mask, steps=0)
    with torch.no_grad():
        net[0].weight.zero_()
    with pytest.raises(InputError, match=r'"0\.weight": every kept weight is 0'):
        compressor.tied(net, optimizer, mask, steps=10)


def test_a_closure_and_several_optimisers_are_refused() -> None:
    net, optimizer, mask = started()
    with compressor.tied(net, optimizer, mask, steps=10), pytest.raises(InputError, match="closure"):
        optimizer.step(lambda: net(batch(0)[0]).sum())
    with pytest.raises(InputError, match="one optimiser"):
        compressor.tied(net, [optimizer], mask, steps=10)  # type: ignore[arg-type]


def test_an_overflow_under_a_gradient_scaler_with_a_fused_optimiser_is_skipped() -> None:
    net, _, mask = started()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2, fused=True)
    scaler = torch.amp.GradScaler("cpu", 1024.0)
    with compressor.tied(net, optimizer, mask, steps=40) as two_level:
        for number in range(20):
            x, y = batch(number)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x * (torch.inf if number == 5 else 1)).nan_to_num(), y)
            scaler.scale(loss).backward()
            if number == 5:
                net[0].weight.grad = torch.full_like(net[0].weight, torch.inf)
            scaler.step(optimizer)
            scaler.update()
    assert all(abs(level) < 10 for pair in two_level.levels.values() for level in pair)
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_levels_are_float32_whatever_the_network_is(dtype: torch.dtype) -> None:
    net, _, mask = started()
    net.to(dtype)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, eps=1e-4)
    with compressor.tied(net, optimizer, mask, steps=60) as two_level:
        for number in range(60):
            x, y = batch(number)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x.to(dtype)).float(), y).backward()
            optimizer.step()
    for name, (low, high) in two_level.levels.items():
        assert set(net.state_dict()[name].unique().tolist()) <= {low, 0.0, high}
        assert float(torch.tensor(low)) == low


def test_an_empty_layer_stays_empty_and_gradients_stay_readable() -> None:
    net, optimizer, mask = started()
    empty = {name: kept if name != "2.weight" else kept & False for name, kept in mask.items()}
    with compressor.tied(net, optimizer, empty, steps=50) as two_level:
        for number in range(50):
            walk(net, optimizer, number, number + 1)
            assert all(p.grad is not None for p in net.parameters())
    assert two_level.mask.per_layer()["2.weight"] == (0, 800)


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, *, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = self.net(inputs["x"])
        return out


def test_a_network_that_the_probe_cannot_run_trains_all_the_same() -> None:
    net = Keywords()
    mask = compressor.prune(net, "magnitude", density=0.2, scope="layer")
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    with compressor.tied(net, optimizer, mask, steps=200):
        for number in range(200):
            x, y = batch(number)
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs={"x": x}), y).backward()
            optimizer.step()


def test_a_step_by_way_of_the_parent_s_is_one_step_and_one_that_failed_is_none() -> None:
    class Inner(torch.optim.Adam):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            super().step(closure)  # type: ignore[arg-type]

    def boom(*_: object) -> None:
        raise RuntimeError("out of memory")

    (one, plain, mask), (two, _, _) = started(), started()
    inner = Inner(two.parameters(), 1e-2)
    with (
        compressor.tied(one, plain, mask, steps=100) as wanted,
        compressor.tied(two, inner, mask, steps=100) as found,
    ):
        for number in range(100):
            walk(one, plain, number, number + 1)
            hook = inner.register_step_pre_hook(boom)
            with pytest.raises(RuntimeError, match="out of memory"):
                walk(two, inner, number, number + 1)
            hook.remove()
            if number % 2:
                for name, now in found.mask.items():
                    assert set(two.state_dict()[name][now].unique().tolist()) <= set(found.levels[name])
            inner.step()  # again, with the same gradients
            assert found.levels == wanted.levels
    assert found.mask == wanted.mask
    assert all(torch.equal(one.state_dict()[name], value) for name, value in two.state_dict().items())
