"""hold: a pruned weight is +0.0 after every step, whatever the optimiser does."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import compressor
from compressor.errors import InputError

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1, amsgrad=True),
    "fused adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.1, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1, weight_decay=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, 0.1, weight_decay=0.1),
}


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def zeros_are_positive(net: nn.Module, mask: compressor.Mask) -> bool:
    parameters = dict(net.named_parameters())
    return all(bool((parameters[name].detach()[~mask[name]].view(torch.int32) == 0).all()) for name in mask)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_and_weight_decay_never_revive_a_pruned_weight(name: str) -> None:
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    for seed in range(3):
        step(net, optimizer, seed)
    mask = compressor.prune(net, "magnitude", density=0.3)
    with compressor.hold(net, optimizer, mask):
        assert zeros_are_positive(net, mask)
        for seed in range(5):
            step(net, optimizer, seed)
            assert zeros_are_positive(net, mask)
        for parameter, kept in ((dict(net.named_parameters())[name], mask[name]) for name in mask):
            for value in optimizer.state[parameter].values():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    assert not value[~kept].any()
            assert bool((parameter.detach()[kept] != 0).all())
    step(net, optimizer, 9)
    assert not zeros_are_positive(net, mask)


def test_e10_sgd_under_a_mask() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    seen = []
    for number in range(3):
        if number == 2:
            held = compressor.hold(layer, optimizer, {"weight": torch.tensor([[True]])})
        layer.weight.grad = torch.full((1, 1), 0.2)
        optimizer.step()
        seen.append((float(optimizer.state[layer.weight]["momentum_buffer"]), float(layer.weight.detach())))
    assert [value for pair in seen for value in pair] == pytest.approx(
        [0.3, 0.97, 0.567, 0.9133, 0.80163, 0.833137], abs=1e-6
    )
    held.update({"weight": torch.tensor([[False]])})
    layer.weight.grad = torch.full((1, 1), 0.2)
    optimizer.step()
    assert float(optimizer.state[layer.weight]["momentum_buffer"]) == 0
    assert float(layer.weight.detach()) == 0


def test_a_step_with_a_closure_keeps_the_zeros() -> None:
    net = network()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    mask = compressor.prune(net, "magnitude", density=0.3)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = net(torch.ones(2, 6)).square().sum()
        loss.backward()
        return loss

    with compressor.hold(net, optimizer, mask):
        for _ in range(3):
            optimizer.step(closure)
            assert zeros_are_positive(net, mask)


def test_biases_and_norms_train_under_a_mask() -> None:
    net = network()
    before = [p.detach().clone() for n, p in net.named_parameters() if n.endswith("bias")]
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    with compressor.hold(net, optimizer, compressor.prune(net, "magnitude", density=0.3)):
        step(net, optimizer, 0)
    after = [p.detach() for n, p in net.named_parameters() if n.endswith("bias")]
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_several_optimisers_and_an_optimiser_state_loaded_later() -> None:
    net = network()
    parameters = list(net.parameters())
    optimizers = [OPTIMIZERS["sgd"](parameters[:2]), OPTIMIZERS["adam"](parameters[2:])]
    for optimizer in optimizers:
        step(net, optimizer, 1)
    states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]
    mask = compressor.prune(net, "magnitude", density=0.3)
    with compressor.hold(net, optimizers, mask):
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(state)
            step(net, optimizer, 2)
        assert zeros_are_positive(net, mask)


def test_a_held_module_can_be_copied_and_compiled_state_travels() -> None:
    net = network()
    optimizer = OPTIMIZERS["sgd"](net.parameters())
    held = compressor.hold(net, optimizer, compressor.prune(net, "magnitude", density=0.3))
    twin = copy.deepcopy(net)
    assert list(twin.state_dict()) == list(net.state_dict())
    wider = compressor.hold(
        twin, OPTIMIZERS["sgd"](twin.parameters()), compressor.prune(net, "random", density=0.9)
    )
    wider.load_state_dict(held.state_dict())
    assert wider.density == held.density


def test_a_mask_that_does_not_fit_is_refused() -> None:
    net = network()
    with pytest.raises(InputError, match="does not fit"):
        compressor.hold(
            net, OPTIMIZERS["sgd"](net.parameters()), {"0.weight": torch.ones(2, 2, dtype=torch.bool)}
        )


def test_weights_that_no_optimiser_trains_are_warned_of() -> None:
    net = network()
    mask = compressor.prune(net, "magnitude", density=0.3)
    with pytest.warns(UserWarning, match=r"not held.*2\.weight"):
        compressor.hold(net, OPTIMIZERS["sgd"](net[0].parameters()), mask)
