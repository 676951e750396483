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
    with compressor.tied(net, optimizer, mask, steps=300, move=move):
        losses = walk(net, optimizer, 0, 300)
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
