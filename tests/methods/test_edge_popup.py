"""Edge-popup: the worked numbers of its sheet, and a module that only ever computes with its weights under a mask."""

import io
import logging
import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import compressor
from compressor import data
from compressor.errors import InputError
from compressor.methods.edge_popup import signed_constant
from compressor.methods.popup import Popup, score_gradient
from compressor.packed import sizes
from compressor.packed.sizing import binary_entropy
from compressor.recipe import Train
from compressor.selection import kept_count, select
from compressor.train import evaluate, fit

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "fused adam": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=1e-3, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
}


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 20), nn.ReLU(),
            nn.Linear(20, 3),
        )  # fmt: skip


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return OPTIMIZERS["sgd"](net.parameters())


def batch(number: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(number))
    return x, (x.mean((1, 2, 3)) > 0).long() + (x[:, 0, 0, 0] > 0).long()


def walk(
    net: nn.Module, optimizers: torch.optim.Optimizer | list[torch.optim.Optimizer], first: int, last: int
) -> None:
    for number in range(first, last):
        x, y = batch(number)
        net.zero_grad()
        nn.functional.cross_entropy(net(x.to(next(net.parameters()).dtype)).float(), y).backward()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            optimizer.step()


def scores(handle: Popup) -> dict[str, Tensor]:
    return {name: layer["score"] for name, layer in handle.state_dict()["layers"].items()}


def frozen(handle: Popup) -> dict[str, Tensor]:
    return {name: layer["weight"] for name, layer in handle.state_dict()["layers"].items()}


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32)


def five() -> nn.Linear:
    """One layer of five weights: c = 0.5, signs [+, -, +, +, -]."""
    net = nn.Linear(5, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.5, -0.5, 0.5, 0.5, -0.5]]))
    return net


def scored(net: nn.Module, handle: Popup, values: list[float]) -> None:
    state = handle.state_dict()
    state["layers"]["weight"]["score"] = torch.tensor([values])
    handle.load_state_dict(state)


def test_numbers_1_the_constants_and_the_bound_of_the_scores() -> None:
    assert round(signed_constant(576, 1.0), 10) == 0.0589255651
    assert round(signed_constant(576, 0.3), 10) == 0.1075828707
    assert round(signed_constant(576, 0.5), 10) == 0.0833333333
    assert round(signed_constant(576, 1 - 0.3), 10) == 0.0704295212  # the reference's scale_fan
    net = nn.Conv2d(64, 8, 3)
    handle = compressor.edge_popup(net, sgd(net), density=0.3)
    largest = float(scores(handle)["weight"].abs().max())
    assert 0.999 / 24 < largest <= 1 / 24 + 1e-9
    assert frozen(handle)["weight"].abs().unique().tolist() == [pytest.approx(0.1075828707)]


def test_numbers_2_the_largest_sizes_of_scores_are_kept() -> None:
    kept = select({"w": torch.tensor([0.3, -0.9, 0.1, -0.2, 0.5]).abs()}, 0.4)["w"]
    assert kept.nonzero().flatten().tolist() == [1, 4]
    net = five()
    with compressor.edge_popup(net, sgd(net), density=0.4, weights="given") as handle:
        scored(net, handle, [0.3, -0.9, 0.1, -0.2, 0.5])
        assert net.weight.tolist() == [[0, -0.5, 0, 0, -0.5]]


def test_numbers_3_the_gradient_passes_straight_through_the_choice() -> None:
    start, wanted = torch.tensor([0.3, -0.9, 0.1, -0.2, 0.5]), torch.tensor([0.5, 1, 1.5, -2, -2.5])
    slope = torch.tensor([1.0, 2, 3, 4, 5])
    assert torch.equal(score_gradient(slope, torch.tensor([0.5, -0.5, 0.5, 0.5, -0.5]), start), wanted)
    net = five()
    optimizer = torch.optim.SGD(net.parameters(), 1.0)
    handle = compressor.edge_popup(net, optimizer, density=0.4, weights="given")
    scored(net, handle, start.tolist())
    net(slope[None]).sum().backward()
    optimizer.step()
    assert torch.equal(scores(handle)["weight"][0], start - wanted)
    assert net.weight.grad is not None
    assert torch.equal(net.weight.grad[0], slope)


