"""Every scoring method on every kind of module: it gives an exact mask and leaves the caller's module the same bits."""

import copy
import logging
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor.errors import InputError
from compressor.flow import survey
from compressor.methods import METHODS
from compressor.selection import kept_count

Y = torch.arange(8) % 5


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.first(x).relu()).relu())
        return out


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.auxiliary = nn.Linear(6, 5), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 7), nn.Linear(4, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.head((self.left(x) + self.right(z)).relu())
        return out


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        mixed, _ = self.attention(x, x, x, need_weights=False)
        out: Tensor = self.head(self.norm(x + mixed).mean(1))
        return out


def shared_norm(*convolutions: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(features, 5))


KINDS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "batch norm": (
        lambda: shared_norm(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), features=64),
        torch.randn(8, 2, 6, 6),
    ),
    "tied": (Tied, torch.randn(8, 6)),
    "unused layer": (Unused, torch.randn(8, 6)),
    "two inputs": (TwoInputs, (torch.randn(8, 6), torch.randn(8, 4))),
    "attention": (Attention, torch.randn(8, 3, 8)),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5)).bfloat16(),
        torch.randn(8, 6),
    ),
    "grouped, depthwise": (
        lambda: shared_norm(
            nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), features=32
        ),
        torch.randn(8, 4, 6, 6),
    ),
    "transposed": (lambda: shared_norm(nn.ConvTranspose2d(2, 4, 3), features=144), torch.randn(8, 2, 4, 4)),
    "1-d": (lambda: shared_norm(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), features=24), torch.randn(8, 2, 8)),
    "3-d": (lambda: shared_norm(nn.Conv3d(1, 3, 2), features=81), torch.randn(8, 1, 4, 4, 4)),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Linear(9, 5)),
        torch.randn(8, 6),
    ),
}


def module(kind: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return KINDS[kind][0]()


def state(net: nn.Module) -> list[Any]:
    bits = [t.flatten().view(torch.uint8) for t in net.state_dict().values()]
    return [
        [t.clone() for t in bits],
        [m.training for m in net.modules()],
        [p.requires_grad for p in net.parameters()],
        [None if p.grad is None else p.grad.clone() for p in net.parameters()],
        [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()],
    ]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_any_module_is_pruned_to_the_count_and_left_as_it_was(name: str, kind: str) -> None:
    net = module(kind).train()
    first = next(net.modules())
    list(net.children())[-1].eval()
    parameters = list(net.parameters())
    parameters[0].requires_grad_(False)
    parameters[0].data.view(-1)[0] = -0.0
    parameters[1].grad = torch.full_like(parameters[1], 3.0)
    before = copy.deepcopy(state(net))
    with torch.no_grad():
        mask = compressor.prune(net, name, density=0.6, data=(KINDS[kind][1], Y))
    assert same(state(net), before)
    assert first.training
    assert mask.kept == kept_count(0.6, mask.total)
    assert list(mask) == list(compressor.prunable(net))


@pytest.mark.parametrize("name", METHODS)
def test_one_thread_and_two_give_the_same_mask(name: str) -> None:
    net, data = module("batch norm"), (KINDS["batch norm"][1], Y)
    threads, masks = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            masks.append(compressor.prune(net, name, density=0.3, data=data))
    finally:
        torch.set_num_threads(threads)
    assert masks[0] == masks[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", METHODS)
def test_a_module_on_cuda_gives_the_mask_of_the_cpu(name: str, kind: str) -> None:
    net, x = module(kind), KINDS[kind][1]
    mask = compressor.prune(net, name, density=0.6, data=(x, Y))
    assert compressor.prune(net.cuda(), name, density=0.6, data=(x, Y)) == mask


@pytest.mark.parametrize("name", ["snip", "synflow", "force"])
def test_an_unused_layer_scores_zero_and_is_reported(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        mask = compressor.prune(module("unused layer"), name, density=0.5, data=(torch.randn(8, 6), Y))
    assert mask.per_layer()["auxiliary.weight"][0] == 0
    assert "auxiliary.weight" in caplog.text


@pytest.mark.parametrize("name", ["snip", "grasp", "iterative-snip", "force"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "there is none"),
        ((6,), "no labels"),
        (torch.randn(8, 6), "no labels"),
        ([], "the iterable is empty"),
        ((torch.randn(8, 6), Y + 100), "the loss does not take the output and the labels"),
        ((torch.randn(8, 7), Y), "Sequential does not run on the data"),
        ((torch.full((8, 6), float("nan")), Y), "the loss of the data is not finite"),
        ((torch.zeros(8, 6), Y), "all scores are zero"),
    ],
)
def test_data_that_do_not_fit_are_one_sentence(name: str, data: Any, message: str) -> None:
    net = nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 5, bias=False))
    with pytest.raises(InputError, match=message) as caught:
        compressor.prune(net, name, density=0.5, data=data)
    assert "\n" not in str(caught.value)


