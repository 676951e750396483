"""What is prunable, masks as plain data, and the collapse guard."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import compressor
from compressor.errors import FormatError, InputError
from compressor.flow import collapse, reach
from compressor.weights import Mask, aliases, find_mask, prunable


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.conv = nn.Conv2d(3, 4, 3)
        self.up = nn.ConvTranspose1d(2, 3, 2)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.fc = nn.Linear(8, 8)
        self.again = self.fc
        self.head = nn.Linear(8, 7)
        self.head.weight = self.embed.weight


def test_weights_of_linear_convolution_and_attention_are_prunable_and_nothing_else() -> None:
    assert list(prunable(Everything())) == [
        "conv.weight",
        "up.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "fc.weight",
    ]


def test_a_shared_weight_counts_once_under_its_first_name() -> None:
    assert aliases(Everything()) == {
        "again.weight": "fc.weight",
        "again.bias": "fc.bias",
        "head.weight": "embed.weight",
    }


def test_exclude_takes_patterns_and_refuses_one_that_matches_nothing() -> None:
    assert "fc.weight" not in prunable(Everything(), exclude=["fc.*", "attention.*"])
    with pytest.raises(InputError, match=r'did you mean "conv\.weight"'):
        prunable(Everything(), exclude=["conv.wieght"])


def test_a_network_without_prunable_weights_is_an_input_error() -> None:
    with pytest.raises(InputError, match="nothing is prunable"):
        prunable(nn.BatchNorm1d(3))


def test_a_mask_counts_what_it_holds_and_survives_a_file(tmp_path: Path) -> None:
    mask = Mask({"a": torch.tensor([[True, False], [False, False]]), "b": torch.ones(3, dtype=torch.bool)})
    assert (mask.kept, mask.total, mask.density) == (4, 7, 4 / 7)
    assert mask.per_layer() == {"a": (1, 4), "b": (3, 3)}
    mask.save(tmp_path / "mask.safetensors")
    again = Mask.load(tmp_path / "mask.safetensors")
    assert all(torch.equal(again[name], mask[name]) for name in mask)


def test_a_file_that_is_no_mask_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nonsense")
    with pytest.raises(FormatError, match="not a safetensors file"):
        Mask.load(tmp_path / "x")
    with pytest.raises(InputError, match="cannot be read"):
        Mask.load(tmp_path / "missing")


def test_a_mask_of_numbers_is_refused() -> None:
    with pytest.raises(InputError, match="not a bool tensor"):
        Mask({"a": torch.ones(2)})


def test_apply_leaves_positive_zeros_and_refuses_what_does_not_fit() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.fill_(-1.0)
    Mask({"weight": torch.tensor([[True, False], [False, True]])}).apply_(layer)
    assert layer.weight.flatten().tolist() == [-1, 0, 0, -1]
    assert torch.signbit(layer.weight).flatten().tolist() == [True, False, False, True]
    with pytest.raises(InputError, match="does not fit"):
        Mask({"weight": torch.ones(2, 3, dtype=torch.bool)}).apply_(layer)
    with pytest.raises(InputError, match='did you mean "weight"'):
        Mask({"wieght": torch.ones(2, 2, dtype=torch.bool)}).apply_(layer)


def test_find_mask_takes_zeros_of_either_sign_as_pruned() -> None:
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, -0.0, 1e-40]]))
    assert find_mask(layer)["weight"].tolist() == [[False, False, True]]
    assert find_mask({"w": torch.tensor([[float("nan"), 0.0]])})["w"].tolist() == [[True, False]]
    assert list(find_mask(layer.state_dict())) == ["weight"]


def test_reach_is_false_exactly_where_no_path_passes() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    mask = {
        "0.weight": torch.tensor([[True, False], [True, False]]),
        "2.weight": torch.tensor([[True, False]]),
    }
    reached = reach(net, mask, [torch.zeros(1, 2)])
    # A weight into unit 1 feeds nothing; one out of unit 1 would be fed.
    assert reached["0.weight"].tolist() == [[True, True], [False, False]]
    assert reached["2.weight"].tolist() == [[True, True]]


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(nn.functional.layer_norm(self.a(x) + self.b(x), [4]))
        return out


def test_the_guard_lets_an_emptied_branch_pass_where_data_prove_another_path() -> None:
    net = Shortcut()
    mask = {name: torch.ones_like(p, dtype=torch.bool) for name, p in prunable(net).items()}
    mask["b.weight"][:] = False
    assert not collapse(net, mask, (4,))
    assert re.search(r"nothing is kept in b\.weight.*data=", collapse(net, mask, None))
    mask["head.weight"][:] = False
    assert "cut at b.weight, head.weight" in collapse(net, mask, (torch.zeros(3, 4), torch.zeros(3)))


def test_reach_through_a_very_deep_network_neither_overflows_nor_vanishes() -> None:
    net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(200)])
    mask = {name: torch.ones_like(p, dtype=torch.bool) for name, p in prunable(net).items()}
    assert all(bool(r.all()) for r in reach(net, mask, [torch.zeros(1, 64)]).values())


class Film(nn.Module):
    """Scales its features by a gate that the bias alone may open."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale, self.head = nn.Linear(4, 6), nn.Linear(2, 6), nn.Linear(6, 3)
        nn.init.ones_(self.scale.bias)

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head((self.body(x) * self.scale(z)).relu())
        return out