def test_numbers_4_counts_are_exact_where_floats_are_not() -> None:
    assert [n - kept_count(k, n) for k, n in ((0.9, 10), (0.3, 10), (0.7, 10), (0.9, 1000))] == [1, 7, 3, 100]
    net = nn.Linear(10, 1, bias=False)
    assert compressor.edge_popup(net, sgd(net), density=0.9).mask.kept == 9


def test_numbers_5_bits_per_weight() -> None:
    assert round(binary_entropy(0.3), 10) == 0.8812908992
    assert round(binary_entropy(0.1), 10) == 0.4689955936
    assert math.ceil(25_557_032 / 8) == 3_194_629


def test_equal_scores_keep_the_earliest_positions_and_a_score_of_zero_still_learns() -> None:
    net = five()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    handle = compressor.edge_popup(net, optimizer, density=0.4, weights="given")
    scored(net, handle, [0.0] * 5)
    assert handle.mask["weight"].tolist() == [[True, True, False, False, False]]
    net(torch.ones(1, 5)).sum().backward()
    optimizer.step()
    assert bool(scores(handle)["weight"].all())


@pytest.mark.parametrize("scope", ["layer", "erk", "global"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_module_computes_with_its_weights_under_an_exact_mask_after_every_step(
    name: str, scope: str
) -> None:
    net = network()
    optimizer = OPTIMIZERS[name](net.parameters())
    with compressor.edge_popup(net, optimizer, density=0.3, scope=scope) as handle:
        fixed, first = frozen(handle), handle.mask
        for number in range(25):
            state, mask = net.state_dict(), handle.mask
            assert mask.kept == kept_count(0.3, 2976)
            for key, weight in fixed.items():
                assert torch.equal(bits(state[key]), bits(torch.where(mask[key], weight, 0.0)))
            walk(net, optimizer, number, number + 1)
        assert all(torch.equal(weight, fixed[key]) for key, weight in frozen(handle).items())
        assert handle.mask != first
    state = net.state_dict()
    for key, mask in handle.mask.items():
        assert torch.equal(bits(state[key]), bits(torch.where(mask, fixed[key], 0.0)))


def test_every_layer_has_the_asked_density() -> None:
    net = network()
    handle = compressor.edge_popup(net, sgd(net), density=0.25)
    assert handle.mask.per_layer() == {"0.weight": (9, 36), "4.weight": (720, 2880), "6.weight": (15, 60)}
    assert handle.density == 0.25


def test_no_layer_is_emptied_by_one_ranking_over_all() -> None:
    net = nn.Sequential(nn.Linear(4000, 10), nn.Linear(10, 40))
    handle = compressor.edge_popup(net, sgd(net), density=0.001, scope="global")
    assert handle.mask.per_layer() == {"0.weight": (1, 40000), "1.weight": (39, 400)}


def test_erk_layers_have_the_constant_of_their_own_density() -> None:
    net = network()
    handle = compressor.edge_popup(net, sgd(net), density=0.3, scope="erk")
    for name, fan_in in (("4.weight", 144), ("6.weight", 20)):
        kept, total = handle.mask.per_layer()[name]
        assert float(frozen(handle)[name].abs().max()) == pytest.approx(
            signed_constant(fan_in, kept / total), rel=0.02
        )


def test_fan_in_counts_the_inputs_of_grouped_and_transposed_convolutions() -> None:
    net = nn.Sequential(
        nn.ConvTranspose2d(6, 4, 3, groups=2), nn.Conv1d(8, 8, 5, groups=8), nn.Conv3d(2, 3, (1, 2, 3))
    )
    handle = compressor.edge_popup(net, sgd(net), density=0.5)
    for name, fan_in in (("0.weight", 3 * 9), ("1.weight", 5), ("2.weight", 12)):
        assert frozen(handle)[name].abs().unique().tolist() == [pytest.approx(2 / math.sqrt(fan_in))]
        assert float(scores(handle)[name].abs().max()) <= 1 / math.sqrt(fan_in)


def test_biases_and_norms_are_frozen_and_running_statistics_move() -> None:
    net = network()
    with torch.no_grad():
        for key in ("0.bias", "1.weight", "1.bias", "6.bias"):
            net.state_dict()[key].fill_(3.0)
    optimizer = OPTIMIZERS["adamw"](net.parameters())
    with compressor.edge_popup(net, optimizer, density=0.5):
        walk(net, optimizer, 0, 5)
    for key, value in (("0.bias", 0), ("1.weight", 1), ("1.bias", 0), ("6.bias", 0)):
        assert (net.state_dict()[key] == value).all(), key
    assert bool(net.state_dict()["1.running_mean"].any())
    assert all(parameter.requires_grad and parameter.grad is not None for parameter in net.parameters())


def test_an_excluded_layer_trains_as_usual() -> None:
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = sgd(net)
    with compressor.edge_popup(net, optimizer, density=0.5, exclude=["6.*"]) as handle:
        assert torch.equal(net.state_dict()["6.weight"], before["6.weight"])
        walk(net, optimizer, 0, 5)
    assert list(handle.mask) == ["0.weight", "4.weight"]
    assert not torch.equal(net.state_dict()["6.weight"], before["6.weight"])
    assert not torch.equal(net.state_dict()["6.bias"], before["6.bias"])


def test_a_given_base_keeps_its_bits_and_the_first_mask_is_that_of_its_largest_weights() -> None:
    net = network()
    with torch.no_grad():
        net[4].weight[0, :4] = torch.tensor([-0.0, 0.0, 1e-42, 2.0])
    base = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = sgd(net)
    with compressor.edge_popup(net, optimizer, density=0.9, weights="given") as handle:
        assert handle.mask == compressor.prune(load(network(), base), "magnitude", density=0.9, scope="layer")
        walk(net, optimizer, 0, 30)
    state = net.state_dict()
    for name in ("0.bias", "1.weight", "1.bias", "4.bias", "6.bias"):
        assert torch.equal(bits(state[name]), bits(base[name]))
    for name, mask in handle.mask.items():
        assert torch.equal(bits(state[name])[mask], bits(base[name])[mask])
        assert not bits(state[name])[~mask].any()


def load(net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    net.load_state_dict(state)
    return net


def test_weight_decay_shrinks_scores_and_nothing_else() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, weight_decay=1.0)
    handle = compressor.edge_popup(net, optimizer, density=0.5, weights="given")
    before, fixed = scores(handle), frozen(handle)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    biases = {n: p.detach().clone() for n, p in net.named_parameters() if n not in before}
    optimizer.step()
    assert all(torch.allclose(score, 0.9 * before[name]) for name, score in scores(handle).items())
    assert all(torch.equal(weight, fixed[name]) for name, weight in frozen(handle).items())
    assert all(torch.equal(dict(net.named_parameters())[name], bias) for name, bias in biases.items())


def test_the_seed_alone_decides_and_the_global_generator_is_untouched() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    nets = [network(seed).double() if seed == 2 else network(seed) for seed in (0, 1, 2)]
    handles = [compressor.edge_popup(net, sgd(net), density=0.2) for net in nets]
    assert torch.equal(torch.get_rng_state(), state)
    assert handles[0].mask == handles[1].mask == handles[2].mask
    assert all(torch.equal(nets[0].state_dict()[key], nets[2].state_dict()[key]) for key in handles[0].mask)
    other = network()
    seeded = torch.Generator().manual_seed(1)
    assert compressor.edge_popup(other, sgd(other), density=0.2, generator=seeded).mask != handles[0].mask


def test_it_goes_on_from_its_state_to_the_same_bits() -> None:
    net = network()
    optimizer = sgd(net)
    with compressor.edge_popup(net, optimizer, density=0.3) as whole:
        walk(net, optimizer, 0, 40)
    half = network()
    first_optimizer = sgd(half)
    first = compressor.edge_popup(half, first_optimizer, density=0.3)
    walk(half, first_optimizer, 0, 17)
    saved = [copied(part.state_dict()) for part in (half, first_optimizer, first)]
    fresh = network(9)
    second_optimizer = sgd(fresh)
    other = torch.Generator().manual_seed(7)
    with compressor.edge_popup(fresh, second_optimizer, density=0.3, generator=other) as resumed:
        fresh.load_state_dict(saved[0])
        resumed.load_state_dict(saved[2])
        second_optimizer.load_state_dict(saved[1])
        walk(fresh, second_optimizer, 17, 40)
    assert all(torch.equal(fresh.state_dict()[key], value) for key, value in net.state_dict().items())
    assert resumed.mask == whole.mask


def copied(state: dict[str, object]) -> dict[str, object]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    found: dict[str, object] = torch.load(buffer, weights_only=True)
    return found


def test_a_checkpoint_of_another_density_or_network_is_refused() -> None:
    net, other, small = network(), network(), nn.Linear(4, 4)
    handle = compressor.edge_popup(net, sgd(net), density=0.3)
    half = compressor.edge_popup(other, sgd(other), density=0.5)
    with pytest.raises(InputError, match="keeps 1488 weights, this 893"):
        handle.load_state_dict(half.state_dict())
    with pytest.raises(InputError, match="layers are not those"):
        handle.load_state_dict(compressor.edge_popup(small, sgd(small), density=0.3).state_dict())


def test_several_optimisers_each_move_their_own() -> None:
    one, two = network(), network()
    single = torch.optim.SGD(one.parameters(), 0.1)
    several: list[torch.optim.Optimizer] = [
        torch.optim.SGD(part.parameters(), 0.1) for part in (two[:3], two[3:])
    ]
    with (
        compressor.edge_popup(one, single, density=0.3) as whole,
        compressor.edge_popup(two, several, density=0.3) as parts,
    ):
        walk(one, single, 0, 20)
        walk(two, several, 0, 20)
    assert whole.mask == parts.mask
    assert all(torch.equal(one.state_dict()[key], value) for key, value in two.state_dict().items())


def test_after_an_error_inside_a_step_the_module_still_gets_its_weights_back() -> None:
    class Broken(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
            raise RuntimeError("out of memory")

    net = network()
    optimizer = Broken(net.parameters(), 0.1)
    with pytest.raises(RuntimeError), compressor.edge_popup(net, optimizer, density=0.3) as handle:
        walk(net, optimizer, 0, 1)
    for name, mask in handle.mask.items():
        assert torch.equal(net.state_dict()[name], torch.where(mask, frozen(handle)[name], 0.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.0}, "outside"),
        ({"density": 1e-4}, "each needs at least one"),
        ({"density": 1e-4, "scope": "global"}, "less than one weight in each of 3 layers"),
        ({"density": 0.5, "scope": "layr"}, 'did you mean "layer"'),
        ({"density": 0.5, "weights": "givn"}, 'did you mean "given"'),
        ({"density": 0.5, "exclude": ["conv*"]}, "conv"),
    ],
)
def test_what_cannot_be_is_refused_and_the_network_untouched(
    options: dict[str, object], message: str
) -> None:
    net = network()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match=message):
        compressor.edge_popup(net, sgd(net), **options)  # type: ignore[arg-type]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_weight_that_nothing_trains_is_refused_by_name() -> None:
    net = network()
    with pytest.raises(InputError, match=r'"4\.weight" would keep a random mask: no optimiser here has it'):
        compressor.edge_popup(net, torch.optim.SGD(net[0].parameters(), 0.1), density=0.5)
    net[4].weight.requires_grad_(False)
    with pytest.raises(InputError, match=r'"4\.weight" .*it does not require grad; train it, or exclude it'):
        compressor.edge_popup(net, sgd(net), density=0.5)
    compressor.edge_popup(net, sgd(net), density=0.5, exclude=["4.weight"]).remove()