class Exploding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + (x - x.detach()).abs().sqrt()  # the value of x, and an infinite slope


def test_scores_that_are_not_finite_name_their_layer() -> None:
    net = nn.Sequential(nn.Linear(6, 9), Exploding(), nn.Linear(9, 5))
    with pytest.raises(InputError, match=r'snip: the scores of "0\.weight" are not finite'):
        compressor.prune(net, "snip", density=0.5, data=(torch.randn(8, 6), Y))


def test_dead_outputs_and_isolated_units_are_counted_not_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    mask = {"0.weight": torch.zeros(4, 3).bool(), "2.weight": torch.zeros(5, 4).bool()}
    mask["0.weight"][:2, 0] = True  # units 0 and 1 are fed
    mask["2.weight"][0, 0] = mask["2.weight"][1, 2] = True  # output 0 reads unit 0; output 1 reads nothing
    found = survey(net, mask, (3,))
    assert found.dead_outputs == 4
    assert found.isolated_units == 3 + 4
    assert found.silent == ()
    branch = survey(Both(), {"a.weight": torch.ones(4, 4).bool(), "b.weight": torch.zeros(4, 4).bool()}, (4,))
    assert branch.silent == ("b.weight",)
    assert branch.dead_outputs == 0


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.a(x) + self.b(x)
        return out


@pytest.mark.parametrize("name", METHODS)
def test_fewer_kept_weights_than_layers_of_a_chain_are_refused(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(4) for m in (nn.Linear(6, 6, bias=False), nn.Tanh())][:-1])
    with pytest.raises(InputError, match="layer collapse"):
        compressor.prune(net, name, density=3 / 144, data=(torch.randn(8, 6), Y))


@pytest.mark.parametrize("name", METHODS)
def test_ties_in_channels_last_weights_are_broken_by_position_as_in_plain_ones(name: str) -> None:
    torch.manual_seed(0)
    plain = shared_norm(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), features=32)
    with torch.no_grad():
        for layer in (plain[0], plain[2]):
            layer.weight.copy_((layer.weight * 8).round() / 8)
    data = (torch.randn(8, 3, 6, 6), Y)
    mask = compressor.prune(plain, name, density=0.7, data=data)
    strided = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    found = compressor.prune(strided, name, density=0.7, data=data)
    assert found.kept == mask.kept
    if name in {"magnitude", "random"}:
        assert found == mask


@pytest.mark.parametrize("name", METHODS)
def test_weights_tied_by_their_memory_are_pruned_as_one_parameter_is(name: str) -> None:
    net, x = module("tied"), KINDS["tied"][1]
    by_memory = copy.deepcopy(net)
    assert isinstance(by_memory, Tied)
    by_memory.second.weight = nn.Parameter(by_memory.first.weight.data)
    masks = [compressor.prune(one, name, density=0.5, data=(x, Y)) for one in (net, by_memory)]
    assert masks[0] == masks[1]