class Halves(nn.Module):
    """CReLU: the second half carries what is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.body(x)
        out: torch.Tensor = self.head(torch.cat([h.relu(), (-h).relu()], 1))
        return out


def test_a_gate_that_its_bias_opens_and_a_half_that_only_negative_numbers_reach_are_alive() -> None:
    torch.manual_seed(0)
    film = {name: torch.ones_like(p, dtype=torch.bool) for name, p in prunable(Film()).items()}
    film["scale.weight"][:] = False
    assert not collapse(Film(), film, ((torch.randn(4, 4), torch.randn(4, 2)), torch.zeros(4)))
    halves = {name: torch.ones_like(p, dtype=torch.bool) for name, p in prunable(Halves()).items()}
    halves["head.weight"][:, :6] = False
    assert not collapse(Halves(), halves, torch.randn(4, 4))
    halves["head.weight"][:] = False
    assert collapse(Halves(), halves, torch.randn(4, 4))


class Shifted(nn.Module):
    """Inputs around 128, shifted by a buffer: the probe's own inputs are silenced by the first ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 120.0))
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(288, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.conv((x - self.mean) / 58).relu().flatten(1))
        return out


def test_a_network_that_the_probe_itself_silences_is_not_refused() -> None:
    data = (torch.rand(4, 3, 8, 8) * 255, torch.zeros(4).long())
    assert compressor.prune(Shifted(), "magnitude", density=0.9, data=data).kept > 0


class Stubborn(nn.Module):
    """Wants float32 and a batch of exactly 4, and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(nn.functional.dropout(x.float().view(4, -1), 0.1, training=True))
        return out


def test_the_guard_runs_networks_of_a_fixed_type_and_batch_and_leaves_the_generator_alone() -> None:
    net, data = Stubborn(), (torch.rand(4, 6), torch.zeros(4).long())
    before = torch.get_rng_state()
    compressor.prune(net, "magnitude", density=0.5, data=data)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(InputError, match="Stubborn does not run on the data"):
        compressor.prune(Stubborn(), "magnitude", density=0.5, data=(7,))


def test_a_weight_tied_through_its_data_is_one_weight() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight.data = net[0].weight.data
    assert list(prunable(net)) == ["0.weight"]
    assert aliases(net) == {"1.weight": "0.weight"}


def test_a_mask_cannot_be_changed_and_compares_by_its_values() -> None:
    mask = Mask({"a": torch.tensor([True, False])})
    mask["a"].fill_(True)
    assert mask.kept == 1
    assert mask == {"a": torch.tensor([True, False])}
    assert mask != Mask({"a": torch.tensor([True, True])})
    assert mask != Mask({"b": torch.tensor([True, False])})


@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_a_mask_of_numbers_is_refused_wherever_masks_are_taken(kind: torch.dtype) -> None:
    net = nn.Linear(3, 2)
    mask = {"weight": torch.ones(2, 3, dtype=kind)}
    for call in (
        lambda: compressor.centroids(net, mask),
        lambda: compressor.centroids(net.state_dict(), mask),
        lambda: compressor.hold(net, torch.optim.SGD(net.parameters(), 0.1), mask),
        lambda: compressor.tied(net, torch.optim.SGD(net.parameters(), 0.1), mask, steps=3),
    ):
        with pytest.raises(InputError, match="not a bool tensor"):
            call()