def test_weights_and_scores_that_are_not_finite_are_refused_by_name() -> None:
    net = network()
    optimizer = sgd(net)
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    with (
        pytest.raises(InputError, match=r'the scores of "0\.weight" are not finite any more; lower'),
        compressor.edge_popup(net, optimizer, density=0.5),
    ):
        optimizer.step()
    assert all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters())
    with torch.no_grad():
        net[4].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r'"4\.weight" holds NaN'):
        compressor.edge_popup(net, sgd(net), density=0.5, weights="given")


def test_a_closure_is_refused() -> None:
    net = network()
    optimizer = sgd(net)
    with compressor.edge_popup(net, optimizer, density=0.5), pytest.raises(InputError, match="closure"):
        optimizer.step(lambda: float(net(batch(0)[0]).sum()))


def test_removed_it_lets_the_optimiser_be() -> None:
    net = network()
    optimizer = sgd(net)
    handle = compressor.edge_popup(net, optimizer, density=0.5)
    handle.remove()
    handle.remove()
    walk(net, optimizer, 0, 1)
    assert bool(net.state_dict()["0.bias"].any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_and_memory_formats_work_and_pack_as_two_levels(dtype: torch.dtype, tmp_path) -> None:
    net = network().to(dtype).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    with compressor.edge_popup(net, optimizer, density=0.3) as handle:
        walk(net, optimizer, 0, 10)
        assert handle.mask.kept == kept_count(0.3, 2976)
    stored = {
        one.name: one.format for one in compressor.pack(net, tmp_path / "net", mask=handle.mask).tensors
    }
    assert stored["4.weight"] == "asni2"


def test_a_shared_weight_is_one_weight() -> None:
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    net[2].weight = net[0].weight
    optimizer = sgd(net)
    with compressor.edge_popup(net, optimizer, density=0.5) as handle:
        for number in range(5):
            optimizer.zero_grad()
            net(torch.randn(4, 8, generator=torch.Generator().manual_seed(number))).square().sum().backward()
            optimizer.step()
    assert list(handle.mask) == ["0.weight"]
    assert net[2].weight is net[0].weight
    assert int((net[0].weight != 0).sum()) == 32


def test_the_mask_of_digits_learns_and_its_network_is_mask_signs_and_a_float_per_layer(tmp_path) -> None:
    digits = data.load("digits", data_dir=tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
        )
    settings = Train(lr=0.1, batch=32, epochs=6, device="cpu")
    before = evaluate(net, digits.test)
    _, handle = fit(
        net, digits, settings, seed=0, stage="prune",
        attach=lambda module, optimizer, *_: compressor.edge_popup(module, optimizer, density=0.5),
    )  # fmt: skip
    assert isinstance(handle, Popup)
    assert before < 0.3
    assert evaluate(net, digits.test) > 0.92
    path = tmp_path / "net.safetensors"
    compressor.pack(net, path, mask=handle.mask)
    assert {one.format for one in sizes(path).tensors if one.role == "sparse"} == {"asni2"}
    state = compressor.unpack(path)
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


class Inner(torch.optim.SGD):
    """A step inside a step: torch calls the hooks of both."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        return super().step(closure)


def test_an_optimiser_that_steps_by_way_of_its_parent_trains_to_the_same_bits() -> None:
    one, two, three = network(), network(), network()
    plain, inner = (
        kind(net.parameters(), 0.1, momentum=0.9) for kind, net in ((torch.optim.SGD, one), (Inner, two))
    )
    twice = torch.optim.SGD(three.parameters(), 0.1, momentum=0.9)
    with (
        compressor.edge_popup(one, plain, density=0.3) as wanted,
        compressor.edge_popup(two, inner, density=0.3) as found,
        compressor.edge_popup(three, [twice, twice], density=0.3) as doubled,
    ):
        first = wanted.mask
        for net, optimizer in ((one, plain), (two, inner), (three, twice)):
            walk(net, optimizer, 0, 20)
        for handle in (found, doubled):
            assert all(torch.equal(score, scores(wanted)[name]) for name, score in scores(handle).items())
            assert all(torch.equal(weight, frozen(wanted)[name]) for name, weight in frozen(handle).items())
            assert handle.mask == wanted.mask != first


def test_what_an_optimiser_does_after_the_step_of_its_parent_is_done_to_scores() -> None:
    class Halved(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
            loss = super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.5)
            return loss

    torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)  # from here on its step has hooks
    net = five()
    optimizer = Halved(net.parameters(), 1.0)
    with compressor.edge_popup(net, optimizer, density=0.4, weights="given") as handle:
        before, fixed = scores(handle)["weight"], frozen(handle)["weight"]
        net.weight.grad = torch.zeros_like(net.weight)
        optimizer.step()
        assert torch.equal(scores(handle)["weight"], before / 2)
        assert torch.equal(net.weight, torch.where(handle.mask["weight"], fixed, 0.0))


@pytest.mark.parametrize("kind", [torch.optim.SGD, Inner])
@pytest.mark.parametrize("seen", ["nothing", "state", "forward"])
def test_a_step_that_failed_and_was_caught_changes_nothing(kind: type[torch.optim.SGD], seen: str) -> None:
    def boom(*_: object) -> None:
        raise RuntimeError("out of memory")

    nets = network(), network()
    optimizers = [kind(net.parameters(), 0.1, momentum=0.9) for net in nets]
    with (
        compressor.edge_popup(nets[0], optimizers[0], density=0.3) as wanted,
        compressor.edge_popup(nets[1], optimizers[1], density=0.3) as found,
    ):
        for number in range(8):
            walk(nets[0], optimizers[0], number, number + 1)
            hook = optimizers[1].register_step_pre_hook(boom)
            with pytest.raises(RuntimeError, match="out of memory"):
                walk(nets[1], optimizers[1], number, number + 1)
            hook.remove()
            if seen == "state":
                for name, mask in found.mask.items():
                    assert torch.equal(
                        nets[1].state_dict()[name], torch.where(mask, frozen(found)[name], 0.0)
                    )
            elif seen == "forward":
                nets[1].train(False)(batch(0)[0])
                nets[1].train(True)
                assert not nets[1]._forward_pre_hooks
                assert all(
                    bool((nets[1].get_parameter(n)[~mask] == 0).all()) for n, mask in found.mask.items()
                )
            optimizers[1].step()  # again, with the same gradients
        nets[1].eval()(batch(0)[0])
        assert found.mask == wanted.mask
        assert all(torch.equal(score, scores(wanted)[name]) for name, score in scores(found).items())
        assert all(torch.equal(weight, frozen(wanted)[name]) for name, weight in frozen(found).items())


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("weights", ["given", "signed-constant"])
def test_the_memory_format_changes_nothing(name: str, scope: str, weights: str) -> None:
    def nhwc() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            return nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(24, 3))

    nets = nhwc(), nhwc().to(memory_format=torch.channels_last)
    optimizers = [OPTIMIZERS[name](net.parameters()) for net in nets]
    handles = [
        compressor.edge_popup(net, optimizer, density=0.3, scope=scope, weights=weights)
        for net, optimizer in zip(nets, optimizers, strict=True)
    ]
    assert handles[0].mask == handles[1].mask
    for number in range(3):
        for net, optimizer in zip(nets, optimizers, strict=True):
            for key, parameter in net.named_parameters():
                g = torch.Generator().manual_seed(number)
                parameter.grad = torch.randn(parameter.shape, generator=g).clone(
                    memory_format=torch.preserve_format
                )
                if parameter.dim() == 4 and net is nets[1]:
                    parameter.grad = parameter.grad.to(memory_format=torch.channels_last)
                assert key
            optimizer.step()
        assert handles[0].mask == handles[1].mask
    assert nets[1][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_momentum_of_weights_does_not_reach_the_scores_nor_that_of_scores_the_weights() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    walk(net, optimizer, 0, 3)
    with compressor.edge_popup(net, optimizer, density=0.3, weights="given") as handle:
        before = scores(handle)
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        assert all(torch.equal(score, before[name]) for name, score in scores(handle).items())
        walk(net, optimizer, 3, 5)
    after = {name: net.get_parameter(name).detach().clone() for name in before}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert all(torch.equal(net.get_parameter(name), weight) for name, weight in after.items())


def test_the_fan_in_of_a_strided_transposed_convolution_is_what_an_output_sums_on_average() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(6, 4, 4, stride=2), nn.ConvTranspose1d(1, 4, 2, stride=5))
    handle = compressor.edge_popup(net, sgd(net), density=0.5)
    assert frozen(handle)["0.weight"].abs().unique().tolist() == [pytest.approx(2 / math.sqrt(6 * 16 / 4))]
    assert frozen(handle)["1.weight"].abs().unique().tolist() == [pytest.approx(2)]


def test_a_network_that_is_under_edge_popup_is_refused_until_it_is_let_go() -> None:
    net = network()
    handle = compressor.edge_popup(net, sgd(net), density=0.5)
    with pytest.raises(InputError, match=r'"0\.weight" is under edge-popup already; call remove\(\)'):
        compressor.edge_popup(net, sgd(net), density=0.5)
    handle.remove()
    compressor.edge_popup(net, sgd(net), density=0.5).remove()


def test_a_checkpoint_that_cannot_be_gone_on_from_leaves_everything_as_it_is() -> None:
    net, other = network(), network()
    handle = compressor.edge_popup(net, sgd(net), density=0.3)
    erk = compressor.edge_popup(other, sgd(other), density=0.3, scope="erk")
    spoilt = handle.state_dict()
    spoilt["layers"]["4.weight"]["score"][0, 0] = torch.nan
    spoilt["layers"]["0.weight"]["score"].zero_()
    before, mask = scores(handle), handle.mask
    for state, message in (
        ({}, "not one of edge-popup"),
        (erk.state_dict(), "its scope"),
        (spoilt, r'score "4\.weight" holds NaN'),
    ):
        with pytest.raises(InputError, match=message):
            handle.load_state_dict(state)
        assert all(torch.equal(score, before[name]) for name, score in scores(handle).items())
        assert handle.mask == mask


def test_a_weight_without_elements_is_left_out() -> None:
    with warnings.catch_warnings(action="ignore"):  # of torch, which has nothing to initialise
        net, empty = nn.Sequential(nn.Linear(0, 3), nn.Linear(3, 2)), nn.Linear(0, 3)
    assert list(compressor.edge_popup(net, sgd(net), density=0.5).mask) == ["1.weight"]
    with pytest.raises(InputError, match="every prunable weight of this network is empty"):
        compressor.edge_popup(empty, sgd(empty), density=0.5)


class Odd(nn.Module):
    """Parameters of all kinds that no mask covers."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.memory = nn.Embedding(5, 4), nn.LSTM(4, 4)
        self.norm, self.scale = nn.LayerNorm(4), nn.RMSNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.own, self.last = nn.Parameter(torch.ones(4)), nn.Linear(4, 2)
        self.still = nn.Parameter(torch.ones(4), requires_grad=False)


def test_what_is_frozen_and_is_no_bias_or_norm_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    net = Odd()
    with torch.no_grad():
        net.scale.weight.fill_(3)
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    with caplog.at_level(logging.WARNING):
        compressor.edge_popup(net, torch.optim.SGD(parameters, 0.1), density=0.5)
    assert bool((net.scale.weight == 1).all())
    named = (
        "own, words.weight, memory.weight_ih_l0, memory.weight_hh_l0, memory.bias_ih_l0, memory.bias_hh_l0, "
        "attention.bias_k, attention.bias_v:"
    )
    assert f"edge-popup masks no {named} frozen as they are" in caplog.text
    caplog.clear()
    plain = network()
    compressor.edge_popup(plain, sgd(plain), density=0.5)
    assert not caplog.text