class Rotary(nn.Module):
    """Turns its features by a complex buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 5)
        self.register_buffer("turn", torch.polar(torch.ones(4), torch.linspace(0.3, 2, 4)))

    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(self.first(x).float().unflatten(-1, (4, 2)).contiguous())
        turned = torch.view_as_real(pairs * self.turn).flatten(-2)
        out: Tensor = self.head(turned.to(self.head.weight.dtype).relu())
        return out


def test_a_complex_buffer_keeps_its_imaginary_part() -> None:
    half = Rotary()
    for parameter in half.parameters():
        parameter.data = parameter.data.bfloat16()
    wide = copy.deepcopy(half)
    for parameter in wide.parameters():
        parameter.data = parameter.data.float()
    data = (torch.randn(8, 6), Y)
    for name in ("snip", "synflow", "magnitude"):
        one, other = (compressor.prune(net, name, density=0.5, data=data) for net in (half, wide))
        assert one == other


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + random.random() + np.random.rand()) + torch.rand(())


@pytest.mark.parametrize("name", METHODS)
def test_a_loader_that_shuffles_and_a_forward_that_draws_leave_every_generator_alone(name: str) -> None:
    net = nn.Sequential(nn.Linear(6, 9), Drawing(), nn.ReLU(), nn.Linear(9, 5))
    pairs = torch.utils.data.TensorDataset(torch.randn(32, 6), torch.arange(32) % 5)
    loader = torch.utils.data.DataLoader(pairs, batch_size=8, shuffle=True)
    before = copy.deepcopy(state(net))
    masks = [compressor.prune(net, name, density=0.5, data=loader) for _ in range(2)]
    assert same(state(net), before)
    assert masks[0] == masks[1]


def test_a_module_that_can_not_be_copied_is_one_sentence() -> None:
    net = nn.Sequential(nn.Linear(6, 5))
    net.lock = threading.Lock()  # type: ignore[assignment]
    for name in METHODS:
        with pytest.raises(InputError, match="Sequential can not be copied"):
            compressor.prune(net, name, density=0.5, data=(torch.randn(8, 6), Y))


@pytest.mark.parametrize("name", ["snip", "grasp", "force"])
def test_in_train_mode_no_dropout_makes_scores_random(name: str) -> None:
    masks = []
    for p in (0.0, 0.5):
        net = module("attention")
        assert isinstance(net, Attention)
        net.attention.dropout = p
        data = (KINDS["attention"][1], Y)
        masks.append(compressor.prune(net, name, density=0.5, data=data, mode="train"))
    assert masks[0] == masks[1]


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).tanh()
        return self.head(hidden), hidden


def test_a_loss_of_one_s_own_sees_the_whole_output_in_every_method() -> None:
    def loss(output: tuple[Tensor, Tensor], labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output[0], labels) + output[1].square().mean()

    for name in ("snip", "grasp", "iterative-snip", "force"):
        mask = compressor.prune(Heads(), name, density=0.5, data=(torch.randn(8, 6), Y), loss=loss)
        assert mask.kept == 50


def test_several_inputs_have_several_shapes() -> None:
    mask = compressor.prune(module("two inputs"), "synflow", density=0.5, data=((6,), (4,)))
    assert mask.kept == kept_count(0.5, mask.total)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"density": "0.5"}, "outside"),
        ({"density": 2}, "outside"),
        ({"density": 0.5, "scope": None}, "unknown scope"),
        ({"density": 0.5, "rounds": 2.5}, "rounds 2.5"),
        ({"density": 0.5, "data": (-1,)}, "size below 1"),
    ],
)
def test_arguments_that_can_not_be_are_one_sentence(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compressor.prune(nn.Linear(6, 5), "synflow", **({"data": (6,)} | arguments))


def test_an_on_round_of_one_s_own_does_not_hide_the_round_of_a_collapse() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(6, 6, bias=False) for _ in range(4)])
    with pytest.raises(InputError, match=r"layer collapse by force in round \d"):
        compressor.prune(net, "force", density=3 / 144, data=(torch.randn(8, 6), Y), on_round=lambda *_: None)


def test_equal_scores_are_kept_by_position_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    net = nn.Linear(6, 5)
    nn.init.ones_(net.weight)
    with caplog.at_level(logging.WARNING):
        compressor.prune(net, "magnitude", density=0.5)
    assert "all scores are equal" in caplog.text
